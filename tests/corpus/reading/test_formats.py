"""Tables, arrays, pages and code: what people have, as documents."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpt.corpus.reading import elements
from gpt.errors import UserError
from gpt.sources.kinds import ENDINGS
from tests.corpus.raw import COMPRESS, Raw, arrow, html, parquet, settings

TEXTS = ["plain, with a comma\tand a tab", 'a "quotation"', "two\nlines", "naïve {braces}", "  spaces  "]


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path / "raw")


def table(delimiter: str, rows: list[list[str]], **options: Any) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink, delimiter=delimiter, **options).writerows(rows)
    return sink.getvalue().encode()


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize(
    ("name", "delimiter", "options"),
    [("a.csv", ",", {}), ("a.tsv", "\t", {}), ("b.csv", ";", {"delimiter": ";"}), ("c.csv", ",", {"quote": "'"})],
)
def test_a_row_of_a_table_is_a_document(
    raw: Raw, name: str, delimiter: str, options: dict[str, Any], ending: str
) -> None:
    rows = [["id", "text"], *([str(number), text] for number, text in enumerate(TEXTS)), []]
    data = b"\xef\xbb\xbf" + table(delimiter, rows, quotechar=options.get("quote", '"'))
    raw.write(name + ending, COMPRESS[ending](data))
    documents, _ = raw.read(settings(id_field="id", **options))
    assert [document.text for document in documents] == TEXTS
    assert [document.metadata["metadata"]["id"] for document in documents] == ["0", "1", "2", "3", "4"]
    lines = [document.id.rpartition("/")[2] for document in documents]
    assert lines == ["2", "3", "4", "6", "7"], "where it begins in the file"


def test_a_table_without_quotations_has_its_quotation_marks(raw: Raw) -> None:
    raw.write("a.tsv", b'text\tn\n"Well," he said.\t1\n"\t2\n')
    with pytest.raises(UserError, match=r"a\.tsv: line 2: no row of CSV .*prepare\.read\.quote"):
        raw.read(settings())
    assert raw.texts(settings(quote="")) == ['"Well," he said.', '"']


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"\xef\xbb\xbftitle,body\nx,y\n"),
        ("a.parquet", parquet({"title": ["x"], "body": ["y"]})),
        ("a.arrow", arrow({"title": ["x"], "body": ["y"]})),
    ],
)
def test_a_wrong_column_is_named_with_the_columns_that_are_there(raw: Raw, name: str, data: bytes) -> None:
    raw.write(name, data)
    line = ": line 1" if name == "a.csv" else ""
    with pytest.raises(
        UserError, match=rf"{name}{line}: has no column 'text' but title, body; set prepare\.read\.text_field"
    ):
        raw.read(settings())
    with pytest.raises(UserError, match=r"no column 'author' but title, body; set prepare\.read\.template"):
        raw.read(settings(template="{title} by {author}"))


def test_a_column_that_is_there_twice_is_refused_if_it_is_read(raw: Raw) -> None:
    raw.write("a.csv", b"n,text,n\n1,x,2\n")
    assert raw.texts(settings()) == ["x"]
    with pytest.raises(UserError, match="line 1: has more than one column 'n'; rename one"):
        raw.read(settings(id_field="n"))


@pytest.mark.parametrize("name", ["a.arrow", "a.feather", "a.ipc"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_row_of_arrow_is_a_document(raw: Raw, name: str, stream: bool, compression: str | None) -> None:
    texts = [f"row {number}" for number in range(200)]
    columns = {"n": range(200), "body": [{"text": text, "by": "x"} for text in texts]}
    raw.write(name, arrow(columns, stream, 150, compression=compression))
    documents, _ = raw.read(settings(text_field="body.text", metadata_fields=("n",)))
    assert [document.text for document in documents] == texts
    assert [document.metadata["metadata"]["n"] for document in documents] == list(range(200))
    assert [document.id for document in documents][::199] == [f"web/{name}/1", f"web/{name}/200"]


def test_feather_and_words_by_number_are_read_as_pyarrow_writes_them(raw: Raw) -> None:
    words = pa.array(["one", "two", "one", None]).dictionary_encode()
    path = raw.write("a.feather", b"")
    pyarrow.feather.write_feather(pa.table({"text": words}), str(path))
    documents, step = raw.read(settings())
    assert [document.text for document in documents] == ["one", "two", "one"]
    assert step.empty == {"web": 1}


VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.fixed_dictionaries({"text": st.text(min_size=1, max_size=12)}, optional={"x": VALUE}), max_size=8),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.integers(1, 40),
)
@hypothesis_settings(deadline=None)
def test_an_array_is_its_objects_wherever_the_chunks_end(
    tmp_path_factory: pytest.TempPathFactory, objects: list[Any], indent: int | None, ascii_only: bool, size: int
) -> None:
    raw = Raw(tmp_path_factory.mktemp("raw"))
    data = json.dumps(objects, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    raw.write("a.json", b"\xef\xbb\xbf \n" + data + b"\r\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elements, "_CHUNK_BYTES", size)
        documents, step = raw.read(settings("skip", metadata_fields=("x",)))
    kept = [each for each in json.loads(data) if each["text"].strip() and "\0" not in each["text"]]
    expected = [
        (each["text"].encode("utf-16", "surrogatepass").decode("utf-16", "replace"), each.get("x")) for each in kept
    ]
    assert [(document.text, document.metadata["metadata"]["x"]) for document in documents] == expected
    assert set(step.rejected) <= {"nul_bytes"}


@pytest.mark.parametrize("limit", [30, 1 << 20])
def test_the_elements_of_an_array_say_where_they_begin(limit: int) -> None:
    data = b'  [ {"a": "]},[\\""},\n{"text": "%b"} ,3]' % (b"x" * 60)
    found = list(elements.elements(io.BufferedReader(io.BytesIO(data)), limit))  # pyright: ignore[reportArgumentType]
    long = data[21:-3].strip()
    assert found[0] == (4, b'{"a": "]},[\\""}') and data[4:5] == b"{"
    assert found[1][1] == (None if limit == 30 else long)
    assert found[2] == (len(data) - 2, b"3")


def test_a_large_array_is_read_once_though_it_is_listed_in_pieces(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt.corpus.reading.files._PIECE_BYTES", 100)
    texts = [f"text {number} " * 5 for number in range(30)]
    raw.write("a.json", json.dumps([{"text": text} for text in texts]).encode())
    raw.write("b.json", b"".join(json.dumps({"text": f"line of {text}"}).encode() + b"\n" for text in texts))
    read = [document.text for rank in range(3) for document in raw.read(settings(), rank, 3)[0]]
    assert sorted(read) == sorted([*texts, *(f"line of {text}" for text in texts)])


SENTENCE = "This is a long enough sentence about ships that sail the seven seas in every kind of weather. "


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.xhtml.gz"])
def test_a_page_of_html_is_the_text_that_it_shows(raw: Raw, name: str) -> None:
    compress = COMPRESS[".gz" if name.endswith("gz") else ""]
    raw.write(name, compress(html(SENTENCE + "Grüße aus Köln. ").decode().encode("latin-1")))
    raw.write("empty.html", b"<html><script>alert('x')</script></html>", source="none")
    documents, step = raw.read(settings())
    assert [document.text.strip() for document in documents] == [SENTENCE + "Grüße aus Köln."]
    assert step.empty == {"none": 1}


def test_code_is_known_by_its_ending_and_is_one_document_as_it_stands(raw: Raw) -> None:
    code = "\tif x:\r\n\x0c    y = 'naÃ¯ve'  \n\x1b[0m|"
    for name in ("a.py", "b.C", "c.rs", "d.js.gz", "e.R", "f.cpp"):
        raw.write(name, COMPRESS[Path(name).suffix if name.endswith("gz") else ""](code.encode()))
    documents, _ = raw.read(settings(separator="|"))
    assert {document.text for document in documents} == {code} and len(documents) == 6
    assert all(document.metadata["is_code"] for document in documents)


def test_every_ending_is_of_one_format() -> None:
    endings = [ending for endings in ENDINGS.values() for ending in endings]
    assert len(endings) == len(set(endings)) > 100


CHAT = [
    {"role": "user", "content": "Hi {role}"},
    {"role": "assistant", "content": "{{x}}"},
    {"role": "tool", "content": None},
]
TEMPLATES = [
    ({"template": "{title}\n\n{body.text}"}, {"title": "{body}", "body": {"text": "{title} {}"}}, "{body}\n\n{title} {}"),
    ({"template": "{{{q}}} {n} {x}"}, {"q": "{n}", "n": 3.5, "x": None}, "{{n}} 3.5 "),
    ({"template": "Q: {q}\nA: {a}"}, {"q": None, "a": ""}, None),
    ({"template": "{tags}!"}, {"tags": ["a", "b"]}, "a\nb!"),
    ({"join": " | "}, {"text": ["one", "{0}", "two"]}, "one | {0} | two"),
    ({}, {"text": []}, None),
    ({"text_field": "chat", "message": "{role}: {content}"}, {"chat": CHAT}, "user: Hi {role}\nassistant: {{x}}\ntool: "),
    ({"template": "# {id}\n{chat}", "message": "<{role}>{content}\n", "join": ""}, {"id": 7, "chat": CHAT[:2]},
     "# 7\n<user>Hi {role}\n<assistant>{{x}}\n"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize(("options", "record", "text"), TEMPLATES)
def test_a_text_of_several_fields_leaves_their_braces_alone(
    raw: Raw, name: str, options: dict[str, Any], record: dict[str, Any], text: str | None
) -> None:
    data = json.dumps(record).encode() if name == "a.jsonl" else pa_record(record)
    raw.write(name, data)
    documents, step = raw.read(settings(**options))
    assert [document.text for document in documents] == ([] if text is None else [text])
    assert step.empty == ({"web": 1} if text is None else {})


def pa_record(record: dict[str, Any]) -> bytes:
    return parquet({key: pa.array([value]) for key, value in record.items()})


@pytest.mark.parametrize(
    ("options", "record", "message"),
    [
        ({"template": "{q} {a}"}, {"q": "x"}, "line 1: has no text field 'a' but 'q'; set prepare.read"),
        ({"template": "{q}"}, {"q": {"x": 1}}, "'q' is of type dict"),
        ({"template": "{q}"}, {"q": True}, "'q' is of type bool"),
        ({}, {"text": CHAT}, "its text is a list with a dict; prepare.read.message says what becomes of each"),
        ({"message": "{from}"}, {"text": CHAT}, "has no message field 'from' but 'role', 'content'"),
        ({"message": "{content}"}, {"text": [{"content": [{"x": 1}]}]}, "its text is a list with a dict"),
    ],
)
def test_a_record_that_a_template_does_not_fit_is_told(
    raw: Raw, options: dict[str, Any], record: dict[str, Any], message: str
) -> None:
    raw.write("a.jsonl", json.dumps(record).encode() + b"\n" + b'{"text": "x", "q": "x", "a": "y"}')
    with pytest.raises(UserError) as caught:
        raw.read(settings(**options))
    assert message in str(caught.value)


PEAK = """
import sys, resource
from tests.corpus.raw import Raw, settings
from pathlib import Path
from gpt.corpus.reading.readers import ReadSources
import pyarrow, pyarrow.parquet, orjson
def peak():
    import re
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
step = ReadSources(settings("skip", limit=1 << 20), Path(sys.argv[1]))
pyarrow.ipc.open_stream(pyarrow.BufferReader(open(sys.argv[2], "rb").read())).read_all()
before = peak()
print(sum(1 for _ in step.run()), peak() - before)
"""


@pytest.mark.parametrize("name", ["one line.json", "rows.csv", "file.arrow", "stream.arrow"])
def test_memory_does_not_grow_with_a_file_of_100_megabytes(raw: Raw, tmp_path: Path, name: str) -> None:
    text, count = "a line of text, " * 3200, 2000  # 51 KB each
    match name.partition(".")[2]:
        case "json":
            data = b"[" + b",".join([json.dumps({"text": text}).encode()] * count) + b"]"
        case "csv":
            data = b"text\n" + (b'"' + text.encode() + b'"\n') * count
        case _:
            data = arrow({"text": pa.array([text] * count)}, name.startswith("stream"), 50)
    raw.write(name, data)
    (tmp_path / "small").write_bytes(arrow({"text": ["x"]}, stream=True))
    command = [sys.executable, "-c", PEAK, str(raw.folder), str(tmp_path / "small")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    read, growth = map(int, output.split())
    assert read == count
    assert growth < 25 << 20, "of 102 MB; an Arrow batch has 2.6"
