"""requirements.lock is what each Python and machine that README names resolves to, from wheels alone: `python -m tests.pythons`.

It asks the package index, so it is no test; those of tests/commands/test_packages.py need none. To admit another Python, change
gpt/commands/checks/interpreter.py and what its docstring names, `make lock`, run this, and `python -m tests.elsewhere` with it.
"""

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gpt.commands.checks.interpreter import GLIBC, MACHINES, NEWEST, OLDEST
from tests import ROOT

# Some packages need another one before 3.11.3, and Debian 12 has 3.11.2.
VERSIONS = ("3.11.2", *(f"{OLDEST[0]}.{minor}.3" for minor in range(OLDEST[1], NEWEST[1] + 1)))
EXTRAS = ("dev", "ray", "s3")
# Pure Python, for which no wheel was ever published: pip makes one without a compiler.
SOURCES = ("antlr4-python3-runtime", "rouge-score", "sqlitedict", "word2number")


def main() -> int:
    """Resolve for all of them; return 1 if one differs from the lock."""
    text, failed = (ROOT / "requirements.lock").read_text(encoding="utf-8"), 0
    pairs = list(itertools.product(VERSIONS, MACHINES))
    for version, machine in pairs:
        differing = describe(pins_of(text, version, machine), resolve(version, machine))
        print(f"CPython {version} on {machine}: {differing or 'as in the lock, all from wheels'}", flush=True)
        failed += bool(differing)
    print(f"{len(pairs) - failed} of {len(pairs)} as in the lock: {', '.join(VERSIONS)} on {' and '.join(MACHINES)}")
    return 1 if failed else 0


def pins_of(lock: str, version: str, machine: str) -> dict[str, str]:
    """Return the versions, by name, that a lock has for CPython `version` on Linux on `machine`."""
    here = {
        "python_version": version.rpartition(".")[0],
        "python_full_version": version,
        "implementation_name": "cpython",
        "implementation_version": version,
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
    }
    pins = [Requirement(line) for line in lock.splitlines() if line and line[0] not in " #"]
    wanted = [pin for pin in pins if not pin.marker or pin.marker.evaluate(here)]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in wanted}


def resolve(version: str, machine: str) -> dict[str, str] | str:
    """Resolve pyproject.toml anew for one Python and machine, in the lock's versions; return its pins, or why it cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "resolved.txt")
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            "pyproject.toml",
            "--quiet",
            "--no-header",
            "--no-annotate",
        ]
        command += ["--python-version", version, "--python-platform", f"{machine}-manylinux_{GLIBC[0]}_{GLIBC[1]}"]
        command += ["--constraint", "requirements.lock", "--output-file", str(output), "--only-binary", ":all:"]
        command += [word for extra in EXTRAS for word in ("--extra", extra)]
        command += [word for name in SOURCES for word in ("--no-binary", name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            return " ".join(done.stderr.split())
        return pins_of(output.read_text(encoding="utf-8"), version, machine)


def describe(locked: dict[str, str], resolved: dict[str, str] | str) -> str:
    """Say in what a resolution differs from the lock; nothing if it does not."""
    if isinstance(resolved, str):
        return resolved
    sides = (("only in the lock", locked, resolved), ("not in the lock", resolved, locked))
    parts = [
        f"{what}: {name}=={one[name]}"
        for what, one, other in sides
        for name in sorted(one)
        if other.get(name) != one[name]
    ]
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
