"""dvc.yaml: each stage depends on what can change its bytes, and on nothing else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from ruamel.yaml import YAML

from flows.pipeline import STAGES as FLOW
from gpt.code import STAGES, stage_files
from gpt.params.corpus import Prepare
from gpt.params.evaluation import Evaluate
from gpt.params.training import Train
from gpt.training.checkpoints.fingerprint import BY_CONTENT, WITHOUT_EFFECT
from tests import ROOT

DVC: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def params_of(stage: str, section: str) -> set[str]:
    return {key.removeprefix(f"{section}.") for key in DVC[stage]["params"] if key.startswith(f"{section}.")}


def test_dvc_the_flow_and_the_code_know_the_same_stages() -> None:
    assert ["inputs", *STAGES] == list(DVC)
    assert sorted(FLOW) == sorted(DVC)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_code_by_content_and_on_no_file_of_code(stage: str) -> None:
    assert f"data/inputs/{stage}.json" in DVC["inputs"]["outs"]
    assert f"data/inputs/{stage}.json" in DVC[stage]["deps"]
    assert not [name for name in DVC[stage]["deps"] if name.endswith(".py")]
    assert [name for name in DVC[stage]["deps"] if name.startswith("data/inputs/")] == [f"data/inputs/{stage}.json"]


def test_the_code_of_a_stage_is_looked_at_whenever_dvc_runs() -> None:
    assert DVC["inputs"]["always_changed"] is True


def test_settings_that_decide_bytes_are_dependencies_and_others_are_not() -> None:
    assert params_of("pretrain", "train") == Train.model_fields.keys() - {*WITHOUT_EFFECT, *BY_CONTENT}
    assert params_of("fetch_weights", "train") == set(BY_CONTENT), "their bytes are what pretrain depends on"
    assert DVC["fetch_weights"]["outs"][0] in DVC["pretrain"]["deps"]
    assert params_of("report", "train") == params_of("pretrain", "train"), "the page names what decides the weights"
    assert params_of("prepare", "prepare") == Prepare.model_fields.keys() - {"engine"}
    assert params_of("evaluate", "evaluate") == Evaluate.model_fields.keys()
    assert all("launch" not in str(stage.get("params")) for stage in DVC.values())


def test_benchmarks_that_the_model_is_not_judged_by_are_nobodys_dependency() -> None:
    readers = [name for name, stage in DVC.items() if "data/benchmarks" in stage.get("deps", [])]
    assert readers == ["prepare", "evaluate"]
    assert "evaluate.benchmarks" in DVC["fetch_benchmarks"]["params"]


def test_no_benchmark_decides_a_weight() -> None:
    """Training scores them too, for MLflow only: with other items, or another way to score them, its bytes are the same."""
    assert not [name for name in DVC["pretrain"]["deps"] if "benchmark" in name]
    assert not [path for path in stage_files("pretrain") if "benchmarks" in path.parts]


def test_dvc_draws_the_data_card_before_the_run_that_it_is_logged_with(tmp_path: Path) -> None:
    """DVC runs stages that do not depend on each other in the order of dvc.yaml."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        graph = repo.index.graph
        order = [stage.addressing.rpartition(":")[2] for stage in plan_repro(graph, list(repo.index.stages))]
    assert order.index("data_card") < order.index("pretrain")
