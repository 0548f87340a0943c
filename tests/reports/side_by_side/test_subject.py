"""Which figures of models compare, which way, and which of their settings differ: the same for a file and for a run of MLflow."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.params.project import load_params
from gpt.reports.model_page.measured import Measured
from gpt.reports.side_by_side.compare import describe, to_record
from gpt.reports.side_by_side.subject import (
    Row,
    Subject,
    differing_settings,
    have_one_tokenizer,
    rows_of,
    settings_of,
    settings_of_run,
)
from gpt.tracking.tracker import flat_params
from tests import ROOT

FIGURES = {"test_bits_per_byte": 2.0, "test_loss": 3.0, "test_perplexity": 20.0, "piqa.accuracy": 0.5}
SETTINGS = {"tokenizer.kind": "bpe", "fetch.a.sha256": "0", "train.max_steps": "10"}


def subject(name: str, figures: dict[str, float] | None = None, test: Any = None, **settings: str) -> Subject:
    known = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
    return Subject(Measured(name, evaluation={"test": test or {}}), "made up", figures or FIGURES, known)


def test_settings_of_params_yaml_and_of_the_run_that_was_told_them_are_the_same() -> None:
    params = load_params(ROOT / "params.yaml")
    told = {key: str(value) for key, value in flat_params(params).items()}  # as MLflow keeps them
    of_file = settings_of(params.model_dump(mode="json", by_alias=True))
    assert settings_of_run(told) == of_file
    assert of_file["train.max_steps"] == "1000"
    assert of_file["prepare.read.format"] == "auto"
    assert not [key for key in of_file if key.startswith("launch.")], "where it runs is no setting of the model"


def test_settings_that_differ_are_told_with_the_value_of_each_and_none_where_one_has_it_not() -> None:
    models = [subject("a"), subject("b", train__max_steps="20"), subject("c", model__new="1")]
    assert differing_settings(models) == {"train.max_steps": ["10", "20", "10"], "model.new": ["none", "none", "1"]}
    assert differing_settings([subject("a"), subject("b")]) == {}


SAME, OTHER = {"documents_sha256": "1", "tokens": 10}, {"documents_sha256": "1", "tokens": 11}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (subject("a"), subject("b"), True),
        (subject("a"), subject("b", tokenizer__kind="char"), False),
        (subject("a"), subject("b", fetch__a__sha256="1"), False),  # trained on other text
        (subject("a", tokenizer__kind="gpt2"), subject("b", tokenizer__kind="gpt2", fetch__a__sha256="1"), True),
        (subject("a", test=SAME), subject("b", test=SAME, fetch__a__sha256="1"), True),  # the same text, as many tokens
        (subject("a", test=SAME), subject("b", test=OTHER), False),
    ],
)
def test_loss_and_perplexity_are_left_out_where_tokenizers_differ_and_it_is_said(
    one: Subject, other: Subject, same: bool
) -> None:
    assert have_one_tokenizer([one, other]) is same
    names = [row.name for row in rows_of([one, other])]
    assert names == (list(FIGURES) if same else ["test_bits_per_byte", "piqa.accuracy"])
    assert ("tokenizers differ" in describe([one, other])) is not same
    assert to_record([one, other])["same_tokenizer"] is same


def test_other_test_documents_are_said() -> None:
    models = [subject("a", test=SAME), subject("b", test=SAME | {"documents_sha256": "2"})]
    assert "measured on other test documents" in describe(models)
    assert "measured on other test documents" not in describe([models[0], subject("b", test=OTHER)])


def test_the_best_is_the_lowest_or_the_highest_as_the_figure_has_it() -> None:
    rows = {
        row.name: row
        for row in rows_of([subject("a"), subject("b", {name: value + 0.1 for name, value in FIGURES.items()})])
    }
    assert {name: row.best() for name, row in rows.items()} == {
        "test_bits_per_byte": 0, "test_loss": 0, "test_perplexity": 0, "piqa.accuracy": 1,
    }  # fmt: skip
    lines = describe([subject("a"), subject("b", FIGURES | {"piqa.accuracy": 0.75})]).splitlines()
    assert [line.split() for line in lines if line.startswith("piqa")] == [
        ["piqa.accuracy", "higher", "0.5000", "0.7500", "b"]
    ]


@given(st.lists(st.none() | st.floats(-9, 9), min_size=2, max_size=5), st.sampled_from(["lower", "higher", ""]))
def test_there_is_a_best_only_of_several_known_values_of_which_one_stands_out(
    values: list[float | None], better: str
) -> None:
    best = Row("a figure", better, tuple(values)).best()
    known = [value for value in values if value is not None]
    if best is None:
        extreme = min(known, default=0) if better == "lower" else max(known, default=0)
        assert not better or len(known) < 2 or known.count(extreme) > 1
    else:
        others = [value for place, value in enumerate(values) if value is not None and place != best]
        mine = values[best]
        assert mine is not None and others
        assert all(mine < other if better == "lower" else mine > other for other in others)


def test_what_is_missing_is_told_not_hidden() -> None:
    nothing = Subject(Measured("b"), "made up", {}, SETTINGS, ("samples are elsewhere",))
    said = describe([subject("a"), nothing]).splitlines()
    assert {"a: no curves", "b: samples are elsewhere", "b: no figures: it was not evaluated", "b: no curves"} <= set(
        said
    )
