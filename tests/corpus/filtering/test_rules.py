"""Filters by fields, by lists of addresses and by classes of one's own."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt.corpus.filtering.needs import filter_files
from gpt.corpus.filtering.step import Filtered
from gpt.errors import UserError
from gpt.params.corpus import Prepare
from gpt.params.project import load_params
from gpt.projects.inputs import describe_inputs
from tests import ROOT
from tests.corpus.raw import PREPARE, Raw, sent
from tests.corpus.test_prepare import SETTINGS, Corpus


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Raw]:
    monkeypatch.chdir(tmp_path)
    yield Raw(tmp_path / "raw")
    sys.path[:] = [folder for folder in sys.path if folder != str(tmp_path)]
    for name in [name for name in sys.modules if name.endswith(("_filters", "_words"))]:
        del sys.modules[name]


def with_filters(*filters: dict[str, Any], **change: Any) -> Prepare:
    return Prepare.model_validate(PREPARE.model_dump() | {"filters": filters} | change)


def kept(raw: Raw, settings: Prepare) -> tuple[list[str], dict[str, int]]:
    """Return the texts that stay, and how many went by reason."""
    documents, _ = raw.read(settings)
    step = sent(Filtered(settings))
    texts = [document.text for document in step.run(documents)]
    reasons = {
        f"{kind}: {reason}": count["documents"] for kind, of in step.report().items() for reason, count in of.items()
    }
    return texts, reasons


def write(raw: Raw, *values: Any, field: str = "score") -> None:
    rows = [{"text": str(number), field: value} for number, value in enumerate(values)]
    raw.write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


@pytest.mark.parametrize(
    ("rule", "values", "expected", "reasons"),
    [
        ({"at_least": 3}, [2, 3, 4.5, "3", None], "123", {"score: below 3": 1, "score: none": 1}),
        ({"at_least": 0.5, "at_most": 2}, [0.4, 0.5, 2, 2.1], "12", {"score: below 0.5": 1, "score: above 2": 1}),
        ({"equals": "en"}, ["en", "de", ["de", "en"], "EN"], "02", {"score: another": 2}),
        ({"equals": 3}, [3, "3", 3.0, 4], "012", {"score: another": 1}),
        ({"equals": True}, [True, "true", 1, False], "01", {"score: another": 2}),
        ({"one_of": ["en", "de"]}, ["en", "fr", "de", None], "02", {"score: another": 1, "score: none": 1}),
    ],
)
def test_a_field_decides_which_documents_stay(
    raw: Raw, rule: dict[str, Any], values: list[Any], expected: str, reasons: dict[str, int]
) -> None:
    write(raw, *values)
    assert kept(raw, with_filters({"field": "score", **rule})) == (list(expected), reasons)


def test_a_field_is_read_for_its_filter_and_not_kept_with_the_document(raw: Raw) -> None:
    rows = b"text,meta,n\none,x,1\ntwo,y,2\n"
    raw.write("a.csv", rows)
    settings = with_filters(
        {"field": "n", "at_least": 2}, read=PREPARE.read.model_dump() | {"metadata_fields": ["meta"]}
    )
    documents, _ = raw.read(settings)
    assert [document.metadata["metadata"] for document in documents] == [{"meta": "x"}, {"meta": "y"}]
    assert kept(raw, settings)[0] == ["two"]


def test_only_the_source_that_says_so_is_filtered(raw: Raw) -> None:
    write(raw, 1, 2)
    raw.write("b.txt", b"no field at all", source="books")
    by_source = {"web": {"filters": [{"field": "score", "at_least": 2}]}}
    texts, reasons = kept(raw, with_filters(by_source=by_source))
    assert sorted(texts) == ["1", "no field at all"] and reasons == {"score: below 2": 1}


@pytest.mark.parametrize("value", ["high", [3], True])
def test_what_is_compared_must_be_a_number(raw: Raw, value: Any) -> None:
    write(raw, 5, value)
    with pytest.raises(
        UserError, match=r"field score: document web/a\.jsonl/2 has .*, which is no number; compare it with equals"
    ):
        kept(raw, with_filters({"field": "score", "at_least": 3}))


def test_addresses_and_hosts_of_a_list_are_blocked(raw: Raw) -> None:
    Path("list.txt").write_text("# bad\nads.example\nwww.example.org/forum/\nhttps://example.net/a?b  # one\n\n")
    urls = [
        "https://ads.example/x",
        "http://cdn.ads.example:80",
        "https://loads.example/",
        "https://EXAMPLE.org/forum",
        "http://www.example.org/forum/topic?id=1",
        "https://example.org/forums",
        "example.net/a/b",
        "https://[bad",
        "",
        None,
    ]
    write(raw, *urls, field="url")
    texts, reasons = kept(raw, with_filters({"url_list": "list.txt", "field": "url"}))
    assert texts == ["2", "5", "7", "8", "9"]
    assert reasons == {"url_list: host": 2, "url_list: address": 3}


OWN = """
from own_words import LEAST

class Poetry:
    fields = ("score",)

    def __init__(self, lines: int = 2) -> None:
        self.lines = lines

    def filter(self, document):
        if document.metadata["score"] == "boom":
            raise ValueError("what a score")
        if document.metadata["score"] == "odd":
            return "yes"
        document.text = document.text.strip()
        if document.text.count("/") + 1 < max(self.lines, LEAST):
            return False, "too few lines"
        return document.metadata["source"] == "web"

class Bare:
    pass
