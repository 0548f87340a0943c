"""A file without a field is the data's affair; a field that no record of a source has is a wrong setting."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt.corpus.reading import files
from gpt.errors import UserError
from gpt.params.corpus import Prepare
from tests.corpus.raw import arrow, parquet
from tests.corpus.test_prepare import SETTINGS, Corpus

NAMED = [{"text": f"document {number}", "score": 3} for number in range(40)]
OTHER = [{"body": "x"}, {"body": "y"}]


def rows(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def skipping(**changes: Any) -> Prepare:
    return Prepare.model_validate(SETTINGS.model_dump() | {"malformed": "skip"} | changes)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "rejected"),
    [
        ("b.jsonl", rows(OTHER), 2),
        ("b.csv", b"body,n\nx,1\ny,2\n", 1),
        ("b.parquet", parquet({"body": ["x", "y"]}), 1),
        ("b.arrow", arrow({"body": ["x", "y"]}), 1),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_without_the_text_field_is_left_out_counted_and_told(
    corpus: Corpus, caplog: pytest.LogCaptureFixture, name: str, data: bytes, rejected: int, workers: int
) -> None:
    corpus.write({"a.jsonl": rows(NAMED), name: data})
    settings = skipping(engine=SETTINGS.engine.model_dump() | {"workers": workers})
    counts = corpus.prepare(settings)
    assert counts["read"]["documents"] == 40
    assert counts["dropped"]["malformed: missing_text"]["documents"] == rejected
    assert counts["files_without_field"] == {"made-up": {"text": 1}}
    assert f"source made-up: files of which no record has a field 'text': 1 ({name})" in caplog.text


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        ({"a.jsonl": rows(OTHER), "b.jsonl": rows(OTHER)}, r"a\.jsonl: line 1: has no text field 'text' but 'body'"),
        ({"a.csv": b"body\nx\n", "b.txt.jsonl": b"\n"}, r"a\.csv: line 1: has no column 'text' but body"),
        ({"a.parquet": parquet({"body": ["x"]})}, r"a\.parquet: has no column 'text' but body"),
    ],
)
def test_a_text_field_that_no_record_of_a_source_has_is_one_error_also_after_a_stop(
    corpus: Corpus, files: dict[str, bytes], seen: str
) -> None:
    corpus.write({"a.jsonl": rows(NAMED)}, source="good")
    corpus.write(files)
    message = (
        rf"^source made-up: none of its records has a field 'text' \(.*{seen}\); set prepare\.read\.text_field, or"
    )
    for _ in range(2):  # the second time from what the first has kept
        with pytest.raises(UserError, match=message) as caught:
            corpus.prepare(skipping())
        assert "\n" not in str(caught.value)


def test_a_field_that_a_filter_looks_at_is_judged_over_the_source(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    corpus.write({"a.jsonl": rows(NAMED), "b.jsonl": rows([{"text": "without a score"}])})
    counts = corpus.prepare(skipping(malformed="error", filters=[{"field": "score", "at_least": 3}]))
    assert counts["files_without_field"] == {"made-up": {"score": 1}}
    assert "no record has a field 'score': 1 (b.jsonl)" in caplog.text
    wrong = skipping(filters=[{"field": "int_score", "at_least": 3}])
    with pytest.raises(UserError, match=r"source made-up: none of its records has a field 'int_score', which prepare"):
        corpus.prepare(wrong)


def test_a_file_in_pieces_has_what_one_of_them_has(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PIECE_BYTES", 200)
    whole = rows(OTHER * 50) + rows(NAMED) + rows(OTHER * 50)
    corpus.write({"a.jsonl": whole, "b.jsonl": rows(OTHER * 50)})
    for entry in (listing := json.loads((corpus.raw / "sources.json").read_text()))[0]["files"]:
        listing[0]["files"][entry]["bytes"] = (corpus.raw / "made-up" / entry).stat().st_size
    (corpus.raw / "sources.json").write_text(json.dumps(listing))
    counts = corpus.prepare(skipping())
    assert counts["read"]["documents"] == 40
    assert counts["files_without_field"] == {"made-up": {"text": 1}}
