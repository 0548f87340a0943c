"""The first step of the data pipeline: the raw files of one rank as datatrove documents.

A record that cannot be read ends the run with its place, or is counted with a reason: none is dropped silently.
"""

import re
import stat
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from gpt.corpus.filtering.needs import needed_fields
from gpt.corpus.reading.elements import is_array
from gpt.corpus.reading.fields import MISSING_TEXT, Record
from gpt.corpus.reading.files import FORMATS, Piece, list_pieces
from gpt.corpus.reading.presence import TEXT, Presence, advice_on_text
from gpt.corpus.reading.streams import Fault, Span
from gpt.corpus.reading.texts import nul_bytes
from gpt.corpus.sampling.sample import Sample
from gpt.errors import UserError
from gpt.params.corpus import Prepare, Read
from gpt.sources.kinds import CODE

_ADVICE = {
    "not_utf8": "convert it to UTF-8",
    "nul_bytes": "take it out of the source",
    "too_long": "raise prepare.max_document_bytes if the memory is there",
    "truncated": "bring the whole file",
    "corrupt": "bring an undamaged copy",
    "metadata": "map other fields",
    "bomb": "take it out of the source",
    "no_match": "correct it",
}
_OF_TEXT = (MISSING_TEXT, "text_not_a_string")
"Reasons for which another field may be meant."
_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 200