"""


@pytest.fixture
def own(raw: Raw) -> Raw:
    Path("own_filters.py").write_text(OWN)
    Path("own_words.py").write_text("LEAST = 1\n")
    return raw


def poems(raw: Raw, *scores: Any) -> None:
    rows = [{"text": f" {' / '.join('abc'[: number + 1])} ", "score": score} for number, score in enumerate(scores)]
    raw.write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def test_a_class_of_ones_own_filters_and_may_change_the_text(own: Raw) -> None:
    poems(own, 1, 2, 3)
    texts, reasons = kept(own, with_filters({"class": "own_filters.Poetry", "lines": 3}))
    assert texts == ["a / b / c"]
    assert reasons == {"own_filters.Poetry: too few lines": 2, "own_filters.Poetry: lines": 0}
    assert kept(own, with_filters({"class": "own_filters.Poetry"}))[0] == ["a / b", "a / b / c"]


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        ({"class": "Poetry"}, "class Poetry: is no dotted path of a class"),
        ({"class": "gone_filters.Poetry"}, "class gone_filters.Poetry: there is no gone_filters.py in"),
        (
            {"class": "own_filters.Prose"},
            "own_filters.py has no class Prose (its classes: Bare, Poetry); correct the path",
        ),
        ({"class": "own_filters.Bare"}, "is no filter; give it a method filter(self, document)"),
        ({"class": "own_filters.Poetry", "verses": 3}, "cannot be made with its arguments (verses): TypeError"),
        ({"class": "broken_filters.Poetry"}, "broken_filters.Poetry: cannot be imported (SyntaxError: "),
        ({"class": "colorsys.Poetry"}, "colorsys.py has no class Poetry (its classes: none)"),
        ({"class": "fractions.Fraction"}, "is no filter; give it a method"),
        ({"class": "needing_filters.Poetry"}, "cannot be imported, as no_such_library is not installed; install it"),
    ],
)
def test_a_class_that_is_no_filter_is_told_before_any_work(own: Raw, filter_: dict[str, Any], message: str) -> None:
    Path("broken_filters.py").write_text("class Poetry\n")
    Path("needing_filters.py").write_text("import no_such_library\n")
    with pytest.raises(UserError) as caught:
        Filtered(with_filters(filter_))
    assert message in str(caught.value)
    assert str(caught.value).startswith("params.yaml: prepare.filters: class ")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("boom", r"web/a\.jsonl/1: ValueError: what a score \(.*own_filters\.py, line 12\)"),
        ("odd", "filter returned 'yes'"),
    ],
)
def test_what_a_class_does_wrong_is_told_with_the_document(own: Raw, score: str, message: str) -> None:
    poems(own, score)
    with pytest.raises(UserError, match=message):
        kept(own, with_filters({"class": "own_filters.Poetry"}))


def test_the_files_of_filters_are_what_prepare_computes_with(own: Raw) -> None:
    """Also those that a class imports; a comment is none of them, and an installed package counts by its version."""
    Path("list.txt").write_text("ads.example\n")
    filters = [
        {"class": "own_filters.Poetry"},
        {"url_list": "list.txt", "field": "url"},
        {"class": "datatrove.pipeline.filters.LambdaFilter"},
    ]
    settings = with_filters(*filters[:2], by_source={})
    before = filter_files(settings)
    assert list(before) == ["list.txt", "own_filters.py", "own_words.py"]
    Path("own_filters.py").write_text("# a comment\n" + OWN)
    assert filter_files(settings) == before
    Path("own_words.py").write_text("LEAST = 2\n")
    from gpt.code import code_hash

    code_hash.cache_clear()
    changed = filter_files(settings)
    assert {name for name in before if before[name] != changed[name]} == {"own_words.py"}
    assert list(filter_files(with_filters(filters[2]))) == ["datatrove"]
    Path("list.txt").unlink()
    with pytest.raises(UserError, match=r"url_list = 'list\.txt': there is no such file"):
        filter_files(settings)


def test_gpt_inputs_writes_down_the_files_of_filters(own: Raw) -> None:
    params = load_params(ROOT / "params.yaml")
    assert "files" not in describe_inputs("prepare", params)
    changed = params.model_copy(update={"prepare": with_filters({"class": "own_filters.Poetry"})})
    assert list(describe_inputs("prepare", changed)["files"]) == ["own_filters.py", "own_words.py"]
    assert "files" not in describe_inputs("tokenize", changed)


def test_worker_processes_find_the_class_and_the_list(own: Raw, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "project")
    lines = [f"line {number} / of {number}" for number in range(60)]
    urls = ["https://ads.example/x" if number % 3 else "https://good.example" for number in range(60)]
    rows = ({"text": text, "score": 1, "url": url} for text, url in zip(lines, urls, strict=True))
    corpus.write({"a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}, source="web")
    Path("list.txt").write_text("ads.example\n")
    filters = [{"class": "own_filters.Poetry"}, {"url_list": "list.txt", "field": "url"}]
    engine = SETTINGS.engine.model_copy(update={"workers": 2})
    settings = Prepare.model_validate(SETTINGS.model_dump() | {"filters": filters, "engine": engine.model_dump()})
    counts = corpus.prepare(settings)
    assert counts["dropped"]["url_list: host"]["documents"] == 40
    assert sorted(corpus.texts()) == sorted(lines[::3])


def test_a_file_that_a_library_hides_is_told(own: Raw) -> None:
    Path("string.py").write_text(OWN)
    with pytest.raises(
        UserError, match=r"string\.py of the project is hidden by .*string\.py; give the file another name"
    ):
        Filtered(with_filters({"class": "string.Poetry"}))
