"""The interpreter and the installed packages, against requirements.lock."""

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from gpt.commands.checks.finding import Finding


def packages() -> Iterator[Finding]:
    version = platform.python_version()
    yield ("ok" if sys.version_info >= (3, 11) else "missing"), "Python", f"{version} ({sys.prefix})"
    lock = Path("requirements.lock")
    if not lock.exists():
        yield "note", "packages", "no requirements.lock in this folder to compare with"
        return
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    wrong = [f"{name} {_installed(name) or 'absent'} (lock: {pin})" for name, pin in pins if _installed(name) != pin]
    if wrong:
        yield (
            "missing",
            "packages",
            f"{len(wrong)} differ from requirements.lock: {', '.join(wrong[:5])}; pip install -r requirements.lock",
        )
    else:
        yield "ok", "packages", f"all {len(pins)} as in requirements.lock"


def _installed(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None
