"""`make demo` and `make test` as somebody else has it: `python -m tests.elsewhere [PYTHON …]`.

A clone of the last commit in a folder `a b/ü`, a user who is not root and has an empty home, the oldest and the newest Python that
README names (or those given), and once all is installed and fetched, no way out: every proxy is a port that nobody listens on.
The user is made of a number alone; all that is written lies in one temporary folder, which is removed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gpt.commands.checks.interpreter import NEWEST, OLDEST
from gpt.processes.trees.running import run
from tests import ROOT
from tests.fresh_clone import clean_environment

FOLDER = "a b/ü"
USER = 65534  # nobody's
DEAD = "http://127.0.0.1:9"  # the port of `discard`
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
TRIED = "tried"


def main(arguments: Sequence[str]) -> int:
    """Try each interpreter; return 1 if something failed with one. The last line says with which it went well and how fast."""
    named = [f"python{'.'.join(map(str, version))}" for version in (OLDEST, NEWEST)]
    found = {name: find(name) for name in arguments or named}
    told, failed = [], False
    for name, python in found.items():
        if python is None:
            told.append(f"{name} is not here")
            continue
        outcome = attempt(python)
        failed |= not outcome.startswith(TRIED)
        told.append(f"{name} {outcome}")
    print("; ".join(told))
    return 1 if failed else 0


def find(name: str) -> Path | None:
    """Return an interpreter by its name or path, also among those of pyenv, the newest first; None if there is none that runs."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    kept = sorted(versions.glob(f"*/bin/{name}"), key=lambda path: list(map(int, re.findall(r"\d+", path.parts[-3]))))
    for candidate in (shutil.which(name), *reversed(kept)):
        code = "import os, sys; print(os.path.realpath(sys.executable))"  # what pyenv puts on the path is a script
        if candidate:
            asked = subprocess.run([candidate, "-I", "-c", code], capture_output=True, text=True, check=False)
            if asked.returncode == 0:
                return Path(asked.stdout.strip())
    return None


def attempt(python: Path) -> str:
    """Install, fetch, then run the demo and the tests without a network; return in words how it went."""
    with tempfile.TemporaryDirectory(prefix="elsewhere_") as name:
        top = Path(name)
        project, home = top / FOLDER, top / "home"
        home.mkdir()
        run(["git", "clone", "--quiet", str(ROOT), str(project)], cwd=top, on_line=print)
        python = within_reach(python, top)
        give_away(top)
        environment = {name: value for name, value in clean_environment().items() if name.lower() not in PROXIES}
        environment |= {"HOME": str(home), "USER": "nobody", "LOGNAME": "nobody", "TMPDIR": str(home)}
        environment.pop("GPT_CACHE", None)
        if os.geteuid() == 0:
            environment["PATH"] = "/usr/local/bin:/usr/bin:/bin"  # root's may name folders that only root may enter
        if python.is_relative_to(top):
            environment["LD_LIBRARY_PATH"] = str(python.parents[1] / "lib")  # pyenv's name the place of their own
        cut_off = environment | dict.fromkeys((*PROXIES, *map(str.upper, PROXIES)), DEAD)
        cut_off = {name: value for name, value in cut_off.items() if name.lower() != "no_proxy"}
        steps = {
            "installation": (("make", ".venv/.installed", f"PYTHON={python}"), environment),
            "sources": ((".venv/bin/gpt", "fetch", "sources"), environment),
            "benchmarks": ((".venv/bin/gpt", "fetch", "benchmarks"), environment),
            "demo": (("make", "demo"), cut_off),
            "tests": (("make", "test"), cut_off),
        }
        seconds = {}
        for step, (command, variables) in steps.items():
            started, lines = time.monotonic(), []
            print(f"--- {python}: {' '.join(command)}", flush=True)
            code = run([*as_user(), *command], cwd=project, env=variables, on_line=lines.append)
            print("\n".join(lines), flush=True)
            if code:
                return f"failed in {step} (exit code {code})"
            seconds[step] = time.monotonic() - started
    return f"{TRIED}: " + ", ".join(f"{step} {taken:.0f} s" for step, taken in seconds.items())


def as_user() -> list[str]:
    """Return what stands before a command so that nobody's user runs it; nothing if we are not root ourselves."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--"]


def within_reach(python: Path, folder: Path) -> Path:
    """Return the interpreter; if only root can reach it (under /root), one copied with its libraries into a folder."""
    prefix = python.parents[1]
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o005 == 0o005 for parent in (prefix, *prefix.parents)):
        return python
    shutil.copytree(prefix, folder / "python", symlinks=True)
    return folder / "python" / "bin" / python.name


def give_away(folder: Path) -> None:
    """Make everything in a folder nobody's; without this, git refuses the clone as somebody else's."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
