import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.data.corpus import SPLITS, choose_split, prepare, read_documents
from gpt.errors import UserError
from gpt.files import sha256_tree, write_json
from gpt.params import Prepare

SETTINGS = Prepare(text_field="text", validation_fraction=0.3, test_fraction=0.3, split_seed=0)
MANY = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(60)).encode()


class Corpus:
    """A data/raw with one source and what `prepare` makes of it."""

    def __init__(self, root: Path) -> None:
        self.raw, self.output, self.metrics = root / "raw", root / "documents", root / "metrics" / "prepare.json"

    def write(self, files: dict[str, bytes], source: str = "made-up") -> None:
        for name, data in files.items():
            path = self.raw / source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        listing = [
            {"name": folder.name, "files": {path.relative_to(folder).as_posix(): {} for path in folder.rglob("*.*")}}
            for folder in self.raw.iterdir()
            if folder.is_dir()
        ]
        write_json(self.raw / "sources.json", listing)

    def prepare(self, settings: Prepare = SETTINGS) -> dict[str, Any]:
        return prepare(settings, self.raw, self.output, self.metrics)

    def splits(self) -> dict[str, list[str]]:
        return {split: list(read_documents(self.output / f"{split}.jsonl")) for split in SPLITS}

    def texts(self) -> list[str]:
        return [text for texts in self.splits().values() for text in texts]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def parquet(columns: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # a NUL is refused


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_text_jsonl_and_parquet_become_documents(corpus: Corpus) -> None:
    rows = [f"row {number}" for number in range(30)]
    corpus.write(
        {
            "a.txt": b"whole file\nof two lines\n",
            "deep/b.md": "# naïve".encode(),
            "c.jsonl": jsonl("line 1", "line 2") + b"\n  \n" + jsonl("line 3"),
            "d.parquet": parquet({"id": list(range(30)), "text": rows}),
        }
    )
    counts = corpus.prepare()
    expected = ["whole file\nof two lines\n", "# naïve", "line 1", "line 2", "line 3", *rows]
    assert Counter(corpus.texts()) == Counter(expected)
    assert counts["read"] == {"documents": 35, "by_source": {"made-up": 35}}


def test_a_document_knows_its_source_and_is_known_by_its_hash(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY}, source="first")
    corpus.write({"a.jsonl": jsonl("of the second")}, source="documents")
    counts = corpus.prepare()
    records = [
        json.loads(line) for split in SPLITS for line in (corpus.output / f"{split}.jsonl").read_text().splitlines()
    ]
    assert {record["source"] for record in records if record["text"] == "of the second"} == {"documents"}
    assert len({record["id"] for record in records}) == 61
    assert counts["read"] == {"documents": 61, "by_source": {"first": 60, "documents": 1}}


@given(st.lists(st.text(TEXT, max_size=5), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_what_is_read_is_kept_once_or_counted_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    corpus = Corpus(tmp_path_factory.mktemp("corpus"))
    corpus.write({"a.jsonl": MANY + jsonl(*texts)})
    counts = corpus.prepare()
    clean = [unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")) for text in texts]
    filled = [text for text in clean if text.strip()]
    splits = corpus.splits()
    assert sorted(corpus.texts()) == sorted({*filled, *(f"document {number}" for number in range(60))})
    assert counts["read"]["documents"] == 60 + len(texts)
    assert counts["dropped"] == {"empty": len(clean) - len(filled), "exact_duplicate": len(filled) - len(set(filled))}
    for split, kept in splits.items():
        assert counts[split] == {
            "documents": len(kept),
            "characters": sum(map(len, kept)),
            "bytes": sum(len(text.encode()) for text in kept),
        }
    assert json.loads(corpus.metrics.read_text()) == counts


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("cafe\u0301".encode(), "caf\u00e9"),
        ("\u1100\u1161".encode(), "\uac00"),
        (b"\xef\xbb\xbfmark", "mark"),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        ("line\u2028separator\x85".encode(), "line\u2028separator\x85"),
        ("😀 ﬁ".encode(), "😀 ﬁ"),  # NFC keeps ligatures apart from their letters, NFKC would not
    ],
)
def test_text_comes_out_as_composed_unicode(corpus: Corpus, raw: bytes, clean: str) -> None:
    corpus.write({"a.jsonl": MANY, "b.txt": raw})
    corpus.prepare()
    assert clean in corpus.texts()


def test_composed_and_decomposed_are_one_document(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY, "b.txt": "cafe\u0301\r\n".encode(), "c.txt": "caf\u00e9\n".encode()})
    assert corpus.prepare()["dropped"]["exact_duplicate"] == 1