class ReadSources(PipelineStep):
    """Yield the documents of a rank's pieces of files: text as it stands, but for what `remove` takes out.

    Their metadata has the `source`, the `metadata` to keep, the `fields` that filters look at, `is_code`, and the `steps` of the
    text. Counts what it reads by source, and what it leaves out by reason; raises `UserError` for what is wrong with the
    settings or with a file as a whole, and, with `malformed: error`, for a record that cannot be read.
    """

    type = "READER"
    name = "raw files"

    def __init__(self, settings: Prepare, raw: Path) -> None:
        """Raise `UserError` for a filter's class that cannot be loaded: it may say which fields it looks at."""
        super().__init__()
        self.settings = settings
        self.raw = raw
        self._needed = {source: needed_fields(settings.of(source).filters) for source in settings.by_source}
        self._needed_by_others = needed_fields(settings.filters)
        self.read = Counter[str]()
        "Documents by source."
        self.read_bytes = Counter[str]()
        "UTF-8 bytes of their text by source."
        self.empty = Counter[str]()
        "Records without text by source: no fault."
        self.rejected = Counter[str]()
        "Records, and rests of files, by reason."
        self.examples: dict[str, list[str]] = {}
        "The first places and messages by reason."
        self.presence = Presence()
        "Which fields the pieces of each source have."
        self.sample = Sample()
        "Places and messages of what is left out, at random."

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        if data:
            yield from data
        for piece in list_pieces(self.raw, self.settings)[rank::world_size]:
            yield from self._read_piece(piece)

    def report(self) -> dict[str, Any]:
        """Return the counts as plain JSON."""
        counts = {key: dict(getattr(self, key)) for key in ("read", "read_bytes", "empty", "rejected")}
        examples = {reason: list(examples) for reason, examples in self.examples.items()}
        return counts | {"examples": examples, "fields": self.presence.report()}

    def _read_piece(self, piece: Piece) -> Iterator[Document]:
        source, name, kind, span = piece
        settings = self.settings.of(source).read
        path = self.raw / source / name
        place, unit = str(path), FORMATS[kind][1]
        needed = self._needed.get(source, self._needed_by_others)
        lacking = set(needed)
        asked = settings.model_copy(
            update={"metadata_fields": tuple(dict.fromkeys((*settings.metadata_fields, *needed)))}
        )
        remove = re.compile(settings.remove) if settings.remove else None
        number, mapped, without_text = 0, 0, ""
        try:
            _check_file(path)
            if kind == "json" and not is_array(path):
                kind, unit = "jsonl", FORMATS["jsonl"][1]
            if span and unit == "line":  # those before are not counted, as they are not read
                place += f": from byte {span[0]:,} on"
            for item in _records(path, kind, span)(path, asked, self.settings.max_document_bytes):
                number = item.number
                if isinstance(item, Fault):
                    if item.reason == MISSING_TEXT:
                        without_text = without_text or f"{place}: {unit} {number}: {item.message}"
                    self._reject(source, f"{place}: {unit} {number}", item)
                    continue
                mapped += 1
                if lacking:
                    lacking.difference_update(item.values)
                try:
                    text = self._text(item, remove)
                    metadata = _metadata(item, settings)
                except Fault as fault:
                    self._reject(source, f"{place}: {unit} {number}", fault)
                    continue
                if not text or text.isspace():
                    self.empty[source] += 1
                    continue
                self.read[source] += 1
                self.read_bytes[source] += len(text) if text.isascii() else len(text.encode())
                about = {"source": source, "metadata": metadata, "fields": item.values, "is_code": kind == CODE}
                yield Document(text, f"{source}/{name}/{number}", metadata=about | {"steps": [("read", text)]})
        except Fault as fault:  # of the rest of the file
            if fault.reason == MISSING_TEXT:
                without_text = f"{place}: {fault.message}"
            self._reject(source, f"{place}: after {unit} {number}" if number else place, fault)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_repair(error)}") from None
        if mapped or without_text:
            self.presence.note(piece, TEXT, is_there=mapped > 0, example=without_text)
        for field in needed if mapped else ():
            self.presence.note(piece, field, is_there=field not in lacking)

    def _text(self, record: Record, remove: re.Pattern[str] | None) -> str:
        text = "" if record.text is None else record.text
        if not isinstance(text, str):
            raise Fault("text_not_a_string", f"its text is of type {type(text).__name__}")
        if "\0" in text:
            raise nul_bytes(text)
        # A row of a table: others were measured before they were read.
        if len(text) > (limit := self.settings.max_document_bytes) or 4 * len(text) > limit < len(text.encode()):
            raise Fault("too_long", f"longer than prepare.max_document_bytes ({self.settings.max_document_bytes})")
        return remove.sub("", text.replace("\r\n", "\n")) if remove else text

    def _reject(self, source: str, place: str, fault: Fault) -> None:
        """Count what cannot be read and keep the first examples and some others, or raise it as `UserError`."""
        if self.settings.malformed == "error":
            advice = _ADVICE.get(fault.reason, "repair it")
            if fault.reason in _OF_TEXT:
                advice = advice_on_text(self.settings, source)
            raise UserError(f"{place}: {fault.message}; {advice}, or leave such out with prepare.malformed: skip")
        self.rejected[fault.reason] += 1
        place = place.removeprefix(f"{self.raw}/")
        example = f"{place}: {fault.message}"[:_EXAMPLE_CHARACTERS]
        examples = self.examples.setdefault(fault.reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)
        self.sample.add(source, f"malformed: {fault.reason}", place, lambda: {"message": example})


def _records(path: Path, kind: str, span: Span | None) -> Any:
    """Return the reader of a file, or of a span of it: an array is read from its beginning, by the task of its first piece."""
    reader = FORMATS[kind][0]
    if span is None:
        return reader
    if kind == "json":
        return reader if span[0] == 0 else lambda *_: iter(())
    return partial(reader, span=span)


def _check_file(path: Path) -> None:
    """Raise `UserError` for a pipe or folder: opening one could wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path}: is no file, though sources.json lists it; run `gpt fetch` again")


def _repair(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "sources.json lists it: run `gpt fetch` again"
    return "allow yourself to read it" if isinstance(error, PermissionError) else "check the disk, or fetch it again"


def _metadata(record: Record, settings: Read) -> dict[str, Any]:
    values = {field: record.values.get(field) for field in settings.metadata_fields}
    if settings.id_field:
        values["id"] = record.values.get(settings.id_field)
    try:
        orjson.dumps(values)
    except TypeError as error:
        raise Fault("metadata", f"its metadata cannot be kept ({error})") from None
    return values
