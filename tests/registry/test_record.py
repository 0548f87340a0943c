"""The record of a version: whole at its run and in its model, and put together for versions that an earlier release registered."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.commands.main import main
from gpt.errors import UserError
from gpt.files import read_json, write_json
from gpt.params.project import Params
from gpt.registry.package import register
from gpt.registry.promotion import promote
from gpt.registry.record import FORMAT, installed_packages, list_stages, read_folder, read_record, threads_of
from gpt.registry.versions import find
from gpt.tracking import store
from tests.registry.conftest import describe_run, make_model, register_model
from tests.registry.test_lineage import write_lock

NAME = "small-gpt"
OLD = {
    "code_sha256": "c" * 64, "validation_documents_sha256": "d" * 64, "tokenizer_sha256": "e" * 64, "dvc_lock_matches": "true",
    "requirements_lock_sha256": "f" * 64, "python": "3.11.7", "torch": "2.13.0+cpu", "gpt": "0.1.0",
    "adopted": "abc after step 5 (nothing differs)",
}  # fmt: skip
"Tags that an earlier release gave to a version, besides those of today."


def record_of(version: int) -> dict[str, Any]:
    client = store.client()
    found = find(client, NAME, version)
    assert found
    return read_record(client, found).values


def model_record(project: Path) -> Path:
    (found,) = (project / "mlartifacts/models").rglob("artifacts/lineage/lineage.json")
    return found


def test_the_record_lies_at_the_run_and_in_the_model_and_is_the_same(project: Path, params: Params) -> None:
    write_lock(project)
    write_json(project / paths.INPUTS / "pretrain.json", {"code": {"gpt/a.py": "1"}, "versions": {"torch": "2.13.0"}})
    register(params, project)
    record = record_of(1)
    assert record["format"] == FORMAT
    assert record["stages"]["evaluate"]["outs"]["reports/evaluate.json"]["hash"]
    assert record["stages"]["pretrain"]["params"]["base.seed"] == record["training"]["seed"] == params.base.seed
    assert record["inputs"]["pretrain"]["code"] == {"gpt/a.py": "1"}
    assert record["params"]["train"]["learning_rate"] == params.train.learning_rate
    assert record["environment"]["packages"] == installed_packages()
    (source,) = record["sources"]
    assert (source["name"], source["licence"], source["sha256"]) == (
        "made-up",
        "none",
        params.fetch.sources[0].identity,
    )
    assert read_json(model_record(project), "") == record
    assert read_folder(model_record(project).parent).files["params.yaml"] == (project / "params.yaml").read_bytes()


def test_a_lock_of_another_evaluation_is_no_record_of_this_model(project: Path, params: Params) -> None:
    write_lock(project)
    lock = project / "dvc.lock"
    lock.write_text(lock.read_text().replace("reports/evaluate.json", "metrics/other.json"))
    register(params, project)
    assert record_of(1)["stages"] == {}


def test_parents_are_the_run_the_champion_of_then_and_the_run_that_was_taken_over(
    project: Path, params: Params
) -> None:
    first = register(params, project)
    promote(params, project)
    make_model(project, steps=6)
    adopted = [{"fingerprint": "run-5-0", "step": 3, "differences": ["params.yaml: train.beta1 was 0.8, is 0.9"]}]
    write_json(project / paths.RUN, describe_run(project, "run-6") | {"adopted": adopted})
    second = register(params, project)
    parents = record_of(2)["parents"]
    assert record_of(1)["parents"] == {
        "run_id": first.run_id,
        "champion": None,
        "adopted": [],
        "continues": None,
        "started_from": None,
    }
    assert parents["run_id"] == second.run_id
    assert parents["champion"]["version"] == 1
    assert parents["champion"]["weights_sha256"] == record_of(1)["model"]["weights_sha256"]
    assert parents["adopted"] == [adopted[0] | {"run_id": first.run_id}]


def make_old(project: Path) -> None:
    """Turn version 1 into one that an earlier release registered: forty tags, no record."""
    client = store.client()
    for name, value in OLD.items():
        client.set_model_version_tag(NAME, "1", name, value)
    for path in list((project / "mlartifacts").rglob("lineage.json")):
        if path.parent.parent.name == "artifacts" and path.parent.name == "lineage":
            shutil.rmtree(path.parent)
        else:
            path.unlink()


def test_a_version_of_an_earlier_release_is_read_described_promoted_and_found_again(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lock(project)
    before = (register(params, project), record_of(1))[1]
    make_old(project)
    record = record_of(1)
    for part in ("stages", "sources", "params", "params_sha256"):
        assert record[part] == before[part], part
    assert record["model"]["weights_sha256"] == before["model"]["weights_sha256"]
    assert record["training"] == before["training"]
    assert record["environment"]["packages"] == {"torch": "2.13.0+cpu"}
    assert main(["lineage"]) == 0
    said = capsys.readouterr().out
    assert "took over abc after step 5" in said
    assert f"sha256 {params.fetch.sources[0].identity[:12]}, licence: none" in said
    assert not register(params, project).new, "it is the same model"
    assert main(["promote"]) == 0


def test_a_lost_record_and_one_of_a_newer_release_are_one_clear_error(project: Path, params: Params) -> None:
    register(params, project)
    client = store.client()
    for path in list((project / "mlartifacts").rglob("lineage.json")):
        if "models" not in path.parts:
            shutil.rmtree(path.parent)
    assert record_of(1)["format"] == FORMAT, "its model has it too"
    path = model_record(project)
    write_json(path, read_json(path, "") | {"format": FORMAT + 1})
    with pytest.raises(UserError, match="written by a newer release"):
        record_of(1)
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        record_of(1)
    shutil.rmtree(path.parent)
    with pytest.raises(UserError, match="neither at its run nor in its model"):
        record_of(1)
    client.create_model_version(NAME, "file:///nowhere", tags={})
    with pytest.raises(UserError, match="not registered by `gpt register`"):
        record_of(2)


def test_lineage_shows_the_chain_or_all_of_it_and_draws_it(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lock(project)
    register(params, project)
    assert main(["lineage", "@candidate", "--picture", "chain.svg"]) == 0
    said = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in said.splitlines() if line and not line.startswith(" ")]
    assert rows[1:6] == ["model", "← training", "← tokens", "← documents", "← sources"]
    assert said.startswith(f"models:/{NAME}/1  @candidate  registered ")
    assert main(["lineage", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record_of(1)
    assert (project / "chain.svg").read_text().startswith("<svg")
    model = model_record(project).parents[2]
    for place in (model, model / "artifacts", model / "artifacts/model", model_record(project).parent):
        assert main(["lineage", str(place), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == record_of(1), "a downloaded model says it too"
    assert main(["lineage", "models"]) == 2
    assert "holds no lineage.json" in capsys.readouterr().err
    assert main(["lineage", "--picture", "chain.png"]) == 2
    assert "ends with .svg" in capsys.readouterr().err
    assert main(["lineage", "--picture", "none/chain.svg"]) == 2
    assert main(["lineage", "@champion"]) == 2


def test_stages_of_a_lock_are_hashes_by_path_whatever_their_kind() -> None:
    lock = b"""
stages:
  fetch:
    cmd: gpt fetch
    deps:
    - {path: "s3://bucket/a", etag: e1, hash: etag, size: 3}
    params: {params.yaml: {base.seed: 1}}
    outs:
    - {path: data/raw, hash: md5, md5: a1.dir, size: 7, nfiles: 2}
"""
    stage = list_stages(lock)["fetch"]
    assert stage["deps"] == {"s3://bucket/a": {"hash": "e1", "size": 3}}
    assert stage["outs"] == {"data/raw": {"hash": "a1.dir", "size": 7}}
    assert stage["params"] == {"base.seed": 1}
    assert list_stages(b"") == list_stages(b"stages: [") == {}


def test_threads_are_those_that_the_hardware_says() -> None:
    assert threads_of("2 of 4 x AMD EPYC, threads: 2") == 2
    assert threads_of("1 x NVIDIA H100") is None


def test_two_models_share_no_record(project: Path, params: Params) -> None:
    register(params, project)
    register_model(project, steps=6)
    assert record_of(1)["model"]["weights_sha256"] != record_of(2)["model"]["weights_sha256"]