def test_lone_surrogates_of_json_become_replacement_characters(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY + b'{"text": "half \\ud83d and whole \\ud83d\\ude00"}\n'})
    corpus.prepare()
    assert "half \ufffd and whole 😀" in corpus.texts()


@given(
    st.lists(st.text(TEXT, min_size=1, max_size=20), max_size=30),
    st.lists(st.text(TEXT, min_size=1, max_size=20), max_size=30),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=25)
def test_adding_documents_moves_none_between_splits(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], more: list[str], seed: int
) -> None:
    settings = SETTINGS.model_copy(update={"split_seed": seed})
    alone, together = Corpus(tmp_path_factory.mktemp("alone")), Corpus(tmp_path_factory.mktemp("together"))
    alone.write({"a.jsonl": MANY + jsonl(*first)})
    alone.prepare(settings)
    together.write({"a.jsonl": jsonl(*more, *reversed(first)) + MANY}, source="another")
    together.prepare(settings)
    for split, texts in alone.splits().items():
        assert set(texts) <= set(together.splits()[split])


def test_the_split_is_a_share_of_the_documents() -> None:
    counts = Counter(choose_split(number.to_bytes(32, "big"), SETTINGS) for number in range(10_000))
    assert abs(counts["validation"] - 3000) < 250
    assert abs(counts["test"] - 3000) < 250


def test_growing_the_test_split_takes_nothing_out_of_it() -> None:
    larger = SETTINGS.model_copy(update={"test_fraction": 0.4})
    for number in range(1000):
        digest = number.to_bytes(32, "big")
        if choose_split(digest, SETTINGS) == "test":
            assert choose_split(digest, larger) == "test"


def test_another_seed_gives_other_splits() -> None:
    other = SETTINGS.model_copy(update={"split_seed": 1})
    digests = [number.to_bytes(32, "big") for number in range(100)]
    assert [choose_split(d, SETTINGS) for d in digests] != [choose_split(d, other) for d in digests]


def test_preparing_twice_gives_the_same_bytes(corpus: Corpus) -> None:
    corpus.write({"b.jsonl": MANY, "a.txt": b"first by name", "c.parquet": parquet({"text": ["x", None, "y"]})})
    corpus.prepare()
    first = sha256_tree(corpus.output), corpus.metrics.read_bytes()
    corpus.prepare()
    assert (sha256_tree(corpus.output), corpus.metrics.read_bytes()) == first


def test_an_empty_cell_of_a_column_is_an_empty_document(corpus: Corpus) -> None:
    corpus.write({"a.jsonl": MANY, "b.parquet": parquet({"text": ["x", None, ""]})})
    assert corpus.prepare()["dropped"]["empty"] == 2


