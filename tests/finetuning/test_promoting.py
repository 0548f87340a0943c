"""Fine-tuned models pass the gate by the thresholds of their recipe: beside a floor, and the champion on its own examples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt.errors import UserError
from gpt.files import read_json, write_json
from gpt.finetuning.finetune import make_data
from gpt.finetuning.judging.outcomes import ACCURACY, Outcomes
from gpt.finetuning.places import Places
from gpt.finetuning.registering import case
from gpt.finetuning.registering.finetuned import register_recipe
from gpt.finetuning.registering.promoting import named, open_case_of, recipe_of
from gpt.params.project import load_params
from gpt.registry.promotion import Promotion, judge_registered, promote, rollback
from gpt.registry.trail import audit_trail
from gpt.registry.versions import CHAMPION, version_of_alias
from gpt.tracking import store
from tests.finetuning.conftest import NAME, change_recipe, tune

PLACES = Places(NAME)
CALLED = "shakespeare-gpt-small"


def ask(*, other_data: bool = False) -> Promotion:
    params = named(CALLED, load_params())
    return promote(params, Path.cwd(), other_data=other_data, open_case=open_case_of(NAME, other_data=other_data))


def failed(verdict: Promotion) -> set[str]:
    return {reason.check for reason in verdict.reasons if not reason.passed}


def pretend(right: int, floor: int) -> None:
    """Let so many of the test examples be right, and so many by the baseline: the weights stay."""
    found = Outcomes.read(PLACES.outcomes)
    count = len(found)
    values, floors = (np.arange(count) < number for number in (right, floor))
    one = np.ones(count)
    Outcomes(found.example, found.measure, values * 1.0, one, floors * 1.0, one).write(PLACES.outcomes)


def train_more(epochs: float, right: int, floor: int = 0) -> None:
    """Register another version, of other weights, that got so many of the test examples right."""
    change_recipe({"train": {"epochs": epochs}})
    tune()
    pretend(right, floor)
    register_recipe(NAME, load_params())


FEW = [
    {"text": f"{word} {number}", "label": label}
    for number in range(90)
    for word, label in (("oh", "sad"), ("hey", "glad"))
]


@pytest.fixture
def tuned(make_tuned: Callable[..., Path]) -> Path:
    project = make_tuned("classify", rows=FEW, train={"epochs": 0.5}, data={"test_fraction": 0.3})
    pretend(20, 10)
    register_recipe(NAME, load_params())
    return project


def test_better_models_take_each_others_place_and_a_worse_one_does_not(tuned: Path) -> None:
    first = ask()
    assert (first.verdict, first.version) == ("promoted", 1), first.describe()
    count = len(Outcomes.read(PLACES.outcomes))
    assert count > 40
    train_more(1.0, right=count)
    assert (ask().verdict, ask().verdict) == ("promoted", "unchanged")
    train_more(1.5, right=20)
    refused = ask()
    assert (refused.verdict, failed(refused)) == ("refused", {f"{ACCURACY}.kept"})
    assert "95% interval" in refused.describe() and "champion version 2" not in failed(refused)
    assert ask().verdict == "refused", "a verdict holds"
    client = store.client()
    champion = version_of_alias(client, CALLED, CHAMPION)
    assert champion is not None and int(champion.version) == 2
    assert rollback(named(CALLED, load_params())).version == 1
    assert [event.verdict for event in audit_trail(client, CALLED)] == [
        "challenger", "promoted", "challenger", "promoted", "refused", "restored",
    ]  # fmt: skip


def test_a_model_no_better_than_its_floor_or_that_forgot_too_much_is_refused(tuned: Path) -> None:
    train_more(1.0, right=20, floor=20)
    refused = ask()
    assert (refused.verdict, failed(refused)) == ("refused", {f"{ACCURACY}.floor"})
    change_recipe({"promote": {"max_forgetting": 0.0}})
    evaluation = read_json(PLACES.evaluation, "")
    evaluation["forgetting"]["after"] = evaluation["forgetting"]["before"] + 0.5
    change_recipe({"train": {"epochs": 1.5}})
    tune()
    weights = read_json(PLACES.evaluation, "") | {"forgetting": evaluation["forgetting"]}
    write_json(PLACES.evaluation, weights)
    pretend(20, 0)
    register_recipe(NAME, load_params())
    assert failed(ask()) == {"forgetting"}
    change_recipe({"promote": {"max_forgetting": 0.6}})
    assert ask().verdict == "promoted", "another threshold asks again"


def test_a_candidate_that_has_learned_the_champions_test_questions_is_refused(tuned: Path) -> None:
    assert ask().verdict == "promoted"
    change_recipe({"data": {"split_seed": 2}, "train": {"epochs": 1.0}})
    make_data(NAME, load_params())
    tune()
    pretend(10, 0)
    register_recipe(NAME, load_params())
    refused = ask()
    assert "contamination" in failed(refused)
    assert ask(other_data=True).verdict == "promoted"


def test_judging_again_gives_what_was_stored(make_tuned: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    make_tuned("instruct")
    register_recipe(NAME, load_params())
    client = store.client()
    version = client.get_model_version(CALLED, "1")
    opened = open_case_of(NAME)(client, version, version)
    assert isinstance(opened, case.FineTunedCase)
    stored = opened._outcomes(version)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(case, "judging_identity", lambda: "other code")
    again = opened._outcomes(version)  # pyright: ignore[reportPrivateUsage]
    for before, after in zip(stored, again, strict=True):
        assert before.example.tolist() == after.example.tolist()
        assert np.allclose(before.value, after.value) and np.allclose(before.size, after.size)


def test_the_candidate_is_judged_when_it_is_registered_and_other_names_are_refused(tuned: Path) -> None:
    params = named(CALLED, load_params())
    told, reasons, _ = judge_registered(params, Path.cwd(), 1, open_case_of(NAME))
    assert "has passed the gate" in told
    assert {reason.check for reason in reasons} >= {"evaluation", "loads", f"{ACCURACY}.floor", "forgetting"}
    assert recipe_of("shakespeare-gpt", load_params()) is None
    assert recipe_of(CALLED, load_params()) == NAME
    for name in ("other", "shakespeare-gpt-none"):
        with pytest.raises(UserError, match=name.removeprefix("shakespeare-gpt-")):
            recipe_of(name, load_params())
