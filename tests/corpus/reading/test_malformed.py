"""Raw files that are not as they should be: each ends the run with its place, or is left out and counted."""

import bz2
import gzip
import json
import os
import random
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from gpt.corpus.reading import streams
from gpt.corpus.reading.presence import check_fields
from gpt.errors import UserError
from tests.corpus.raw import Raw, arrow, bad_strings, html, jsonl, parquet, settings, warc

GOOD = jsonl(*(f"good {number}" for number in range(5)))
NOISE = random.Random(0).randbytes(200_000).hex().encode()  # does not compress to nothing
LONG = b"".join(b'{"text": "%b"}\n' % NOISE[at : at + 4000] for at in range(0, len(NOISE), 4000))  # 100 lines
BZIP2 = bz2.compress(LONG)
GZIP, ZSTD = gzip.compress(LONG, mtime=0), zstandard.ZstdCompressor(write_checksum=True).compress(LONG)
PAGES = parquet(
    {"text": [str(number) * 50 for number in range(20_000)]},
    row_group_size=5_000,
    compression="none",
    use_dictionary=False,
    write_page_checksum=True,
)
ARROW, STREAM = (
    arrow({"text": [str(number) * 50 for number in range(20_000)]}, stream, 1000) for stream in (False, True)
)
WARC = warc(*[("conversion", "text/plain", b"text %d" % number) for number in range(5)])


class Bad(NamedTuple):
    name: str
    data: bytes
    reason: str
    message: str
    "Regular expression."
    read: int | None = 0
    "Documents that are read in spite of it; None: some, but not all."
    times: int = 1
    "Records that it costs."
    options: dict[str, Any] = {}  # noqa: RUF012


def flipped(data: bytes, at: int, width: int = 1) -> bytes:
    return data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + width]) + data[at + width :]


def line(data: bytes, reason: str, message: str, **more: Any) -> Bad:
    """A bad line among good ones, which are all read."""
    return Bad("a.jsonl", GOOD + data + b"\n" + GOOD, reason, rf"a\.jsonl: line 6: .*{message}", read=10, **more)


def row(text: Any, reason: str, message: str) -> Bad:
    return Bad("a.parquet", parquet({"text": text}), reason, message, read=len(text) - 1)


