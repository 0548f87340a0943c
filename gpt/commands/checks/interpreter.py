"""Which interpreters and machines requirements.lock holds for.

`make` runs this file by itself, with nothing installed, before it installs anything; so it imports nothing of ours and an old
python3 must be able to read it. README, pyproject.toml and `make lock` name the same versions: tests/commands/test_packages.py.
"""

import platform
import sys
import sysconfig

OLDEST, NEWEST = (3, 11), (3, 13)
MACHINES = ("x86_64", "aarch64")
GLIBC = (2, 28)  # the newest that a wheel of the lock asks for


def unfit() -> str:
    """Return why the lock cannot be installed for this interpreter; nothing if it can."""
    name, version = platform.python_implementation(), platform.python_version()
    oldest, newest = _dotted(OLDEST), _dotted(NEWEST)
    if name != "CPython" or not OLDEST <= sys.version_info[:2] <= NEWEST:
        return f"CPython {oldest} to {newest} is needed, not {name} {version}: packages are locked for these, and tried with them"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return f"CPython {version} is a free-threaded build, which packages have no wheels for; take the usual one"
    if sys.maxsize < 2**32:
        return f"CPython {version} is a 32-bit build, which packages have no wheels for; take one of 64 bits"
    return ""


def untried() -> str:
    """Return what about this machine the lock was not resolved for; nothing if there is no such thing."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in MACHINES:
        return f"requirements.lock was resolved for Linux on {' or '.join(MACHINES)}, not for {system} on {machine}"
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC:
        found = f"{library} {version}".strip() or "another C library"
        return f"requirements.lock was resolved for glibc {_dotted(GLIBC)} or newer, not for {found}"
    return ""


def _dotted(version: "tuple[int, ...]") -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    reason, doubt = unfit(), untried()
    if reason:
        sys.exit(f"error: {sys.executable}: {reason}; name another with `make PYTHON=…`")
    if doubt:
        print(f"warning: {doubt}: what follows may fail, or lack packages")
