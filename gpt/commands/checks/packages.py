"""The interpreter and the installed packages, against requirements.lock."""

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import gpt
from gpt.commands.checks import interpreter
from gpt.commands.checks.finding import Finding

# What a build of torch for CUDA brings, in versions that it names itself; a build for the CPU wants none of them.
_OF_TORCH = ("cuda-", "nvidia-", "triton")
_SHOWN = 5
_MEND = "`make -B .venv/.installed` mends it"


def packages() -> Iterator[Finding]:
    version = f"{platform.python_version()} ({sys.prefix})"
    reason = interpreter.unfit()
    yield ("missing", "Python", f"{version}: {reason}") if reason else ("ok", "Python", version)
    if doubt := interpreter.untried():
        yield "note", "machine", doubt
    yield from _code()
    lock = Path("requirements.lock")
    if not lock.exists():
        yield "note", "packages", "no requirements.lock in this folder to compare with"
        return
    try:
        pins = locked(lock.read_text(encoding="utf-8", errors="replace"))
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        yield "missing", "packages", f"requirements.lock cannot be read: {reason}; `git checkout requirements.lock`"
        return
    wrong = [
        f"{pin.name} {_installed(pin.name) or 'absent'} (lock: {pin.specifier})" for pin in pins if not _is_met(pin)
    ]
    if not wrong:
        wrong = [f"{name} needs {needed} ({_installed(needed.name) or 'absent'})" for name, needed in unmet(pins)]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        yield "missing", "packages", f"not as in requirements.lock: {', '.join(wrong[:_SHOWN])}{more}; {_MEND}"
    else:
        yield "ok", "packages", f"all {len(pins)} as in requirements.lock"


def _code() -> Iterator[Finding]:
    """Tell an environment that was copied with a project, or is shared with another: its `gpt` is the other project's."""
    runs = Path(gpt.__file__).resolve().parents[1]
    if Path("gpt/__init__.py").exists() and runs != Path.cwd().resolve():
        yield "missing", "code", f"`gpt` runs {runs}/gpt, not the code in this folder; {_MEND}"


def locked(text: str) -> list[Requirement]:
    """Return what a lock file pins for this interpreter and machine, without what only some builds of torch want.

    Options of pip in it, and hashes, are left out. Raises `InvalidRequirement` for what is neither.
    """
    words = (re.split(r"\s[#\\]|--hash", line)[0].strip() for line in text.splitlines())
    pins = [Requirement(word) for word in words if word and word[0] not in "#-"]
    return [pin for pin in pins if (not pin.marker or pin.marker.evaluate()) and not pin.name.startswith(_OF_TORCH)]


def unmet(pins: list[Requirement]) -> Iterator[tuple[str, Requirement]]:
    """Yield each package among `pins`, and behind them, with what it says it needs and has not got on this interpreter.

    It finds the libraries that the installed build of torch wants, and what a lock made for another interpreter lacks.
    """
    from importlib import metadata

    waiting = [(canonicalize_name(pin.name), frozenset(pin.extras)) for pin in pins]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                continue
            if not _is_met(needed):
                yield name, needed
            elif (next_ := (canonicalize_name(needed.name), frozenset(needed.extras))) not in seen:
                seen.add(next_)
                waiting.append(next_)


def _is_met(requirement: Requirement) -> bool:
    """Whether a package is installed in a version that is asked for; a build's suffix, as in 2.13.0+cpu, is let pass."""
    version = _installed(requirement.name)
    return version is not None and requirement.specifier.contains(Version(version).public, prereleases=True)


def _installed(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
