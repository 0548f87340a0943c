"""Benchmarks while training: what MLflow gets, whatever the processes and stops, and that no weight depends on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json, write_json
from gpt.params.project import load_params
from gpt.training.pretrain import pretrain
from tests.evaluation.benchmarks.made_up import make_items, write_items
from tests.training.test_trainer import WEIGHTS, start, the_run, wait_for_checkpoint

BENCHMARKS = {"evaluate": {"benchmarks": ["quiz", "last_word"]}}
ASKED = {"train": {"benchmark_interval": 6, "max_steps": 12, "optimizer": "adamw"}}


def bring_items() -> None:
    write_items(paths.BENCHMARKS, [*make_items("quiz", 20, 3, longest=4), *make_items("last_word", 20, 1, longest=4)])
    report = read_json(paths.DOCUMENTS / "report.json", "")
    report["contaminated"] |= {name: {"touched": []} for name in ("quiz", "last_word")}
    write_json(paths.DOCUMENTS / "report.json", report)


def told() -> dict[str, list[tuple[int, float]]]:
    """What MLflow has of benchmarks: by key the steps and values."""
    client, run = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db"), the_run()
    keys = [key for key in run.data.metrics if key.startswith("validation/benchmarks/")]
    return {
        key: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)] for key in keys
    }


def test_they_are_told_to_mlflow_and_change_no_weight(make_project: Callable[..., Path]) -> None:
    make_project("with", **BENCHMARKS, **ASKED)
    bring_items()
    pretrain(load_params())
    figures, weights = told(), WEIGHTS.read_bytes()
    assert {step for values in figures.values() for step, _ in values} == {6, 12}
    assert {
        f"validation/benchmarks/{key}" for key in ("accuracy/quiz", "perplexity/last_word", "centred")
    } <= figures.keys()
    make_project("without", train=ASKED["train"] | {"benchmark_interval": 0}, **BENCHMARKS)
    pretrain(load_params())
    assert WEIGHTS.read_bytes() == weights
    assert told() == {}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_tell_what_one_tells(make_project: Callable[..., Path], strategy: str) -> None:
    one: dict[str, object] = {"num_processes": 1, "micro_batch_size": 8}
    two: dict[str, object] = {"num_processes": 2, "micro_batch_size": 4, "strategy": strategy}
    results = []
    for name, launch in (("one", one), ("two", two)):
        make_project(name, launch=launch, **BENCHMARKS, model={"dropout": 0.0}, **ASKED)
        bring_items()
        process = start()
        output = process.communicate()
        assert process.returncode == 0, output
        results.append(told())
    assert results[0].keys() == results[1].keys()
    for key, values in results[0].items():
        assert [step for step, _ in results[1][key]] == [6, 12]
        assert [value for _, value in results[1][key]] == pytest.approx([value for _, value in values], rel=2e-3), key


@pytest.mark.slow
def test_a_run_that_was_killed_tells_the_same_once_it_goes_on(make_project: Callable[..., Path]) -> None:
    train = ASKED["train"] | {
        "max_steps": 300,
        "benchmark_interval": 50,
        "checkpoint_interval": 20,
        "eval_interval": 300,
    }
    make_project("whole", **BENCHMARKS, train=train)
    bring_items()
    pretrain(load_params())
    expected = told()
    make_project("killed", **BENCHMARKS, train=train)
    bring_items()
    process = start()
    wait_for_checkpoint(process, 120)
    process.kill()
    process.communicate()
    pretrain(load_params())
    assert told() == expected


def test_items_that_are_missing_are_one_clear_error(make_project: Callable[..., Path]) -> None:
    make_project(**BENCHMARKS, **ASKED)
    with pytest.raises(UserError, match=r"or set train\.benchmark_interval to 0"):
        pretrain(load_params())
    assert not list(Path("checkpoints").glob("*/step_*"))
