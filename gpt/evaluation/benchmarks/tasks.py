"""Benchmarks as tasks of lm-eval, run by its own evaluator: those that `gpt fetch` brought, and others by their name there."""

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt.errors import UserError
from gpt.evaluation.benchmarks.figures import tabulate
from gpt.evaluation.benchmarks.items import Benchmark
from gpt.evaluation.scores import Items
from gpt.params.evaluation import Evaluate, ForBenchmark

if TYPE_CHECKING:
    from lm_eval.api.model import LM

_FEWSHOT_SEED = 1234  # lm-eval's own
_NO_TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def run_benchmarks(lm: "LM", benchmarks: Sequence[Benchmark]) -> Items:
    """Score the items through lm-eval. It reads no file, and asks no network."""
    if not benchmarks:
        return tabulate([], np.empty(0), np.empty(0, np.bool_))
    with quiet_lm_eval():
        from lm_eval import evaluator

        from gpt.evaluation.benchmarks.item_task import ItemTask

        tasks: Any = {"tasks": {benchmark.name: ItemTask(benchmark) for benchmark in benchmarks}, "groups": {}}
        results: Any = evaluator.evaluate(lm, tasks, bootstrap_iters=0)
    assert results is not None, "one process has all results"
    answers = [
        answer
        for benchmark in benchmarks
        for sample in results["samples"][benchmark.name]
        for answer in sample["filtered_resps"]
    ]
    nats, greedy = (np.array(column) for column in zip(*answers, strict=True))
    if not np.isfinite(nats).all():
        raise UserError(
            "benchmarks: an answer's likelihood is not a finite number; the weights have diverged, or evaluate.precision cannot"
            " hold its numbers (fp32 can)"
        )
    return tabulate(benchmarks, -nats.astype(np.float64), greedy.astype(np.bool_))


def run_tasks(lm: "LM", settings: Evaluate) -> dict[str, dict[str, float]]:
    """Return the figures of the tasks of evaluate.tasks as lm-eval names them, such as {"mmlu": {"acc": 0.25, …}}.

    lm-eval brings their items from the network. Raises `UserError` for a name that it does not know, and where items do not come.
    """
    if not settings.tasks:
        return {}
    with quiet_lm_eval():
        from lm_eval import evaluator
        from lm_eval.tasks import TaskManager

        manager = TaskManager()
        if unknown := [name for name in settings.tasks if name not in manager.all_tasks]:
            raise UserError(
                f"params.yaml: evaluate.tasks: {', '.join(unknown)} is no task of lm-eval; `lm-eval ls tasks` lists them"
            )
        loaded: dict[str, Any] = {"tasks": {}, "groups": {}}
        samples: dict[str, list[int]] = {}
        for name in settings.tasks:
            with _told_if_missing(name):
                found: Any = manager.load([name])
                for each, task in found["tasks"].items():
                    samples |= _prepare(each, task, settings.of(name))
            loaded["tasks"] |= found["tasks"]
            loaded["groups"] |= found["groups"]
        try:
            results: Any = evaluator.evaluate(lm, loaded, samples=samples or None, bootstrap_iters=0)  # pyright: ignore[reportArgumentType]
        except (
            ValueError,
            ImportError,
        ) as error:  # of a task that runs code which the model writes, or needs a package
            raise UserError(
                f"params.yaml: evaluate.tasks: lm-eval refuses {', '.join(settings.tasks)}: {_shortened(error)}; take it out"
            ) from error
    assert results is not None, "one process has all results"
    return {name: dict(_numbers(figures)) for name, figures in results["results"].items()}


def _prepare(name: str, task: Any, own: ForBenchmark) -> dict[str, list[int]]:
    """Set a task's examples; return under its name which items are asked, if there is a limit."""
    if own.num_fewshot:
        task.set_config("num_fewshot", own.num_fewshot)
    task.set_fewshot_seed(_FEWSHOT_SEED)
    return {name: _sample(name, len(task.eval_docs), own.limit)} if own.limit else {}


@contextmanager
def _told_if_missing(name: str) -> Iterator[None]:
    """Turn what libraries raise where a task's items cannot be brought into a `UserError`. A bug of ours is none of these."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    # No connection, no such address, a wrong certificate; a package that the task needs; a set that `datasets` does not read
    # (any more), in another form, or only after one has agreed to its terms.
    except (OSError, ImportError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(
            f"params.yaml: evaluate.tasks: lm-eval could not load {name} ({_shortened(error)}); see that the network and what the"
            " task needs are there, or take it out"
        ) from error


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _sample(name: str, count: int, limit: int) -> list[int]:
    """Return which of a task's items a limit takes: a smaller one a part of what a larger takes."""
    places = sorted(range(count), key=lambda place: hashlib.sha256(f"{name}/{place}".encode()).digest())
    return sorted(places[:limit])


def _numbers(figures: Any) -> Iterator[tuple[str, float]]:
    """Yield a task's figures; "acc,none" of lm-eval is acc, as most tasks filter nothing."""
    for key, value in figures.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield key.removesuffix(",none").replace(",", "/"), value


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Let lm-eval and what it imports say errors only, and tell nobody that they run: they ask for that when they are imported."""
    before = os.environ.get(_NO_TELEMETRY)
    levels = {name: logging.getLogger(name).level for name in ("lm_eval", "datasets")}
    os.environ[_NO_TELEMETRY] = "1"
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        os.environ.pop(_NO_TELEMETRY)
        if before is not None:
            os.environ[_NO_TELEMETRY] = before
