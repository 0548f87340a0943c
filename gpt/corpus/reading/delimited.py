"""CSV and TSV to records: a header, then a row a record, which quotation marks let go over several lines (RFC 4180)."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpt.corpus.reading.fields import Record, check_columns, read_record
from gpt.corpus.reading.streams import Fault, lines, open_stream
from gpt.corpus.reading.texts import BOM, decode
from gpt.errors import UserError
from gpt.params.corpus import Read

_FIELD_TOO_LONG = "field larger than field limit"
_NEVER_CLOSED = "unexpected end of data"


def read_csv(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield the rows of a table with commas; their number is that of the line that they begin in."""
    return _read_table(path, settings, limit, settings.delimiter or ",")


def read_tsv(path: Path, settings: Read, limit: int) -> Iterator[Record | Fault]:
    """Yield the rows of a table with tabs."""
    return _read_table(path, settings, limit, settings.delimiter or "\t")


def _read_table(path: Path, settings: Read, limit: int, delimiter: str) -> Iterator[Record | Fault]:
    csv.field_size_limit(
        limit
    )  # of the whole process, which reads with no other: a mark that nothing closes ends there
    quote, quoting = (settings.quote, csv.QUOTE_MINIMAL) if settings.quote else (None, csv.QUOTE_NONE)
    with open_stream(path) as stream:
        rows = csv.reader(
            _text_lines(stream, limit), delimiter=delimiter, quotechar=quote, quoting=quoting, strict=True
        )
        header: list[str] | None = None
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield _fault(error, line, limit)
                continue
            if row is None:
                return
            if header is None and row:
                header = row
                _check_header(path, line, header, settings)
            elif row and header is not None:
                yield _read_row(line, row, header, settings)


def _text_lines(stream: io.BufferedReader, limit: int) -> Iterator[str]:
    """Yield lines with their ends; bytes that are no UTF-8 as surrogates, for the row that has them to say so."""
    for number, line in enumerate(lines(stream, limit), start=1):
        if line is None:  # whether it ends in a quotation nobody knows
            raise Fault("too_long", f"line {number}: longer than prepare.max_document_bytes ({limit})")
        if number == 1:
            decode(line)  # tells UTF-16 and the like by its first bytes
            line = line.removeprefix(BOM)
        yield line.decode("utf-8", "surrogateescape")


def _check_header(path: Path, line: int, header: list[str], settings: Read) -> None:
    try:
        needed = check_columns(header, header.__contains__, settings)
    except Fault as fault:
        raise Fault(fault.reason, f"line {line}: {fault.message}") from None
    if twice := [name for name, count in Counter(header).items() if count > 1 and name in needed]:
        raise UserError(f"{path}: line {line}: has more than one column {twice[0]!r}; rename one of them")


def _read_row(line: int, row: list[str], header: list[str], settings: Read) -> Record | Fault:
    if len(row) != len(header):
        return Fault("invalid_csv", f"has {len(row)} fields, where the header has {len(header)}", line)
    for field in row:
        if not field.isascii():
            try:
                field.encode()
            except UnicodeEncodeError:
                return Fault("not_utf8", "not UTF-8 text", line)
    return read_record(line, dict(zip(header, row, strict=True)), settings)


def _fault(error: csv.Error, line: int, limit: int) -> Fault:
    """Return what is wrong with the row that begins in a line; raise what ends the file."""
    message = str(error)
    if message.startswith(_FIELD_TOO_LONG):
        raise Fault(
            "too_long",
            f"line {line}: a field is longer than prepare.max_document_bytes ({limit}); is a quotation mark not closed?",
        )
    if message == _NEVER_CLOSED:
        raise Fault("truncated", f"line {line}: a quotation mark in the row that begins here is never closed")
    return Fault(
        "invalid_csv", f"no row of CSV ({message}; prepare.read.quote and .delimiter say how it is written)", line
    )
