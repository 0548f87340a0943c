"""What git knows of a project's code: the commit, and the patch that makes the commit what lies in the folder."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gpt.errors import UserError

_SECONDS = 60
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
# Written by stages: what they say of the code is said by the code.
_GENERATED = (":(exclude)dvc.lock", ":(exclude)metrics", ":(exclude)plots")
# Where a file that git does not know yet still decides the result.
_CODE = ("gpt", "flows")


@dataclass(frozen=True)
class Code:
    """The commit ("none" outside a repository or before the first one) and the patch on top of it (empty: clean)."""

    commit: str
    patch: bytes

    @property
    def dirty(self) -> bool:
        return bool(self.patch)


def read_code(project: Path) -> Code:
    """Return what the project's code is: changed files, and new ones under gpt/ and flows/, are in the patch.

    Raises `UserError` if there is a repository that git refuses to read.
    """
    top = _git(project, "rev-parse", "--show-toplevel", missing_ok=True)
    if top is None:
        return Code("none", b"")
    commit = _git(project, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", missing_ok=True)
    base = commit.decode().strip() if commit else _EMPTY_TREE
    with tempfile.TemporaryDirectory() as folder:
        # New files are announced in a copy of the index: the user's own stays as it is.
        index = Path(folder, "index")
        own_index = project / _git_text(project, "rev-parse", "--git-path", "index")
        if own_index.exists():
            # With its time: git compares it with a file's to know which files it must read again.
            shutil.copy2(own_index, index)
        new = _git_bytes(project, "ls-files", "-z", "--others", "--exclude-standard", "--", *_CODE)
        if new:
            _git(
                project,
                "add",
                "--intent-to-add",
                "--pathspec-from-file=-",
                "--pathspec-file-nul",
                index=index,
                stdin=new,
            )
        flags = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
        patch = _git_bytes(project, "diff", *flags, base, "--", ".", *_GENERATED, index=index)
    return Code(base if commit else "none", patch)


def _git_text(project: Path, *arguments: str) -> str:
    return _git_bytes(project, *arguments).decode().strip()


def _git_bytes(project: Path, *arguments: str, index: Path | None = None) -> bytes:
    output = _git(project, *arguments, index=index)
    assert output is not None
    return output


def _git(
    project: Path, *arguments: str, index: Path | None = None, stdin: bytes = b"", missing_ok: bool = False
) -> bytes | None:
    """Run git in the project and return its output; with `missing_ok`, None where there is no repository or commit."""
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    if index:
        environment["GIT_INDEX_FILE"] = str(index)
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotePath=false", *arguments],
            cwd=project,
            env=environment,
            input=stdin,
            capture_output=True,
            timeout=_SECONDS,
        )
    except FileNotFoundError:
        if missing_ok:
            return None
        raise
    except subprocess.TimeoutExpired:
        raise UserError(f"{project}: git did not answer within {_SECONDS} s; see `git status`") from None
    if done.returncode == 0:
        return done.stdout
    reason = done.stderr.decode(errors="replace").strip()
    if missing_ok and (not reason or "not a git repository" in reason):
        return None
    raise UserError(f"{project}: git cannot say which code this is ({' '.join(reason.split())})")
