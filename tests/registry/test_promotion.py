import shutil
from pathlib import Path

import pytest

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.likelihood import split_likelihood
from gpt.model.storage import load_model
from gpt.params.project import Params, load_params
from gpt.registry import promotion
from gpt.registry.package import register
from gpt.registry.promotion import audit_trail, promote, rollback
from gpt.registry.versions import CANDIDATE, CHAMPION, resolve_model, version_of_alias
from gpt.tokens import tokenize as encoding
from gpt.tokens.shards import TokenReader
from gpt.tracking import store
from tests.conftest import prepare_data
from tests.registry.conftest import bits_per_byte, make_model, register_model

NAME = "small-gpt"


def champion() -> int | None:
    version = version_of_alias(store.client(), NAME, CHAMPION)
    return None if version is None else int(version.version)


def tags(version: int) -> dict[str, str]:
    return store.client().get_model_version(NAME, str(version)).tags


def test_first_champion_must_beat_the_threshold(project: Path, params: Params) -> None:
    register(params, project)
    figure = bits_per_byte(project)
    settings = params.register_.model_copy(update={"max_bits_per_byte": figure})
    refusal = promote(params.model_copy(update={"register_": settings}), project)
    assert refusal.refused
    assert champion() is None
    (reason,) = refusal.reasons
    assert (reason.figure, reason.threshold, reason.passed) == (figure, figure, False), "beating is being below"
    settings = params.register_.model_copy(update={"max_bits_per_byte": figure * 1.001})
    accepted = promote(params.model_copy(update={"register_": settings}), project)
    assert (accepted.verdict, accepted.version, accepted.previous_version) == ("promoted", 1, None)
    assert champion() == 1


def test_the_order_of_decisions_is_not_a_clocks(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back, or another machine's that is behind, must not change what a rollback goes back to."""
    times = iter(["2031-01-01T00:00:00.999999Z"] * 2 + ["2030-01-01T00:00:00.000000Z"] * 9)
    monkeypatch.setattr(promotion, "_now", times.__next__)
    register(params, project)
    promote(params, project)
    for steps in (20, 30):
        register_model(project, steps=steps)
        promote(params, project)
    trail = audit_trail(store.client(), NAME)
    assert [(event["version"], event["previous_version"]) for event in trail] == [(1, None), (2, 1), (3, 2)]
    assert trail[1]["time"] == "2031-01-01T00:00:01.000000Z"
    assert trail[2]["time"] == "2031-01-01T00:00:01.000001Z"


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
    assert float(recorded["promotion.test_bits_per_byte"]) == second
    assert float(recorded["promotion.test_bits_per_byte.threshold"]) == first
    assert recorded["promotion.time"].startswith("20")
    trail = audit_trail(store.client(), NAME)
    assert [(event["verdict"], event["version"], event["previous_version"]) for event in trail] == [
        ("promoted", 1, None),
        ("promoted", 2, 1),
    ]


def test_worse_candidate_is_refused_with_both_figures_and_the_alias_stays(project: Path, params: Params) -> None:
    register(params, project)
    better = bits_per_byte(project)
    promote(params, project)
    register_model(project, steps=1)
    worse = bits_per_byte(project)
    assert worse > better
    result = promote(params, project)
    assert result.refused
    assert f"{worse:.4f} is not below {better:.4f} (champion version 1)" in result.describe()
    assert champion() == 1
    assert tags(2)["promotion.verdict"] == "refused"


def test_promoting_again_does_no_harm(project: Path, params: Params) -> None:
    register(params, project)
    promote(params, project)
    again = promote(params, project)
    assert (again.verdict, again.refused) == ("unchanged", False)
    register_model(project, steps=1)
    assert promote(params, project).refused
    assert promote(params, project).refused
    assert len(audit_trail(store.client(), NAME)) == 2, "the same refusal is recorded once"


def test_no_candidate_is_an_error_with_what_to_do(project: Path, params: Params) -> None:
    with pytest.raises(UserError, match="run `gpt register` first"):
        promote(params, project)
    with pytest.raises(UserError, match="nothing to roll back"):
        rollback(params)


def change_test_documents(project: Path) -> None:
    """Another split seed, another tokenizer: the figures of before compare with nothing."""
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("split_seed: 0", "split_seed: 1").replace("kind: char", "kind: bpe"))
    file.write_text(file.read_text().replace("vocab_size: 400", "vocab_size: 290"))
    prepare_data(project)


def test_champion_is_measured_again_on_the_candidates_documents(project: Path, params: Params) -> None:
    register(params, project)
    promote(params, project)
    old_model, _ = load_model(project / paths.BASE_MODEL)
    old_tokenizer = project / paths.BASE_MODEL / "tokenizer"
    shutil.copytree(old_tokenizer, project / "old-tokenizer")
    change_test_documents(project)
    params = load_params(project / "params.yaml")
    register_model(project, steps=1)
    result = promote(params, project)
    # What `gpt evaluate` would say of the champion on the documents of now, by its own tokenizer.
    again = project / "tokens-of-the-champion"
    documents, metrics = project / paths.DOCUMENTS, project / "again.json"
    encoding.tokenize(params.tokenize, params.prepare.engine, documents, project / "old-tokenizer", again, metrics)
    expected = split_likelihood(old_model, TokenReader(again, "test")).bits_per_byte
    (reason,) = result.reasons
    assert reason.threshold == pytest.approx(expected, rel=1e-6)
    assert reason.figure == bits_per_byte(project)
    assert reason.figure is not None
    assert result.refused == (reason.figure >= expected)


