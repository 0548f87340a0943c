"""Files that systems and tools leave in folders and archives, and nobody means when they name a folder of texts."""

import fnmatch
from collections.abc import Iterable
from pathlib import PurePath

# Beside names that begin with a dot, as of .DS_Store, ._a.txt, .git and .ipynb_checkpoints: what macOS and Windows leave.
_NAMES = ("__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r", "$RECYCLE.BIN", "System Volume Information")
_HIDDEN = {name.lower() for name in _NAMES}
_SHOWN = 3


def is_hidden(path: PurePath) -> bool:
    """Tell whether a path, from the folder that was named on, is of such a file or leads through such a folder."""
    return any(part.startswith(".") or part.lower() in _HIDDEN for part in path.parts if part != "..")


def matches(name: str, pattern: str) -> bool:
    """Tell whether a pattern means a file of an archive: hidden ones only if it names them, as */.github/* does."""
    return fnmatch.fnmatchcase(name, pattern) and (not is_hidden(PurePath(name)) or is_hidden(PurePath(pattern)))


def split_pattern(address: str) -> tuple[str, str]:
    """Return the folder in which a pattern begins, and the pattern: `s3://b/texts/*.txt` is `s3://b/texts/` and `*.txt`.

    A folder by itself, an address without `*`, has the pattern `*`.
    """
    if "*" not in address:
        return address, "*"
    folder = "".join(address[: address.index("*")].rpartition("/")[:2])
    return folder, address.removeprefix(folder)


def shown(names: Iterable[str]) -> str:
    """Return how many names there are, and the first of them: `4 (.DS_Store, .git, a/.DS_Store, …)`."""
    names = sorted(names)
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
