"""How to keep what a run made: git keeps what names it (dvc.lock, metrics, plots), a DVC remote the bytes."""

import configparser
import os
import subprocess
from pathlib import Path

DIFFERS = "differ from the last commit"
"Stands in the lines where a run made anything that the last commit has not."

# In data/ and models/ git ignores what DVC keeps; what it does not ignore, such as a new .gitignore, DVC has written for it.
_RESULTS = ("dvc.lock", "metrics", "plots", "data", "models")
# New files elsewhere are a person's own; here they decide the result.
_CODE = ("gpt", "flows")
_NAMED = 4  # files, before the rest is a number
_SECONDS = 60


def how_to_keep(project: Path) -> list[str]:
    """Say what of a finished run git has not got yet, why, and how to keep the run or go back; [] where there is no commit."""
    changed = _changed(project)
    if changed is None:
        return []
    results = [path for path in changed if path.split("/")[0] in _RESULTS]
    causes = [path for path in changed if path not in results]
    remote = _remote(project)
    push = [f"                 dvc push                         the bytes, to the remote {remote}"] if remote else []
    if not results:
        return ["To keep it       nothing to do: the last commit names these very results", *push]
    if causes:
        why = f"{_named(causes)} changed too"
    else:
        why = "its settings and code are the same, but it was not run, or on another kind of machine"
    kept = [name for name in _RESULTS if any(path.split("/")[0] == name for path in results)]
    files = " ".join([*kept, *causes]) if len(causes) <= _NAMED else "-A"
    return [
        f"git status       {_named(results)} {DIFFERS}:",
        f"                 {why}",
        f'To keep it       git add {files} && git commit -m "…"',
        *push,
        "To go back       git checkout . && dvc checkout   (docs/operations.md: if the cache has not got those results)",
    ]


def _changed(project: Path) -> list[str] | None:
    """Return the files that differ from the last commit, relative to the project; None if there is none or no git."""
    try:
        tracked = _git(project, "diff", "--name-only", "-z", "--relative", "--no-renames", "HEAD")
        new = _git(project, "ls-files", "-z", "--others", "--exclude-standard", "--", *_RESULTS, *_CODE)
    except (FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return sorted({*tracked, *new})


def _git(project: Path, *arguments: str) -> list[str]:
    """Return the paths that git prints, separated by zero bytes."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, check=True, timeout=_SECONDS)
    return [os.fsdecode(path) for path in done.stdout.split(b"\0") if path]  # names are bytes, of no particular locale


def _remote(project: Path) -> str | None:
    """Return the name of DVC's default remote, which this project or this copy of it names."""
    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read([project / ".dvc/config", project / ".dvc/config.local"], encoding="utf-8")
    except configparser.Error:
        return None  # DVC itself says what is wrong with it
    return config.get("core", "remote", fallback=None)


def _named(paths: list[str]) -> str:
    rest = len(paths) - _NAMED
    return ", ".join([*paths[:_NAMED], *([f"{rest} more"] if rest > 0 else [])])
