import gzip
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpt.corpus.reading import streams
from gpt.corpus.reading.readers import ReadSources
from gpt.errors import UserError
from gpt.files import write_json
from gpt.params.corpus import Prepare
from tests.corpus.raw import COMPRESS, Raw, html, jsonl, parquet, sent, settings, warc

SENTENCE = "A page of the web has to say more than a few words before it counts as an article of its own. " * 5


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path / "raw")


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.text", "A.TXT"])
def test_a_text_file_is_a_document(raw: Raw, name: str, ending: str) -> None:
    raw.write(name + ending, COMPRESS[ending]("\ufeffnaïve\r\ntext\n".encode()))
    ((document,), step) = raw.read(settings())
    assert document.text == "naïve\r\ntext\n"
    assert document.id == f"web/{name}{ending}/1"
    assert (document.metadata["source"], document.metadata["metadata"]) == ("web", {})
    assert (step.read, step.read_bytes) == ({"web": 1}, {"web": len("naïve\r\ntext\n".encode())})


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json"])
def test_a_line_of_jsonl_is_a_document(raw: Raw, name: str, ending: str) -> None:
    data = (
        b"\xef\xbb\xbf" + jsonl("one", "two") + b"\r\n  \n" + b"\xef\xbb\xbf" + jsonl("three").replace(b"\n", b"\r\n")
    )
    raw.write(name + ending, COMPRESS[ending](data + b'{"text": "last, without a line end"}'))
    documents, _ = raw.read(settings())
    assert [document.text for document in documents] == ["one", "two", "three", "last, without a line end"]
    assert [document.id.rpartition("/")[2] for document in documents] == ["1", "2", "5", "6"]


def test_a_row_of_parquet_is_a_document(raw: Raw) -> None:
    raw.write("a.parquet", parquet({"n": range(200), "text": [f"row {n}" for n in range(200)]}, row_group_size=150))
    documents, _ = raw.read(settings())
    assert [document.text for document in documents] == [f"row {n}" for n in range(200)]
    assert [document.id for document in documents][::199] == ["web/a.parquet/1", "web/a.parquet/200"]


@pytest.mark.parametrize("compress", [False, True])
def test_pages_of_a_warc_file_are_documents(raw: Raw, compress: bool) -> None:
    data = warc(
        ("warcinfo", "application/warc-fields", b"software: test\r\n"),
        ("response", "text/html; charset=utf-8", html(SENTENCE)),
        ("response", "image/png", b"\x89PNG\0"),
        ("response", "text/html", html(SENTENCE + "Grüße aus Köln. ").decode().encode("latin-1")),
        compress=compress,
    )
    raw.write("a.warc" + ".gz" * compress, data)
    documents, step = raw.read(settings(metadata_fields=("url", "WARC-Type", "gone"), id_field="id"))
    assert [document.text.strip() for document in documents] == [SENTENCE.strip(), SENTENCE + "Grüße aus Köln."]
    values = documents[0].metadata["metadata"]
    assert values.pop("id").startswith("<urn:uuid:")
    assert values == {"url": "http://example.org/1", "WARC-Type": "response", "gone": None}
    assert not step.rejected


def test_records_of_a_wet_file_are_documents(raw: Raw) -> None:
    records = [("conversion", "text/plain", text.encode()) for text in ("short", "#include <stdio.h>\nint main() {}")]
    raw.write("a.warc.wet.gz", warc(*records, compress=True))
    assert raw.texts(settings()) == ["short", "#include <stdio.h>\nint main() {}"]


def test_a_gzip_or_zstd_file_of_several_parts_is_read_whole(raw: Raw) -> None:
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    raw.write("a.jsonl.gz", gzip.compress(jsonl("one")) + gzip.compress(jsonl("two")) + b"\0" * 512)
    raw.write("b.jsonl.zst", skippable + zstandard.compress(jsonl("three")) + zstandard.compress(jsonl("four")))
    assert raw.texts(settings()) == ["one", "two", "three", "four"]


