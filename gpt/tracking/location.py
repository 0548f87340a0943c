"""Artifacts of a local store lie beside its database, also after the project's folder was moved or copied.

MLflow writes absolute places into the database. A project that was moved would read from the old folder, and write there
too: into the original, if it is a copy. So the places are put right whenever a local store is opened; MLflow's UI, and
whoever else reads the database, then finds the artifacts as well.
"""

import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from gpt.errors import UserError
from gpt.files import atomic_folder

ARTIFACTS = "mlartifacts"

_WAIT_SECONDS = 30.0
# Folders of artifacts that move with a database: ours, and that which MLflow gives to its experiment "Default".
_FOLDERS = rf"{ARTIFACTS}|mlruns/0"
# A place: the folder that the database was in, the folder of artifacts, and what is of one run or model in it.
_PLACE = {
    "experiments": re.compile(rf"(?:file://)?(/.*)/({_FOLDERS})"),
    "runs": re.compile(rf"(?:file://)?(/.*)/({_FOLDERS})/([0-9a-f]{{32}}/artifacts)"),
    "models": re.compile(rf"(?:file://)?(/.*)/({_FOLDERS})/(models/m-[0-9a-f]+/artifacts)"),
}
_COLUMNS = (
    ("experiments", "experiments", "artifact_location"),
    ("runs", "runs", "artifact_uri"),
    ("models", "logged_models", "artifact_location"),
    ("models", "model_versions", "source"),
    ("models", "model_versions", "storage_location"),
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Misplaced:
    """A place in the database that is not beside it."""

    kind: str
    "experiments, runs or models."
    table: str
    column: str
    row: int
    place: str
    "As the database has it, a path or a file URI."
    old: Path
    own: Path
    "The same beside the database."

    @property
    def is_only_there(self) -> bool:
        return os.path.exists(self.old) and not self.own.exists()  # noqa: PTH110 (False for what may not be looked at)


def artifacts_folder(database: Path) -> Path:
    """Return the folder of artifacts that belongs to a database; of one that is reached by a link, beside the database itself."""
    return database.resolve().parent / ARTIFACTS


def read_only(database: Path) -> closing[sqlite3.Connection]:
    """Open a database to look at it: it is not made where there is none. Raises `sqlite3.Error`."""
    return closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS))


def find_misplaced(database: Path) -> list[Misplaced]:
    """Return the places that a database names elsewhere than beside itself; nothing is changed."""
    try:
        with read_only(database) as store:
            return list(_misplaced(store, database.resolve().parent))
    except sqlite3.Error:
        return []  # not there yet, or no database: MLflow says what is wrong with it


def put_right(database: Path) -> None:
    """Let a database that was moved or copied name the artifacts beside it, for reading and writing.

    What a run has at the old place only, texts and pictures, is copied. A model there, which may be large, stays, and is
    read from there; nothing is ever written to it.
    """
    found = find_misplaced(database)
    changes = [one for one in found if one.kind != "models" or not one.is_only_there]
    if not changes or not all(os.access(path, os.W_OK) for path in (database, database.resolve().parent)):
        return  # sqlite writes a journal beside it
    for one in changes:
        if one.kind == "runs" and one.is_only_there:
            _copy(one.old, one.own)
    try:
        with closing(sqlite3.connect(database, timeout=_WAIT_SECONDS)) as store, store:
            for one in changes:
                own = one.own.as_uri() if one.place.startswith("file:") else str(one.own)
                update = f"update {one.table} set {one.column} = ? where rowid = ? and {one.column} = ?"
                store.execute(update, (own, one.row, one.place))
    except sqlite3.Error as error:
        raise UserError(
            f"{database}: was moved, and the places of its artifacts cannot be put right ({error});"
            " end what else uses it, or make it writable"
        ) from None
    # MLflow's own experiment lies wherever its database was made from; that it follows is no news.
    if folders := sorted({str(_project_of(one)) for one in changes if ARTIFACTS in one.old.parts}):
        logger.warning(
            "%s: was in %s before; its artifacts are looked for and written beside it now", database, ", ".join(folders)
        )


def beside(database: Path, place: Path) -> Path:
    """Return where an artifact lies: at the place that the database names or, if it cannot be put right, beside it."""
    if place.exists():
        return place
    for pattern in (_PLACE["runs"], _PLACE["models"]):
        if (match := pattern.match(str(place))) and (own := _own(database.resolve().parent, match)).exists():
            return own / place.relative_to(match[0])
    return place


def _misplaced(store: sqlite3.Connection, folder: Path) -> Iterator[Misplaced]:
    for kind, table, column in _COLUMNS:
        if not store.execute(f"select 1 from pragma_table_info('{table}') where name = '{column}'").fetchone():
            continue  # of another version of MLflow
        query = f"select rowid, {column} from {table} where substr({column}, 1, ?) != ?"
        own = f"{folder.as_uri()}/"
        for row, place in store.execute(query, (len(own), own)):
            match = _PLACE[kind].fullmatch(
                unquote(place, errors="surrogateescape") if place.startswith("file:") else place
            )
            if match and Path(match[1]) != folder and not _is_same(Path(match[1]), folder):
                yield Misplaced(kind, table, column, row, place, _old(match), _own(folder, match))


def _old(match: re.Match[str]) -> Path:
    return Path(match[1], *match.groups()[1:])


def _own(folder: Path, match: re.Match[str]) -> Path:
    return folder.joinpath(*match.groups()[1:])


def _project_of(one: Misplaced) -> Path:
    """Return the folder that the database was in."""
    match = _PLACE[one.kind].fullmatch(str(one.old))
    assert match, "it was found by this pattern"
    return Path(match[1])


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)  # reached by a link
    except OSError:
        return False


def _copy(old: Path, own: Path) -> None:
    try:
        with atomic_folder(own) as folder:
            shutil.copytree(old, folder, dirs_exist_ok=True)
    except OSError as error:
        logger.warning("%s: cannot be copied to %s (%s)", old, own, error.strerror or error)
