import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from gpt import paths
from gpt.commands.main import main
from gpt.errors import UserError
from gpt.evaluation.comparison import compare_passages
from gpt.evaluation.likelihood import Likelihood, documents_likelihood
from gpt.evaluation.scores import Passages
from gpt.files import sha256_file
from gpt.model.storage import load_model
from gpt.params.project import Params, load_params
from gpt.registry.frozen import read_frozen
from gpt.registry.gate.case import Case
from gpt.registry.gate.judge import improvement, judge
from gpt.registry.gate.reasons import CannotJudge, Reason
from gpt.registry.package import register
from gpt.registry.promotion import Promotion, judge_candidate, judge_registered, promote, rollback
from gpt.registry.trail import MOVES, append, audit_trail
from gpt.registry.versions import CANDIDATE, CHALLENGER, CHAMPION, all_versions, resolve_model, version_of_alias
from gpt.sources import fetch as sources
from gpt.tracking import store
from tests.conftest import prepare_data
from tests.registry.conftest import bits_per_byte, change_params, make_model, register_model

NAME = "small-gpt"


def champion() -> int | None:
    version = version_of_alias(store.client(), NAME, CHAMPION)
    return None if version is None else int(version.version)


def tags(version: int) -> dict[str, str]:
    return store.client().get_model_version(NAME, str(version)).tags


def with_gate(params: Params, **change: object) -> Params:
    register_ = params.register_
    gate = register_.gate.model_copy(update=change)
    return params.model_copy(update={"register_": register_.model_copy(update={"gate": gate})})


def decisions() -> list[tuple[str, int, int | None]]:
    return [(event.verdict, event.version, event.previous_version) for event in audit_trail(store.client(), NAME)]


def aliases() -> dict[str, int]:
    found = store.client().get_registered_model(NAME).aliases
    return {alias: int(number) for alias, number in found.items()}


def moves() -> list[tuple[str, int, int | None]]:
    return [each for each in decisions() if each[0] in MOVES]


def failed(result: Promotion) -> list[str]:
    return [reason.check for reason in result.reasons if not reason.passed]


def reason_of(result: Promotion, check: str) -> Reason:
    return next(reason for reason in result.reasons if reason.check == check)


def test_first_champion_must_beat_the_threshold(project: Path, params: Params) -> None:
    register(params, project)
    figure = reason_of(promote(with_gate(params, max_bits_per_byte=0.1), project), "test_bits_per_byte").figure
    assert figure is not None
    assert figure == pytest.approx(bits_per_byte(project))
    refusal = promote(with_gate(params, max_bits_per_byte=figure), project)
    assert refusal.refused
    assert champion() is None
    assert failed(refusal) == ["test_bits_per_byte"]
    reason = reason_of(refusal, "test_bits_per_byte")
    assert reason.threshold == figure, "beating is being below"
    accepted = promote(with_gate(params, max_bits_per_byte=figure * 1.001), project)
    assert (accepted.verdict, accepted.version, accepted.previous_version) == ("promoted", 1, None)
    assert champion() == 1


def test_better_candidate_becomes_champion_and_the_verdict_is_recorded(project: Path, params: Params) -> None:
    register(params, project)
    first = bits_per_byte(project)
    promote(params, project)
    register_model(project, steps=20)
    second = bits_per_byte(project)
    assert second < first
    result = promote(params, project)
    assert (result.verdict, result.version, result.previous_version) == ("promoted", 2, 1)
    assert champion() == 2
    recorded = tags(2)
    assert recorded["promotion.verdict"] == "promoted"
    assert recorded["promotion.champion_version"] == "1"
    assert "@" in recorded["promotion.by"]
    assert recorded["promotion.time"].startswith("20")
    assert decisions() == [
        ("challenger", 1, None),
        ("promoted", 1, None),
        ("challenger", 2, 1),
        ("promoted", 2, 1),
    ]
    (check,) = [
        check
        for check in audit_trail(store.client(), NAME)[-1].details["checks"]
        if check["check"] == "test_bits_per_byte"
    ]
    assert check["figure"] == pytest.approx(second)
    assert check["threshold"] == pytest.approx(first)
    assert 0 < check["low"] < first - second < check["high"]


