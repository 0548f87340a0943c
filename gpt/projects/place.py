"""Where a project is built: out of sight, so that `gpt init` leaves a whole project or none, whenever it is killed.

A new folder is built beside its place and renamed into it. One that is there already, with the text in it perhaps, is filled from
a hidden folder in it, with params.yaml last, by which it is a project. What was killed between is finished by the next `gpt init`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt.errors import UserError
from gpt.files import atomic_folder, fsync_path
from gpt.params.project import PARAMS_FILE

_WHOLE = ".gpt-init"
"The hidden folder, once all is in it."


@contextmanager
def build_in(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to build a project in; move what it holds into `folder` on success, leave that as it was on failure."""
    if os.path.lexists(folder):
        with atomic_folder(folder / _WHOLE) as partial:
            yield partial
        finish(folder)
        return
    with atomic_folder(folder) as partial:
        yield partial
        if os.path.lexists(folder):
            raise UserError(f"{folder}: has come into being meanwhile; name a new folder")


def finish(folder: Path) -> bool:
    """Move a whole project from the hidden folder into its place; return whether there was one."""
    whole = folder / _WHOLE
    if not whole.is_dir():
        return False
    names = sorted((path.name for path in whole.iterdir()), key=lambda name: (name == PARAMS_FILE.name, name))
    for name in names:
        if os.path.lexists(folder / name):
            raise UserError(f"{folder / name}: has come into being meanwhile; move it away, then run the command again")
        (whole / name).replace(folder / name)
        fsync_path(folder)
    whole.rmdir()
    return True


def is_hidden_folder(name: str) -> bool:
    """Whether a name in a project's folder is of what `gpt init` builds there."""
    return name == _WHOLE or name.startswith(f".{_WHOLE}.")