NOT_UTF8 = r"not UTF-8 text \(byte "
TABLE = {
    # text
    "binary": Bad("a.txt", bytes(range(1, 256)), "not_utf8", rf"a\.txt: {NOT_UTF8}127\); convert it"),
    "latin-1": Bad("a.md", "naïve".encode("latin-1"), "not_utf8", NOT_UTF8 + "2"),
    "UTF-16 with its mark": Bad("a.txt", "text".encode("utf-16"), "not_utf8", "it looks like UTF-16"),
    "UTF-16, other end first": Bad("a.txt", b"\xfe\xff\0t", "not_utf8", "it looks like UTF-16"),
    "UTF-16 without": Bad("a.txt", "text".encode("utf-16-le"), "nul_bytes", "no text; it looks like UTF-16: convert it"),
    "UTF-16 lines without": line('{"text": "a"}'.encode("utf-16-be"), "nul_bytes", "it looks like UTF-16: convert it to UTF-8"),
    "NUL": Bad("a.txt", b"text\0more", "nul_bytes", "holds NUL bytes, so it is no text; take it out"),
    "surrogates in UTF-8": Bad("a.txt", b"a \xed\xa0\x80", "not_utf8", NOT_UTF8 + "2"),
    "cut in a character": Bad("a.txt", "naï".encode()[:-1], "not_utf8", NOT_UTF8 + "2"),
    "gzip without its ending": Bad("a.txt", GZIP, "not_utf8", r"looks like gzip data, whose name should end in \.gz"),
    "zstd without its ending": Bad("a.jsonl", ZSTD[:64], "not_utf8", r"should end in \.zst"),
    "long text": Bad("a.txt", b"x" * 1_000_001, "too_long", "longer than prepare.max_document_bytes"),
    "long piece": Bad(
        "a.txt", b"one|" + b"x" * 1_000_001 + b"|two", "too_long", "document 2: longer than", 2, options={"separator": "|"}
    ),
    "piece not UTF-8": Bad("a.txt", b"one|\xff|two", "not_utf8", "document 2: not UTF-8", 2, options={"separator": "|"}),
    "piece with NUL": Bad("a.txt", b"one|\0|two", "nul_bytes", "document 2: holds NUL", 2, options={"separator": "|"}),
    "no match": Bad("a.txt", b"text", "no_match", "pattern matches nothing", options={"pattern": "<doc>"}),
    # JSONL
    "cut off": line(b'{"text": "half', "invalid_json", r"not valid JSON \(.*\); a line must hold one whole object; repair"),
    "no JSON": line(b"hello", "invalid_json", "not valid JSON"),
    "NaN": line(b'{"text": "x", "score": NaN}', "invalid_json", "not valid JSON"),
    "trailing comma": line(b'{"text": "x",}', "invalid_json", "not valid JSON"),
    "two objects in a line": line(b'{"text": "x"} {"text": "y"}', "invalid_json", "unexpected content"),
    "a huge number": line(b'{"text": ' + b"9" * 5000 + b"}", "invalid_json", "not valid JSON"),
    "too deep": line(b'{"text": ' + b"[" * 100_000, "invalid_json", "depth limit"),
    "too deep, with a surrogate": line(b'{"a": "\\ud800", "text": ' + b"[" * 100_000, "invalid_json", "not valid JSON"),
    "NaN with a surrogate": line(b'{"text": "\\ud800", "score": NaN}', "invalid_json", "not valid JSON"),
    "line not UTF-8": line(b'{"text": "\xff"}', "not_utf8", NOT_UTF8 + "10"),
    "raw NUL": line(b'{"text": "\0"}', "nul_bytes", "holds NUL bytes"),
    "escaped NUL": line(b'{"text": "\\u0000"}', "nul_bytes", "holds NUL bytes"),
    "raw control character": line(b'{"text": "\x01"}', "invalid_json", "control character"),
    "a list": line(b'["text"]', "not_an_object", "JSON, but a list and no object"),
    "a number": line(b"3", "not_an_object", "JSON, but a int and no object"),
    "other fields": line(b'{"body": "x"}', "missing_text", "has no text field 'text' but 'body'; set prepare.read.text_field"),
    "a number as text": line(b'{"text": 3}', "text_not_a_string", "its text is of type int; set prepare.read.text_field"),
    "a list as text": line(b'{"text": ["a", 3]}', "text_not_a_string", "its text is a list with a int"),
    "long line": line(b'{"text": "' + b"x" * 1_000_000 + b'"}', "too_long", r"longer than .* \(1000000\); raise"),
    "one object, many lines": Bad("a.json", json.dumps({"text": "x"}, indent=1).encode(), "invalid_json", "whole object", times=3),
    # a JSON array
    "array cut off": Bad("a.json", b'[{"text": "x"},\n{"text": "y', "truncated", "record 1: byte 27: the array breaks off", 1),
    "array not closed": Bad("a.json", b'[{"text": "x"}\n', "truncated", "no ] that ends it", 0),
    "array of lists": Bad("a.json", b'[["text"], {"text": "x"}]', "not_an_object", "record 1: JSON, but a list", 1),
    "no comma": Bad("a.json", b'[{"text": "x"} {"text": "y"}, {"text": "z"}]', "invalid_json", "record 1: .*byte 1.; repair", 1),
    "comma at the end": Bad("a.json", b'[{"text": "x"},\n]', "invalid_json", r"record 2: .*\(it begins at byte 1[67]\)", 1),
    "two commas": Bad("a.json", b'[{"text": "x"},,{"text": "y"}]', "invalid_json", "record 2: not valid JSON", 2),
    "wrong bracket": Bad("a.json", b'[{"text": "x"}, {"text": ["y"}]', "invalid_json", "byte 30: a } closes what it does not", 1),
    "text after it": Bad("a.json", b'[{"text": "x"}]\n[]', "invalid_json", "after record 1: byte 16: something follows", 1),
    "too deep an array": Bad("a.json", b'[{"text": "x"},' + b"[" * 2000, "invalid_json", "nested deeper than 1024", 1),
    "long element": Bad("a.json", b'[{"text": "' + b"x" * 1_000_000 + b'"}, {"text": "y"}]', "too_long", "1: longer than", 1),
    "element not UTF-8": Bad("a.json", b'[{"text": "\xff"}, {"text": "y"}]', "not_utf8", "record 1: not UTF-8 text", 1),
    "array, gzip cut off": Bad("a.json.gz", gzip.compress(b"[" + LONG.strip().replace(b"\n", b",") + b"]")[:50_000], "truncated",
                               r"after record \d+: the .gz", None),
    # CSV and TSV
    "row with a field less": Bad("a.csv", b"n,text\n1,x\n2\n3,y\n", "invalid_csv", "line 3: has 1 fields, where the header", 2),
    "row with a field more": Bad("a.tsv", b"n\ttext\n1\tx\ty\n", "invalid_csv", "line 2: has 3 fields, where the header has 2"),
    "text behind a quotation": Bad("a.csv", b'text\n"x" y\nz\n', "invalid_csv", "line 2: no row of CSV .*prepare.read.quote", 1),
    "quotation not closed": Bad("a.csv", b'text\nx\n"y\nz\n', "truncated", "line 3: a quotation mark.* never closed", 1),
    "endless quotation": Bad("a.csv", b'text\nx\n"' + b"y\n" * 600_000, "too_long", "line 3: a field is longer than", 1),
    "long row of CSV": Bad("a.csv", b"text\n" + b"x" * 1_000_001 + b"\n", "too_long", "line 2: longer than"),
    "row of CSV not UTF-8": Bad("a.csv", b"text\nx\n\xff\ny\n", "not_utf8", "line 3: not UTF-8 text", 2),
    "CSV in UTF-16": Bad("a.csv", "text\nx\n".encode("utf-16"), "not_utf8", "it looks like UTF-16"),
    "CSV with NUL": Bad("a.csv", b"text\nx\n\0\n", "nul_bytes", "line 3: holds NUL", 1),
    # Arrow
    "no Arrow": Bad("a.arrow", b"no such thing at all", "corrupt", "no Arrow file or stream"),
    "Feather 1": Bad("a.feather", b"FEA1 and more than that", "corrupt", "version 1; write it again with version 2"),
    "Arrow file cut off": Bad("a.arrow", ARROW[: len(ARROW) // 2], "truncated", "the Arrow file breaks off: its footer is missing"),
    "Arrow stream cut off": Bad("a.arrow", STREAM[: len(STREAM) // 2], "truncated", r"after row \d+: the Arrow stream", None),
    "Arrow damaged": Bad("a.arrow", flipped(ARROW, 8, 200), "corrupt", "no Arrow file or stream, or a damaged one"),
    "row of Arrow not UTF-8": Bad("a.arrow", arrow({"text": bad_strings()}), "not_utf8", "row 2: not UTF-8", 2),
    # HTML
    "HTML in no encoding": Bad("a.html", b"\x81\xff" * 9, "not_utf8", "page 1: neither UTF-8 nor another"),
    "long page of HTML": Bad("a.html", html("x" * 1_000_001), "too_long", "page 1: longer than"),
    # source code
    "code not UTF-8": Bad("a.c", "/* naïve */".encode("latin-1"), "not_utf8", NOT_UTF8 + "5"),
    # compressed
    "gzip cut off": Bad("a.jsonl.gz", GZIP[: len(GZIP) // 2], "truncated", r"after line \d+: the \.gz data breaks off", None),
    "gzip without its trailer": Bad("a.jsonl.gz", GZIP[:-4], "truncated", "after line 100", 100),
    "gzip of a wrong sum": Bad("a.jsonl.gz", flipped(GZIP, len(GZIP) - 8), "corrupt", "after line.*incorrect data check", None),
    "gzip of a wrong length": Bad("a.jsonl.gz", flipped(GZIP, len(GZIP) - 1), "corrupt", "incorrect length check", None),
    "gzip cut to its header": Bad("a.txt.gz", GZIP[:5], "truncated", "a.txt.gz: the .gz data breaks off; bring the whole"),
    "no gzip": Bad("a.jsonl.gz", GOOD, "corrupt", "incorrect header check"),
    "gzip, then rubbish": Bad("a.jsonl.gz", GZIP + b"rubbish", "corrupt", "incorrect header check", 100),
    "zstd cut off": Bad("a.jsonl.zst", ZSTD[: len(ZSTD) * 3 // 4], "truncated", r"after line \d+: the \.zst", None),
    "zstd of a wrong sum": Bad("a.jsonl.zst", flipped(ZSTD, len(ZSTD) - 1), "corrupt", "checksum", None),
    "zstd damaged": Bad("a.jsonl.zst", flipped(ZSTD, len(ZSTD) * 3 // 4, 64), "corrupt", "the .zst data is damaged", None),
    "no zstd": Bad("a.jsonl.zst", GOOD, "corrupt", "the .zst data is damaged"),
    "second part cut off": Bad("a.jsonl.gz", gzip.compress(GOOD) + GZIP[:5], "truncated", "after line 5", 5),
    "text cut off": Bad("a.txt.gz", GZIP[: len(GZIP) // 2], "truncated", "a.txt.gz: the .gz", options={"separator": ""}),
    "pieces cut off": Bad(
        "a.txt.gz", GZIP[:50_000], "truncated", r"after document \d+: the .gz", None, options={"separator": "\n"}
    ),
    "bzip2 cut off": Bad("a.jsonl.bz2", BZIP2[: len(BZIP2) // 2], "truncated", r"the \.bz2 data breaks off", 0),
    "bzip2 of a wrong sum": Bad("a.jsonl.bz2", flipped(BZIP2, len(BZIP2) - 3), "corrupt", "the .bz2 data is damaged", 0),
    "no bzip2": Bad("a.jsonl.bz2", GOOD, "corrupt", "the .bz2 data is damaged"),
    "bzip2 without its ending": Bad("a.txt", BZIP2[:40], "not_utf8", r"should end in \.bz2"),
    # Parquet
    "no Parquet": Bad("a.parquet", b"no such thing", "corrupt", "no Parquet file, whatever its name says"),
    "Parquet of 3 bytes": Bad("a.parquet", b"PAR", "corrupt", "no Parquet file"),
    "Parquet cut off": Bad("a.parquet", PAGES[: len(PAGES) // 2], "truncated", "its footer is missing; bring the whole"),
    "Parquet without its end": Bad("a.parquet", PAGES[:-8], "truncated", "its footer is missing"),
    "Parquet footer damaged": Bad("a.parquet", flipped(PAGES, len(PAGES) - 100, 40), "corrupt", "Parquet data is damaged"),
    "Parquet page damaged": Bad("a.parquet", flipped(PAGES, len(PAGES) * 3 // 4), "corrupt", r"after row \d+: the", None),
    "row not UTF-8": row(bad_strings(), "not_utf8", r"a\.parquet: row 2: not UTF-8"),
    "row with NUL": row(["one", "t\0wo"], "nul_bytes", "row 2: holds NUL"),
    "long row": row(["one", "x" * 1_000_001], "too_long", "row 2: longer than"),
    "row of bytes": Bad("a.parquet", parquet({"text": [b"x"]}), "text_not_a_string", "its text is of type bytes"),
    # WARC
    "no WARC": Bad("a.warc", b"hello\nworld\n", "corrupt", r"a\.warc: no WARC record follows"),
    "WARC cut off": Bad("a.wet", WARC[:-5], "truncated", "after record 4: record 5 breaks off", 4),
    "WARC cut in a header": Bad("a.wet", WARC[: WARC.rindex(b"Content-Length")], "corrupt", "record 5 has no Content-Length", 4),
    "WARC length too small": Bad("a.wet", WARC.replace(b"Length: 6", b"Length: 3", 1), "corrupt", "record 1: does not end", 5),
    "WARC, then rubbish": Bad("a.wet", WARC + b"x\r\ny\r\n", "corrupt", "record 5", 5),
    "WET not UTF-8": Bad("a.wet", warc(("conversion", "text/plain", b"\x81\xff" * 9)), "not_utf8", "record 1: neither"),
    "WET with NUL": Bad("a.wet", warc(("conversion", "text/plain", b"a\0b")), "nul_bytes", "record 1: holds NUL"),
    "long page": Bad("a.warc", warc(("response", "text/html", html("x" * 1_000_001))), "too_long", "record 1: longer than"),
    "WARC.gz cut off": Bad("a.warc.gz", gzip.compress(WARC)[:-90], "truncated", r"after record \d: the .gz", None),
}  # fmt: skip
TOTAL = {
    "a.json.gz": 100,
    "a.arrow": 20_000,
    "a.jsonl.gz": 100,
    "a.jsonl.zst": 100,
    "a.txt.gz": 100,
    "a.parquet": 20_000,
    "a.warc.gz": 5,
}


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path / "raw")


@pytest.mark.parametrize("bad", TABLE.values(), ids=TABLE)
def test_what_cannot_be_read_ends_the_run_with_its_place(raw: Raw, bad: Bad) -> None:
    raw.write(bad.name, bad.data)
    with pytest.raises(UserError) as caught:
        raw.read(settings(**bad.options))
    message = str(caught.value)
    assert re.search(bad.message, message)
    assert message.startswith(f"{raw.folder}/web/{bad.name}: ")
    assert "\n" not in message and len(message) < 600


@pytest.mark.parametrize("bad", TABLE.values(), ids=TABLE)
def test_what_cannot_be_read_is_left_out_and_counted(raw: Raw, bad: Bad, capfd: pytest.CaptureFixture[str]) -> None:
    raw.write(bad.name, bad.data)
    raw.write("next.jsonl", GOOD, source="web")
    documents, step = raw.read(settings(malformed="skip", **bad.options))
    names = [document.id.split("/")[1] for document in documents]
    found = names.count(bad.name)
    assert found == bad.read if bad.read is not None else 0 < found < TOTAL[bad.name]
    assert names.count("next.jsonl") == 5
    assert step.rejected == {bad.reason: bad.times}
    assert re.search(bad.message.split("; ")[0], f"{raw.folder}/{step.examples[bad.reason][0]}")
    assert capfd.readouterr() == ("", "")


def test_lone_surrogates_of_json_become_replacement_characters(raw: Raw) -> None:
    raw.write("a.jsonl", rb'{"text": "half \ud83d and whole \ud83d\ude00", "b": ["\uDC00"]}')
    ((document,), _) = raw.read(settings(metadata_fields=("b",)))
    assert document.text == "half \ufffd and whole 😀"
    assert document.metadata["metadata"] == {"b": ["\ufffd"]}


def test_the_last_of_two_equal_keys_counts(raw: Raw) -> None:
    raw.write("a.jsonl", b'{"text": "first", "text": "last"}')
    assert raw.texts(settings()) == ["last"]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst"])
def test_a_bomb_is_not_unpacked(raw: Raw, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(streams, "BOMB_BYTES", 1 << 20)
    monkeypatch.setattr(streams, "BOMB_RATIO", 100)
    compress = {".gz": zlib_best, ".bz2": lambda data: bz2.compress(data, 1), ".zst": zstandard.compress}[ending]
    raw.write("a.jsonl" + ending, compress(LONG + b" " * (40 << 20)))
    raw.write("b.jsonl" + ending, compress(jsonl("x" * 400) * 2000))  # repetitive and small
    with pytest.raises(UserError, match=r"after line \d+: \.\w+ data of over 100 times the file's size"):
        raw.read(settings())
    documents, step = raw.read(settings(malformed="skip"))
    assert step.rejected == {"bomb": 1}
    assert len(documents) > 2000


def zlib_best(data: bytes) -> bytes:
    return zlib.compress(data, 9, wbits=31)


@pytest.mark.parametrize("malformed", ["error", "skip"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"body": "x"}\n' * 3),
        ("a.jsonl", b'{"body": "x"}\nnot even JSON\n'),
        ("a.parquet", parquet({"body": ["x"]})),
        ("a.parquet", parquet({"text": [{"body": "x"}]})),
        ("a.arrow", arrow({"body": ["x"]})),
        ("a.json", b'[{"body": "x"}]'),
        ("a.csv", b"body\nx\n"),
    ],
)
def test_a_text_field_that_no_record_has_is_an_error(raw: Raw, name: str, data: bytes, malformed: str) -> None:
    raw.write(name, data)
    asked = settings(malformed=malformed, text_field="text.here")
    with pytest.raises(UserError, match=rf"{name}: .*'text\.here'.*set prepare\.read\.text_field"):
        check_fields(asked, raw.read(asked)[1].report()["fields"])


@pytest.mark.parametrize("malformed", ["error", "skip"])
@pytest.mark.parametrize(
    "name", ["a.pdf", "a.zip", "a", "a.tar.gz", "a.parquet.gz", "a.arrow.zst", ".gz", "a.jsonl.xz"]
)
def test_a_file_of_an_unknown_type_is_an_error(raw: Raw, name: str, malformed: str) -> None:
    raw.write(name, b"x")
    with pytest.raises(
        UserError, match=rf"{re.escape(name)}: (files of type .* known are \.txt, |Parquet is|Arrow is)"
    ):
        raw.read(settings(malformed=malformed))


def loop(path: Path) -> None:
    path.symlink_to(path)


MISSING = {
    "gone": (lambda path: None, "cannot be read .No such file.*: run `gpt fetch` again"),
    "a folder": (Path.mkdir, "is no file"),
    "a pipe": (os.mkfifo, "is no file"),
    "a loop of links": (loop, "cannot be read .Too many levels of symbolic links"),
}


@pytest.mark.parametrize("malformed", ["error", "skip"])
@pytest.mark.parametrize(
    "name", ["a.txt", "a.jsonl", "a.parquet", "a.warc", "a.txt.gz", "a.json", "a.csv", "a.arrow", "a.html", "a.py"]
)
@pytest.mark.parametrize(("make", "message"), MISSING.values(), ids=MISSING)
def test_what_is_no_readable_file_is_an_error(raw: Raw, make: Any, message: str, name: str, malformed: str) -> None:
    path = raw.enlist(name)
    path.parent.mkdir()
    make(path)
    with pytest.raises(UserError, match=re.escape(f"{path}: ") + message):
        raw.read(settings(malformed=malformed))


@pytest.mark.parametrize("malformed", ["error", "skip"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.warc"])
def test_a_disk_that_fails_is_no_malformed_record(raw: Raw, name: str, malformed: str) -> None:
    path = raw.enlist(name)
    path.parent.mkdir()
    path.symlink_to("/proc/self/mem")  # its first byte is an I/O error
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(Input/output error\); check the disk"):
        raw.read(settings(malformed=malformed))


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_without_permission_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        raw = Raw(Path(folder) / "raw")
        path = raw.write("a.txt", b"x")
        for opened in (Path(folder), *Path(folder).rglob("*")):
            opened.chmod(0o755)
        assert raw.texts(settings()) == ["x"]
        path.chmod(0)
        with (
            not_as_root(),
            pytest.raises(UserError, match=r"a\.txt: cannot be read \(Permission denied\); allow yourself"),
        ):
            raw.read(settings(malformed="skip"))


@pytest.mark.parametrize("content", [None, "", "{}}", '["a"]', '[{"name": "made-up"}]', "3"])
def test_a_damaged_listing_is_named(raw: Raw, content: str | None) -> None:
    raw.folder.mkdir()
    if content is not None:
        (raw.folder / "sources.json").write_text(content)
    with pytest.raises(UserError, match=r"sources\.json: .*run `gpt fetch`"):
        raw.read(settings())