def test_worse_candidate_is_refused_with_both_figures_and_the_alias_stays(project: Path, params: Params) -> None:
    register(params, project)
    better = bits_per_byte(project)
    promote(params, project)
    register_model(project, steps=1)
    worse = bits_per_byte(project)
    assert worse > better
    result = promote(params, project)
    assert failed(result) == ["test_bits_per_byte"]
    assert f"{worse:.4f} against {better:.4f} (champion version 1)" in result.describe()
    assert champion() == 1
    assert tags(2)["promotion.verdict"] == "refused"


@pytest.mark.slow
def test_the_same_weights_are_noimprovement(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(1)
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.01\n", "learning_rate: 0.02\n"))
    assert register(load_params(file), project).version == 2
    result = promote(load_params(file), project)
    assert "other_weights" in failed(result)
    assert "no improvement" in result.describe()
    assert champion() == 1


def test_promoting_again_does_no_harm(make_champions: Callable[[int], None], project: Path, params: Params) -> None:
    make_champions(1)
    again = promote(params, project)
    assert (again.verdict, again.refused) == ("unchanged", False)
    register_model(project, steps=1)
    assert promote(params, project).refused
    assert promote(params, project).refused
    assert decisions()[2:] == [("refused", 2, 1)], "the same refusal is recorded once"


def test_a_refused_one_is_asked_again_only_when_something_changed(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def judge_and_count(case: Case) -> Iterator[Reason]:
        asked.append(int(case.candidate.version))
        return judge(case)

    monkeypatch.setattr("gpt.registry.gate.judge.judge", judge_and_count)
    register(params, project)
    strict = with_gate(params, max_bits_per_byte=0.001)
    assert judge_candidate(strict, project) == promote(strict, project)
    assert asked == [1]
    assert promote(params, project).verdict == "promoted", "the settings have changed"
    assert asked == [1, 1]


def test_what_has_passed_waits_as_the_challenger_until_somebody_promotes_it(project: Path, params: Params) -> None:
    register(params, project)
    judged = judge_candidate(params, project)
    assert judged is not None
    assert judged.verdict == "challenger"
    assert champion() is None
    assert aliases() == {"candidate": 1, "challenger": 1}
    assert promote(params, project).verdict == "promoted"
    assert aliases() == {"candidate": 1, "champion": 1}
    assert judge_candidate(params, project) is None


def test_an_automatic_gate_makes_what_passes_the_champion(project: Path, params: Params) -> None:
    automatic = with_gate(params, automatic=True)
    register(automatic, project)
    judged = judge_candidate(automatic, project)
    assert judged is not None
    assert (judged.verdict, champion()) == ("promoted", 1)


@pytest.mark.parametrize(("automatic", "alias"), [(False, "challenger"), (True, "champion")])
def test_gpt_register_says_what_the_gate_has_made_of_the_candidate(
    project: Path, automatic: bool, alias: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change_params(project, {"register": {"gate": {"automatic": automatic}}})
    assert main(["register", "--json"]) == 0
    first, *told, last = capsys.readouterr().out.splitlines()
    assert first == "models:/small-gpt/1 registered"
    assert any(f"small-gpt version 1 {words} the {alias}" in told[0] for words in ("is", "has passed the gate and is"))
    assert json.loads(last)["alias"] == alias
    assert aliases()[alias] == 1
    assert main(["register"]) == 0
    assert capsys.readouterr().out.startswith("models:/small-gpt/1 exists already")


def test_gpt_register_draws_candidate_and_champion_beside_each_other(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(1)
    make_model(project, 20)
    assert main(["register"]) == 0
    drawn = json.loads((project / paths.COMPARISON / "comparison.json").read_text(encoding="utf-8"))
    assert drawn["models"] == ["version 2 (candidate)", "version 1 (champion)"]
    assert drawn["differences"]["test_bits_per_byte"]["candidate"] == pytest.approx(bits_per_byte(project))
    page = (project / paths.COMPARISON / "index.html").read_text(encoding="utf-8")
    assert "version 2 (candidate) beside version 1 (champion)" in page
    assert "test_bits_per_byte" in page


def test_texts_that_are_too_few_to_tell_are_a_reason(project: Path, params: Params) -> None:
    test, document, source = (np.full(2, name, object) for name in ("test", "a", "plays"))
    start, size = np.arange(2) * 2048, np.full(2, 2048)
    passages = [Passages(test, document, source, start, size, np.full(2, nats)) for nats in (1.0, 9.0)]
    none = improvement("test_bits_per_byte", compare_passages(*passages, seed=0), 0.0, "champion version 1")
    assert not none.passed
    assert "2 pieces of text are too few to exclude chance; hold out more" in none.text
    same = improvement(
        "test_bits_per_byte", compare_passages(passages[0], passages[0], seed=0), 0.0, "champion version 1"
    )
    assert "no improvement, both score the same on every piece of text" in same.text


def test_a_challenger_does_not_go_for_a_newer_one_that_is_refused(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(1)
    register_model(project, steps=20)
    judge_candidate(params, project)
    register_model(project, steps=1)
    refused = judge_candidate(params, project)
    assert refused is not None
    assert (refused.version, refused.verdict) == (3, "refused")
    assert promote(params, project).version == 2
    assert champion() == 2
    assert promote(params, project).refused, "there is no challenger any more, and the newest is worse"


def test_no_candidate_is_an_error_with_what_to_do(project: Path, params: Params) -> None:
    with pytest.raises(UserError, match="run `gpt register` first"):
        promote(params, project)
    with pytest.raises(UserError, match="nothing to roll back"):
        rollback(params)


def change_data(project: Path, change: dict[str, Any]) -> Params:
    params = change_params(project, change)
    sources.fetch(params.fetch.sources, project / paths.RAW)
    prepare_data(project)
    return params


def text_source(path: Path, words: list[str], seed: int, before: str = "") -> dict[str, Any]:
    """Write documents of words in random order; return the source for params.yaml."""
    chosen = random.Random(seed).choices(words, k=4000)
    lines = (" ".join(chosen[start : start + 40]) for start in range(0, len(chosen), 40))
    path.write_text(before + "".join(f'{{"text": "{line}"}}\n' for line in lines), encoding="utf-8")
    entry = {"name": "made-up", "kind": "local", "path": str(path), "sha256": sha256_file(path), "licence": "none"}
    return {"fetch": {"sources": [entry]}}


def test_a_candidate_of_more_data_is_scored_on_the_champions_documents(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(1)
    theirs = read_frozen(store.client(), store.client().get_model_version(NAME, "1"))
    assert theirs is not None
    before = (project / paths.RAW / "made-up/text.jsonl").read_text(encoding="utf-8")
    grown = text_source(project / "text.jsonl", ["to", "be", "king", "sword", "night", "dawn"], 1, before)
    params = change_data(project, grown | {"tokenizer": {"kind": "bpe", "vocab_size": 290}})
    register_model(project, steps=40)
    result = promote(params, project)
    assert reason_of(result, "test_data").figure == 1.0
    model, encoding = load_model(project / paths.BASE_MODEL)
    documents = [
        np.asarray([*encoding.encode_ordinary(document["text"]), encoding.eot_token], np.int64)
        for document in theirs.documents()
    ]
    nats, tokens = documents_likelihood(model, documents, encoding.eot_token)
    size = sum(len(document["text"].encode()) for document in theirs.documents())
    reason = reason_of(result, "test_bits_per_byte")
    assert reason.figure == pytest.approx(Likelihood(nats, tokens, size).bits_per_byte, rel=1e-6)
    assert reason.figure != pytest.approx(bits_per_byte(project), rel=1e-3)


@pytest.mark.slow
def test_a_split_that_lets_a_model_learn_the_champions_test_documents_is_contamination(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(1)
    params = change_data(project, {"prepare": {"split_seed": 1}})
    register_model(project, steps=200)
    result = promote(params, project)
    assert failed(result) == ["contamination"], "though it predicts them better"
    share = reason_of(result, "contamination").figure
    assert share is not None
    assert share > 0.3
    assert champion() == 1


def test_a_model_of_other_texts_takes_the_champions_place_by_name_only(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(1)
    other = text_source(project / "text.jsonl", ["genesis", "light", "earth", "waters", "day", "made"], 2)
    params = change_data(project, other)
    register_model(project, steps=40)
    result = promote(params, project)
    assert failed(result) == ["test_data"]
    assert "gpt promote --other-data" in result.describe()
    assert champion() == 1
    assert promote(params, project, other_data=True).verdict == "promoted"
    assert champion() == 2


def test_other_data_than_the_candidates_judges_nothing(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(1)
    params = change_data(project, {"prepare": {"split_seed": 1}})
    register_model(project, steps=1)
    params = change_data(project, {"prepare": {"split_seed": 2}})
    with pytest.raises(CannotJudge, match=r"not the documents that models:/small-gpt/2 was trained on"):
        promote(params, project)
    assert "not judged yet" in judge_registered(params, project)[0]
    assert champion() == 1


def test_text_that_repeats_itself_is_refused(project: Path, params: Params) -> None:
    register(params, project)
    result = promote(with_gate(params, max_unended=0.0, max_size_mb=0.001), project)
    assert set(failed(result)) == {"unended", "size_mb"}


def test_rollback_goes_back_one_champion_at_a_time(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(3)
    assert rollback(params).version == 2
    assert champion() == 2
    assert tags(3)["promotion.verdict"] == "rolled_back"
    assert tags(2)["promotion.verdict"] == "restored"
    assert rollback(params).version == 1
    with pytest.raises(UserError, match="version 1 is the first champion"):
        rollback(params)
    assert champion() == 1
    assert moves() == [
        ("promoted", 1, None),
        ("promoted", 2, 1),
        ("promoted", 3, 2),
        ("restored", 2, 3),
        ("restored", 1, 2),
    ]


def test_rollback_to_a_champion_by_its_number_says_who_and_why(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(3)
    result = rollback(params, 1, "it swears")
    assert (result.version, champion()) == (1, 1)
    event = audit_trail(store.client(), NAME)[-1]
    assert (event.verdict, event.version, event.previous_version) == ("restored", 1, 3)
    assert event.details["reason"] == "it swears"
    assert "it swears" in tags(3)["promotion.reason"]
    assert re.fullmatch(r"\S+@\S+", event.by)
    with pytest.raises(UserError, match=r"version 1 is the first champion"):
        rollback(params)
    assert rollback(params, 3).version == 3, "a person says so"
    assert "promotion.rolled_back" not in tags(3)
    with pytest.raises(UserError, match="version 3 is the champion already"):
        rollback(params, 3)
    register_model(project, steps=1)
    with pytest.raises(UserError, match=r"version 4 was never the champion; those that were are version 1, 2, 3"):
        rollback(params, 4)


def test_what_was_rolled_back_is_not_promoted_again(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(2)
    rollback(params)
    assert register(params, project).version == 2, "a scheduled flow registers the same model again"
    result = promote(params, project)
    assert result.refused
    assert failed(result) == ["not_rolled_back"]
    assert promote(params, project).refused, "and a refusal does not make it forget"
    assert champion() == 1
    register_model(project, steps=40)
    assert promote(params, project).verdict == "promoted"
    assert rollback(params).version == 1


def test_a_champion_that_changed_meanwhile_is_not_overwritten(
    make_champions: Callable[[int], None], project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_champions(1)
    register_model(project, steps=20)
    register_model(project, steps=40)

    def judge_while_another_promotes(case: Case) -> Iterator[Reason]:
        store.client().set_registered_model_alias(NAME, CHAMPION, "2")
        return judge(case)

    monkeypatch.setattr("gpt.registry.gate.judge.judge", judge_while_another_promotes)
    with pytest.raises(UserError, match=r"the champion was version 1 and is version 2, by .*@.* now"):
        promote(params, project)
    assert champion() == 2
    assert moves()[-1] == ("set_by_hand", 2, 1)


@pytest.mark.parametrize("alias", [CHALLENGER, CHAMPION])
def test_what_a_killed_promotion_has_decided_is_carried_out_by_the_next_command(
    make_champions: Callable[[int], None], project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, alias: str
) -> None:
    make_champions(2)
    register_model(project, steps=40)
    really_set = MlflowClient.set_registered_model_alias

    def die(client: MlflowClient, name: str, which: str, version: str) -> None:
        if which == alias:
            raise KeyboardInterrupt
        really_set(client, name, which, version)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            promote(params, project)
    assert champion() == 2
    if alias == CHAMPION:
        assert rollback(params).version == 2, "version 3 was the champion already, by the trail"
        assert moves()[-2:] == [("promoted", 3, 2), ("restored", 2, 3)]
    else:
        assert rollback(params).version == 1, "version 3 had only passed"


def test_a_decision_that_another_has_overtaken_does_not_count(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(2)
    client = store.client()
    seen = audit_trail(client, NAME)
    assert rollback(params).version == 1
    before = audit_trail(client, NAME)
    assert append(client, NAME, seen, "restored", 2, "too late", "a@b") is None
    assert audit_trail(client, NAME) == before
    assert not [
        version for version in all_versions(client, f"{NAME}.decisions") if "too late" in (version.description or "")
    ]


def test_a_model_that_is_deleted_and_registered_anew_has_no_history(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(1)
    store.client().delete_registered_model(NAME)
    register(params, project)
    assert decisions() == []
    assert promote(params, project).previous_version is None
    assert champion() == 1


def tag_as_an_earlier_release(*events: tuple[str, int, int | None]) -> None:
    """Write decisions as releases did that had no log: tags of the registered model."""
    for number, (verdict, version, previous) in enumerate(events):
        event = {"verdict": verdict, "version": version, "previous_version": previous, "reason": "it was better"}
        key = f"promotion.2025-01-0{number + 1}T12:00:00.000000Z"
        store.client().set_registered_model_tag(NAME, key, json.dumps(event))


@pytest.mark.slow
def test_decisions_of_an_earlier_release_are_the_beginning_of_the_history(project: Path, params: Params) -> None:
    for steps in (5, 20, 40):
        register_model(project, steps)
    earlier = [("promoted", 1, None), ("refused", 2, 1), ("promoted", 3, 1)]
    tag_as_an_earlier_release(*earlier)
    store.client().set_registered_model_alias(NAME, CHAMPION, "3")
    assert decisions() == earlier
    assert rollback(params).version == 1
    assert champion() == 1
    assert rollback(params, 3).version == 3
    assert decisions() == [*earlier, ("restored", 1, 3), ("restored", 3, 1)]
    assert audit_trail(store.client(), NAME)[0].time == "2025-01-01T12:00:00.000000Z"


def test_an_alias_that_was_moved_since_an_earlier_release_is_noted(project: Path, params: Params) -> None:
    for steps in (5, 20):
        register_model(project, steps)
    tag_as_an_earlier_release(("promoted", 1, None))
    store.client().set_registered_model_alias(NAME, CHAMPION, "2")
    assert rollback(params).version == 1
    assert decisions() == [("promoted", 1, None), ("set_by_hand", 2, 1), ("restored", 1, 2)]


def test_foreign_versions_are_refused_by_name(project: Path, params: Params) -> None:
    client = store.client()
    client.create_registered_model(NAME)
    client.create_model_version(NAME, (project / "models/base").as_uri())
    client.set_registered_model_alias(NAME, CANDIDATE, "1")
    with pytest.raises(UserError, match="not registered by `gpt register`"):
        promote(params, project)
    with pytest.raises(UserError, match="not registered by `gpt register`"):
        resolve_model(f"models:/{NAME}/1")
    make_model(project, steps=2)
    assert register(params, project).version == 2


def test_rollback_goes_to_the_last_champion_that_exists(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(3)
    store.client().delete_model_version(NAME, "2")
    result = rollback(params)
    assert (result.version, champion()) == (1, 1)
    assert "version 2 was deleted" in result.describe()
    assert "promotion.rolled_back" in tags(3)
    with pytest.raises(UserError, match="version 1 is the first champion"):
        rollback(params)


def test_rollback_passes_over_a_champion_that_has_lost_its_files(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(3)
    shutil.rmtree(resolve_model(f"models:/{NAME}/2").parent)
    result = rollback(params)
    assert champion() == 1
    assert "version 2 has lost its files" in result.describe()


def test_rollback_without_any_champion_left_changes_nothing(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(3)
    for number in ("1", "2"):
        store.client().delete_model_version(NAME, number)
    trail = audit_trail(store.client(), NAME)
    with pytest.raises(UserError, match=r"version 2 was deleted, version 1 was deleted"):
        rollback(params)
    assert champion() == 3
    assert "promotion.rolled_back" not in tags(3)
    assert audit_trail(store.client(), NAME) == trail


def test_rollback_from_a_champion_that_was_deleted(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(3)
    store.client().delete_model_version(NAME, "3")
    assert champion() is None
    assert rollback(params).version == 2
    assert champion() == 2
    store.client().delete_registered_model_alias(NAME, CHAMPION)
    with pytest.raises(UserError, match="nothing to roll back"):
        rollback(params)


def test_rollback_from_a_champion_that_a_person_set_goes_to_the_last_of_the_trail(
    make_champions: Callable[[int], None], project: Path, params: Params
) -> None:
    make_champions(2)
    register_model(project, 40)
    client = store.client()
    client.set_registered_model_alias(NAME, CHAMPION, "3")
    client.create_model_version(f"{NAME}.decisions", "models:/small-gpt/1", description="a person's own, no decision")
    assert rollback(params).version == 2
    assert rollback(params).version == 1