def test_fields_are_reached_through_objects(raw: Raw) -> None:
    records: list[dict[str, Any]] = [
        {"doc": {"body": "first", "id": 7}, "meta": {"url": "u", "tags": ["x"]}, "flat.name": 1},
        {"doc": {"body": "second"}, "meta": None},
    ]
    raw.write("a.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
    raw.write(
        "b.parquet", parquet({key: [record.get(key) for record in records] for key in ("doc", "meta", "flat.name")})
    )
    fields = ("meta.url", "meta.tags", "flat.name", "nowhere.at.all")
    documents, _ = raw.read(settings(text_field="doc.body", id_field="doc.id", metadata_fields=fields))
    first = {"meta.url": "u", "meta.tags": ["x"], "flat.name": 1, "nowhere.at.all": None, "id": 7}
    second = dict.fromkeys(first)
    assert [document.text for document in documents] == ["first", "second"] * 2
    assert [document.metadata["metadata"] for document in documents] == [first, second] * 2


def test_values_that_json_does_not_have_are_kept_as_text(raw: Raw) -> None:
    from datetime import datetime

    columns = {"text": ["x"], "date": [datetime(2024, 1, 2)], "raw": [b"\xff"], "nan": [float("nan")]}
    raw.write("a.parquet", parquet(columns))
    ((document,), _) = raw.read(settings(metadata_fields=("date", "raw", "nan")))
    assert document.metadata["metadata"] == {"date": "2024-01-02T00:00:00", "raw": "\ufffd", "nan": None}


TEXT = st.text(st.sampled_from("ab\n\r|é "), max_size=40)


@given(TEXT, st.sampled_from(["|", "a", "ab", "aa", "aba", "\n", "\n\n", "\r\n", "é", "ab|"]), st.integers(1, 5))
@hypothesis_settings(deadline=None, max_examples=300)
def test_a_separator_splits_as_str_split_does_wherever_the_chunks_end(
    tmp_path_factory: pytest.TempPathFactory, text: str, separator: str, chunk: int
) -> None:
    raw = Raw(tmp_path_factory.mktemp("raw"))
    raw.write("a.txt", text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_CHUNK_BYTES", chunk)
        texts = raw.texts(settings(separator=separator))
    expected = text.replace("\r\n", "\n").split(separator.replace("\r\n", "\n"))
    assert texts == [piece for piece in expected if piece.strip()]


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 7), st.integers(1, 3))
@hypothesis_settings(deadline=None, max_examples=100)
def test_only_pieces_over_the_limit_are_left_out(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], chunk: int, width: int
) -> None:
    raw = Raw(tmp_path_factory.mktemp("raw"))
    raw.write("a.txt", ("|" * width).join("x" * length for length in lengths).encode())
    raw.write("b.jsonl", b"".join(b"1" * length + b"\n" for length in lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_CHUNK_BYTES", chunk)
        documents, step = raw.read(settings(malformed="skip", limit=20, separator="|" * width))
    assert [len(document.text) for document in documents] == [length for length in lengths if 0 < length <= 20]
    assert step.rejected["too_long"] == 2 * sum(length > 20 for length in lengths)
    assert step.rejected["not_an_object"] == sum(0 < length <= 20 for length in lengths)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"(?s)<doc>(.*?)</doc>", ["one\n", "two"]),
        (r"<doc>[^<]*</doc>", ["<doc>one\n</doc>", "<doc>two</doc>"]),
        (r"(?m)^(\w+)$", ["head", "between"]),
    ],
)
def test_matches_of_a_pattern_are_documents(raw: Raw, pattern: str, expected: list[str]) -> None:
    raw.write("a.txt", b"head\r\n<doc>one\r\n</doc>\r\nbetween\r\n<doc>two</doc><doc></doc>")
    texts = raw.texts(settings(pattern=pattern))
    assert [text for text in texts if text != "<doc></doc>"] == expected


def test_what_remove_matches_is_taken_out(raw: Raw) -> None:
    raw.write("a.txt", b"kept\r\n[page 3]\r\nkept too")
    raw.write("b.jsonl", jsonl("\n[page 4]\n", "x\n[page 5]\ny"))
    documents, step = raw.read(settings(remove=r"\n\[page \d+\]\n"))
    assert [document.text for document in documents] == ["keptkept too", "xy"]
    assert (step.empty, step.read_bytes) == ({"web": 1}, {"web": 14})


