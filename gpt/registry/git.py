"""What git knows of a project's code: the commit, and the patch that makes the commit what lies in the folder."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gpt import git

_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


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

    Raises `UserError` if there is a repository that git is not here for, or refuses to read.
    """
    try:
        git.find_repository(project)
    except git.NoRepository:
        return Code("none", b"")
    commit = git.find_commit(project)
    with tempfile.TemporaryDirectory() as folder:
        # New files are announced in a copy of the index: the user's own stays as it is.
        index = Path(folder, "index")
        own_index = project / os.fsdecode(git.ask(project, "rev-parse", "--git-path", "index").removesuffix(b"\n"))
        if own_index.exists():
            # With its time: git compares it with a file's to know which files it must read again.
            shutil.copy2(own_index, index)
        new = git.ask(project, "ls-files", "-z", "--others", "--exclude-standard", "--", *git.CODE)
        if new:
            announce = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
            git.ask(project, *announce, index=index, stdin=new)
        flags = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
        left_out = [f":(exclude){path}" for path in git.GENERATED]
        patch = git.ask(project, "diff", *flags, commit or _EMPTY_TREE, "--", ".", *left_out, index=index)
    return Code(commit or "none", patch)