def damaged(data: bytes) -> bytes:
    """Return a Parquet file whose footer is whole and whose pages are not."""
    return data[:4] + b"\xff" * (len(data) // 3) + data[4 + len(data) // 3 :]


def not_utf8() -> bytes:
    column = pa.array([b"good", b"\xff\xfe bad"], pa.binary()).view(pa.string())
    return parquet({"text": column})


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "binary": ("bad.txt", bytes(range(256)), "not UTF-8 text (byte 128)"),
    "NUL": ("bad.txt", b"text\0more", "NUL bytes"),
    "UTF-16": ("bad.txt", "text".encode("utf-16"), "not UTF-8"),
    "latin-1": ("bad.md", "naïve".encode("latin-1"), "not UTF-8 text (byte 2)"),
    "JSONL not UTF-8": ("bad.jsonl", MANY + b'{"text": "\xff"}\n', "line 61 not UTF-8"),
    "JSONL with NUL": ("bad.jsonl", MANY + b'{"text": "\0"}\n', "line 61: not valid JSON"),
    "JSONL with an escaped NUL": ("bad.jsonl", MANY + b'{"text": "\\u0000"}\n', "line 61: holds NUL"),
    "JSONL cut off": ("bad.jsonl", MANY + b'{"text": "half', "line 61: not valid JSON"),
    "JSONL of a huge number": ("bad.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1: not valid JSON"),
    "JSONL without field": ("bad.jsonl", MANY + b"\n" + b'{"body": "x"}\n', "line 62: has no text field 'text'"),
    "JSONL of a number": ("bad.jsonl", b'{"text": 3}\n', "line 1: has no text field 'text'"),
    "JSONL of lists": ("bad.jsonl", b'["text"]\n', "line 1: has no text field 'text'"),
    "no Parquet": ("bad.parquet", b"no such thing", "not a readable Parquet file"),
    "Parquet cut off": ("bad.parquet", parquet({"text": ["a"] * 99})[:-8], "not a readable Parquet file"),
    "Parquet damaged": (
        "bad.parquet",
        damaged(parquet({"text": [str(n) for n in range(999)]})),
        "not a readable Parquet",
    ),
    "Parquet not UTF-8": ("bad.parquet", not_utf8(), "not a readable Parquet file"),
    "Parquet without column": ("bad.parquet", parquet({"body": ["a"]}), "has no column 'text' but body"),
    "Parquet of numbers": ("bad.parquet", parquet({"text": [1, 2]}), "column 'text' holds int"),
    "unknown type": ("bad.pdf", b"%PDF-1.7", "files of type '.pdf' cannot be read"),
}


@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_is_no_text_is_named_and_changes_nothing(
    corpus: Corpus, name: str, data: bytes, message: str
) -> None:
    fails(corpus, {name: data}, name, message)


def fails(
    corpus: Corpus, files: dict[str, bytes], name: str, message: str, break_raw: Callable[[], Any] = lambda: None
) -> None:
    """Prepare good files, then these: the error names the file, and the output of the good ones stays."""
    corpus.write({"a.jsonl": MANY})
    corpus.prepare()
    before = sha256_tree(corpus.output), corpus.metrics.read_bytes()
    corpus.write(files)
    break_raw()
    with pytest.raises(UserError) as caught:
        corpus.prepare()
    assert name in str(caught.value)
    assert message in str(caught.value)
    assert (sha256_tree(corpus.output), corpus.metrics.read_bytes()) == before
    assert sorted(path.name for path in corpus.raw.parent.iterdir()) == ["documents", "metrics", "raw"]


def test_a_listed_file_that_is_gone_is_named(corpus: Corpus) -> None:
    gone = corpus.raw / "made-up" / "b.txt"
    fails(corpus, {"b.txt": b"x"}, str(gone), "not found", gone.unlink)


@pytest.mark.parametrize("content", ["", "{}}", '["a"]', '[{"name": "made-up"}]', "3"])
def test_a_damaged_listing_is_named(corpus: Corpus, content: str) -> None:
    listing = corpus.raw / "sources.json"
    fails(corpus, {}, str(listing), "gpt fetch", lambda: listing.write_text(content))


@pytest.mark.parametrize(
    "files", [{}, {"a.txt": b""}, {"a.txt": b" \n\t", "b.jsonl": b"\n\n", "c.jsonl": jsonl("", " ")}]
)
def test_a_corpus_without_text_is_refused(corpus: Corpus, files: dict[str, bytes]) -> None:
    corpus.raw.mkdir()
    corpus.write(files)
    with pytest.raises(UserError, match="holds no document with text"):
        corpus.prepare()
    assert not corpus.output.exists()
    assert not corpus.metrics.exists()


def test_a_split_without_documents_is_refused(corpus: Corpus) -> None:
    corpus.write({"a.txt": b"the only document"})
    with pytest.raises(UserError, match="none of 1 documents falls into"):
        corpus.prepare()


@pytest.mark.parametrize("content", [None, b"{", b"\xff\n", b"[1]\n", b'"text"\n', b'{"body": 1}\n'])
def test_damaged_documents_are_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"train\.jsonl: cannot be read .*run `gpt prepare` again"):
        list(read_documents(tmp_path / "train.jsonl"))
