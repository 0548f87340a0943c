"""Which sources have the fields that are asked for: noted for each piece that is read, judged when all of them were.

A field that some files lack is the data's affair, and counted; one that no record of a source has is a wrong setting, an error.
"""

import logging
from typing import Any

from gpt.corpus.reading.fields import text_fields
from gpt.corpus.reading.files import Piece
from gpt.errors import UserError
from gpt.params.corpus import Prepare
from gpt.sources.hidden import shown

TEXT = ""
"Stands for the field, or the fields of the template, that the text is made of."

_log = logging.getLogger(__name__)


class Presence:
    """Notes of one task; those of all are added up (`add_up`) and judged by `check_fields`."""

    def __init__(self) -> None:
        self._noted: dict[str, dict[str, dict[str, Any]]] = {}

    def note(self, piece: Piece, field: str, *, is_there: bool, example: str = "") -> None:
        """Note whether any record of a piece has a field; `example` says of the first that has not where it is."""
        entry = self._noted.setdefault(piece.source, {}).setdefault(field, {"with": 0, "files": {}, "examples": []})
        entry["with"] += is_there
        if not is_there or piece.span:  # of a file in pieces another may have it
            entry["files"][piece.name] = entry["files"].get(piece.name, 0) + is_there
        if example and not entry["examples"]:
            entry["examples"].append(example)

    def report(self) -> dict[str, Any]:
        """Return the notes as plain JSON."""
        return self._noted


def check_fields(settings: Prepare, noted: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, int]]:
    """Return by source and field in how many files no record has it, with a warning that names them.

    Raises one `UserError` for all fields that no record of a source has.
    """
    faults, without = list[str](), dict[str, dict[str, int]]()
    for source, fields in noted.items():
        for field, entry in fields.items():
            names = text_fields(settings.of(source).read) if field == TEXT else (field,)
            named = ", ".join(map(repr, names))
            if not entry["with"]:
                faults.append(_fault(settings, source, field, named, entry["examples"]))
            elif files := [name for name, pieces in entry["files"].items() if not pieces]:
                _log.warning("source %s: files of which no record has a field %s: %s", source, named, shown(files))
                without.setdefault(source, {})[", ".join(names)] = len(files)
    if faults:
        raise UserError("\n".join(faults))
    return without


def advice_on_text(settings: Prepare, source: str) -> str:
    """Return which setting says where the text of a source's records is."""
    key = "template" if settings.of(source).read.template else "text_field"
    return f"set prepare.read.{key}, or that of the source in prepare.by_source"


def _fault(settings: Prepare, source: str, field: str, named: str, examples: list[str]) -> str:
    if field == TEXT:
        seen = f" ({min(examples)})" if examples else ""  # the same for any number of tasks
        return f"source {source}: none of its records has a field {named}{seen}; {advice_on_text(settings, source)}"
    return (
        f"source {source}: none of its records has a field {named}, which prepare.filters looks at; correct the filter,"
        f" or give {source} others in prepare.by_source"
    )