def test_records_without_text_are_counted_and_no_fault(raw: Raw) -> None:
    raw.write("a.jsonl", jsonl("", None, " \n\t", "text"))
    raw.write("b.parquet", parquet({"text": [None, "", "text"]}))
    raw.write("c.txt", b" \n")
    raw.write("d.txt", b"")
    raw.write("e.txt.gz", b"")
    raw.write("f.parquet", b"")
    raw.write("g.warc", b"")
    documents, step = raw.read(settings())
    assert [document.text for document in documents] == ["text", "text"]
    assert (step.empty, step.rejected) == ({"web": 6}, {})


def test_sources_can_be_read_differently(raw: Raw) -> None:
    raw.write("a.txt", b"one|two", source="split")
    raw.write("a.txt", b"one|two", source="whole")
    raw.write("a.data", b'{"body": "three"}\n', source="named")
    values = settings().model_dump()
    by_source = {"split": {"read": {"separator": "|"}}, "named": {"read": {"format": "jsonl", "text_field": "body"}}}
    assert raw.texts(settings().model_validate(values | {"by_source": by_source})) == [
        "one",
        "two",
        "one|two",
        "three",
    ]


@given(st.integers(1, 9), st.integers(0, 12))
@hypothesis_settings(deadline=None, max_examples=30)
def test_every_file_is_read_by_one_rank(tmp_path_factory: pytest.TempPathFactory, world_size: int, files: int) -> None:
    raw = Raw(tmp_path_factory.mktemp("raw"))
    write_json(raw.folder / "sources.json", [])
    for number in range(files):
        raw.write(f"{number:02}.jsonl", jsonl(f"file {number}"), source="a" if number % 3 else "b")
    alone = [document.id for document in raw.read(settings())[0]]
    dealt = [[document.id for document in raw.read(settings(), rank, world_size)[0]] for rank in range(world_size)]
    assert len(alone) == files
    assert [id_ for ids in itertools.zip_longest(*dealt) for id_ in ids if id_] == alone


def test_the_step_runs_in_datatroves_executor_and_writes_nothing_to_the_terminal(
    raw: Raw, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from datatrove.executor import LocalPipelineExecutor

    raw.write("a.jsonl", jsonl("one"))
    raw.write("b.warc", warc(("response", "text/html", b"<html"), ("conversion", "text/plain", b"two")))
    step = sent(ReadSources(settings(), raw.folder))
    seen = tmp_path / "seen"

    def note(data: Any, rank: int = 0, world_size: int = 1) -> Any:
        seen.write_text(" ".join(document.text for document in data))
        yield from ()

    from gpt.tasks.executors import quiet_datatrove

    quiet_datatrove()
    LocalPipelineExecutor([step, note], logging_dir=str(tmp_path / "logs")).run()
    assert seen.read_text() == "one two"
    assert capfd.readouterr() == ("", "")


def test_the_report_is_plain_json(raw: Raw) -> None:
    raw.write("a.jsonl", jsonl("one", "") + b"[]\n" * 5 + b"{" + b"x" * 400)
    _, step = raw.read(settings(malformed="skip"))
    report = json.loads(json.dumps(step.report()))
    examples = report.pop("examples")
    assert report.pop("fields")["web"][""]["with"] == 1
    rejected = {"not_an_object": 5, "invalid_json": 1}
    assert report == {"read": {"web": 1}, "read_bytes": {"web": 3}, "empty": {"web": 1}, "rejected": rejected}
    assert examples["not_an_object"][2] == "web/a.jsonl: line 5: JSON, but a list and no object"
    assert len(examples["not_an_object"]) == 3
    assert all(len(example) <= 200 for examples in examples.values() for example in examples)


def in_pieces(raw: Raw, settings: Prepare, size: int, world_size: int = 3) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the texts and reports of all ranks with files divided into pieces of so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt.corpus.reading.files._PIECE_BYTES", size)
        read = [raw.read(settings, rank, world_size) for rank in range(world_size)]
    return [document.text for documents, _ in read for document in documents], [step.report() for _, step in read]


LINE = st.one_of(
    st.text(max_size=30).filter(str.strip).map(lambda text: jsonl(text)),
    st.sampled_from([b"\n", b"{\r\n", b"9" * 70 + b"\n"]),
)


@given(st.lists(LINE, max_size=12), st.booleans(), st.integers(1, 200), st.integers(1, 4))
@hypothesis_settings(deadline=None)
def test_pieces_of_a_jsonl_file_have_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool, size: int, world_size: int
) -> None:
    raw = Raw(tmp_path_factory.mktemp("raw"))
    data = b"".join(lines)
    raw.write("a.jsonl", data if ended else data.removesuffix(b"\n"))
    skip = settings("skip", limit=60)
    documents, whole = raw.read(skip)
    texts, reports = in_pieces(raw, skip, size, world_size)
    assert Counter(texts) == Counter(document.text for document in documents)
    for key in ("read", "read_bytes", "empty", "rejected"):
        assert sum((Counter(report[key]) for report in reports), Counter()) == Counter(whole.report()[key])