def test_other_documents_than_the_candidates_are_refused(project: Path, params: Params) -> None:
    register(params, project)
    promote(params, project)
    change_test_documents(project)
    params = load_params(project / "params.yaml")
    register_model(project, steps=1)
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("split_seed: 1", "split_seed: 2"))
    prepare_data(project)
    with pytest.raises(UserError, match="not the documents that the candidate was measured on"):
        promote(params, project)
    assert champion() == 1


def test_rollback_goes_back_one_champion_at_a_time(project: Path, params: Params) -> None:
    for steps in (5, 20, 40):
        register_model(project, steps)
        assert promote(params, project).verdict == "promoted"
    assert rollback(params).version == 2
    assert champion() == 2
    assert tags(3)["promotion.verdict"] == "rolled_back"
    assert tags(2)["promotion.verdict"] == "restored"
    assert rollback(params).version == 1
    with pytest.raises(UserError, match="version 1 is the first champion"):
        rollback(params)
    assert champion() == 1
    verdicts = [event["verdict"] for event in audit_trail(store.client(), NAME)]
    assert verdicts == ["promoted", "promoted", "promoted", "restored", "restored"]


def test_what_was_rolled_back_is_not_promoted_again(project: Path, params: Params) -> None:
    register(params, project)
    promote(params, project)
    register_model(project, steps=20)
    promote(params, project)
    rollback(params)
    assert register(params, project).version == 2, "a scheduled flow registers the same model again"
    result = promote(params, project)
    assert result.refused
    assert [reason.check for reason in result.reasons if not reason.passed] == ["not_rolled_back"]
    assert promote(params, project).refused, "and a refusal does not make it forget"
    assert champion() == 1
    register_model(project, steps=40)
    assert promote(params, project).verdict == "promoted"
    assert rollback(params).version == 1


def test_a_champion_that_changed_meanwhile_is_not_overwritten(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(params, project)
    promote(params, project)
    register_model(project, steps=20)
    register_model(project, steps=40)
    judge = promotion._judge

    def judge_while_another_promotes(*arguments):
        store.client().set_registered_model_alias(NAME, CHAMPION, "2")
        return judge(*arguments)

    monkeypatch.setattr(promotion, "_judge", judge_while_another_promotes)
    with pytest.raises(UserError, match="the champion changed from version 1 to 2"):
        promote(params, project)
    assert champion() == 2


def test_a_promotion_killed_before_the_alias_moved_does_not_mislead_a_rollback(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    register(params, project)
    promote(params, project)
    register_model(project, steps=20)
    promote(params, project)
    register_model(project, steps=40)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", die)
        with pytest.raises(KeyboardInterrupt):
            promote(params, project)
    assert champion() == 2
    assert rollback(params).version == 1


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


def make_champions(project: Path, params: Params, count: int) -> None:
    """Let version 1 to `count` become the champion, one after the other."""
    for number, steps in zip(range(1, count + 1), (5, 20, 40), strict=False):
        register_model(project, steps)
        assert (promote(params, project).verdict, champion()) == ("promoted", number)


def test_rollback_goes_to_the_last_champion_that_exists(project: Path, params: Params) -> None:
    make_champions(project, params, 3)
    store.client().delete_model_version(NAME, "2")
    result = rollback(params)
    assert (result.version, champion()) == (1, 1)
    assert "version 2 was deleted" in result.describe()
    assert "promotion.rolled_back" in tags(3)
    with pytest.raises(UserError, match="version 1 is the first champion"):
        rollback(params)


def test_rollback_passes_over_a_champion_that_has_lost_its_files(project: Path, params: Params) -> None:
    make_champions(project, params, 3)
    shutil.rmtree(resolve_model(f"models:/{NAME}/2").parent)
    result = rollback(params)
    assert champion() == 1
    assert "version 2 has lost its files" in result.describe()


def test_rollback_without_any_champion_left_changes_nothing(project: Path, params: Params) -> None:
    make_champions(project, params, 3)
    for number in ("1", "2"):
        store.client().delete_model_version(NAME, number)
    trail = audit_trail(store.client(), NAME)
    with pytest.raises(UserError, match=r"version 2 was deleted, version 1 was deleted"):
        rollback(params)
    assert champion() == 3
    assert "promotion.rolled_back" not in tags(3)
    assert audit_trail(store.client(), NAME) == trail


def test_rollback_from_a_champion_that_was_deleted(project: Path, params: Params) -> None:
    make_champions(project, params, 3)
    store.client().delete_model_version(NAME, "3")
    assert champion() is None
    assert rollback(params).version == 2
    assert champion() == 2
    store.client().delete_registered_model_alias(NAME, CHAMPION)
    with pytest.raises(UserError, match="nothing to roll back"):
        rollback(params)


def test_rollback_from_a_champion_that_a_person_set_goes_to_the_last_of_the_trail(
    project: Path, params: Params
) -> None:
    make_champions(project, params, 2)
    register_model(project, 40)
    client = store.client()
    client.set_registered_model_alias(NAME, CHAMPION, "3")
    client.set_registered_model_tag(NAME, "promotion.note", "a person's own, and no JSON")
    assert rollback(params).version == 2
    assert rollback(params).version == 1
