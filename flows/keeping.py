"""How to keep what a run made: git keeps what names it (dvc.lock, metrics, plots), a DVC remote the bytes."""

from pathlib import Path

from gpt import git
from gpt.errors import UserError

DIFFERS = "changed since the last commit"
"Stands in the lines where a run made anything that the last commit has not."

# In data/ and models/ git ignores what DVC keeps; what it does not ignore, such as a new .gitignore, DVC has written for it.
_RESULTS = (*git.GENERATED, "data", "models")
_NAMED = 4  # files, before the rest is a number


def how_to_keep(project: Path) -> list[str]:
    """Say what of a finished run git has not got yet, why, and how to keep the run or go back; [] where there is no commit."""
    try:
        changed = _changed(project)
    except UserError as error:  # all work is done: no reason to fail
        return [f"git status       {error}"]
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
        "To go back       git checkout . && dvc checkout   (dvc pull first, if this machine never had those results)",
    ]


def ui() -> str:
    """Return the command that shows runs and models: in a project that uses the installed package there is no Makefile."""
    return "make ui" if Path("Makefile").is_file() else "python -m infra.ui"


def _changed(project: Path) -> list[str] | None:
    """Return the files that differ from the last commit, relative to the project; None if there is none.

    Raises `UserError` if there is a repository that git is not here for, or refuses to read.
    """
    try:
        if git.find_commit(project) is None:
            return None
    except git.NoRepository:
        return None
    tracked = git.list_files(project, "diff", "--name-only", "-z", "--relative", "--no-renames", "HEAD")
    new = git.list_files(project, "ls-files", "-z", "--others", "--exclude-standard", "--", *_RESULTS, *git.CODE)
    return sorted({*tracked, *new})


def _remote(project: Path) -> str | None:
    """Return the name of DVC's default remote, which this project or this copy of it names."""
    return git.dvc_settings(project).get("core", "remote", fallback=None)


def _named(paths: list[str]) -> str:
    rest = len(paths) - _NAMED
    return ", ".join([*paths[:_NAMED], *([f"{rest} more"] if rest > 0 else [])])