@pytest.mark.parametrize("size", [1, 700, 5000, 10**6])
def test_pieces_of_a_parquet_file_have_each_row_once_by_its_number(raw: Raw, size: int) -> None:
    texts = [f"row {number} " * (number % 9) for number in range(1, 200)]
    raw.write("a.parquet", parquet({"text": [*texts, 3 * "x" * 400]}, row_group_size=7, compression="none"))
    found, reports = in_pieces(raw, settings("skip", limit=1000), size)
    assert sorted(found) == sorted(filter(None, texts))
    (examples,) = [report["examples"] for report in reports if report["rejected"]]
    assert examples["too_long"] == ["web/a.parquet: row 200: longer than prepare.max_document_bytes (1000)"]


def test_a_fault_in_a_piece_says_where(raw: Raw) -> None:
    raw.write("a.jsonl", jsonl("one", "two") + b"{\n")
    with pytest.raises(UserError, match=r"a\.jsonl: from byte 20 on: line 1: not valid JSON"):
        in_pieces(raw, settings(), 20, world_size=1)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt"])
def test_what_cannot_be_read_from_the_middle_is_one_piece(raw: Raw, name: str) -> None:
    raw.write(name, COMPRESS[Path(name).suffix](jsonl("one", "two")) if name.endswith("gz") else b"one, two")
    texts, _ = in_pieces(raw, settings(), 5)
    assert texts == (["one", "two"] if name.endswith("gz") else ["one, two"])


PEAK = """
import re, sys
from pathlib import Path
from tests.corpus.raw import Raw, settings
raw = Raw(Path(sys.argv[1]))
def peak():  # not getrusage: its maximum is also that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
options: dict = dict(malformed="skip", limit=4 << 20, separator="<end>")
from gpt.corpus.reading.readers import ReadSources
list(ReadSources(settings(**options), Path(sys.argv[2])).run())  # what is imported on the way
before = peak()
step = ReadSources(settings(**options), raw.folder)
count = sum(1 for _ in step.run())
print(count, step.rejected["too_long"], peak() - before)
"""


def repeated(block: bytes, times: int) -> bytes:
    engine = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join(engine.compress(block) for _ in range(times)) + engine.flush()


LINES = jsonl("a line of text " * 350) * 190  # a megabyte
LARGE = {
    "lines.jsonl.zst": (repeated(LINES, 200), 200 * 190, 0),
    "array.json.zst": (repeated(b"[" + LINES.strip().replace(b"\n", b",") + b"]", 1), 190, 0),
    "one line.jsonl.zst": (repeated(b"x" * (1 << 20), 200), 0, 1),
    "text.txt.zst": (repeated(LINES.replace(b"\n", b"<end>"), 200), 200 * 190, 0),
    "one piece.txt.zst": (repeated(b"x" * (1 << 20), 200), 0, 1),
    "row group.parquet": (
        parquet({"text": pa.array([str(n) * 300 for n in range(60_000)])}, compression="none", use_dictionary=False),
        60_000,
        0,
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_memory_does_not_grow_with_the_file(raw: Raw, tmp_path: Path, name: str) -> None:
    data, documents, too_long = LARGE[name]
    raw.write(name, data)
    small = Raw(tmp_path / "small")
    small.write(name, parquet({"text": ["x"]}) if name.endswith("parquet") else repeated(b'{"text": "x"}', 1))
    command = [sys.executable, "-c", PEAK, str(raw.folder), str(small.folder)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    read, left_out, growth = map(int, output.split())
    assert (read, left_out) == (documents, too_long)
    # What a slice of the most repetitive zstd data unpacks to, twice, and the limit; the file is 200 MB, the row group 90.
    assert growth < (40 << 20 if name.endswith("parquet") else 110 << 20)
