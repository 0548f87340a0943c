"""Items of data/benchmarks as a task of lm-eval. Its own file, as it imports that library, which takes a second."""

# pyright: reportIncompatibleMethodOverride=false
# (lm-eval's class says nothing of types, which then are those of methods that return nothing.)

from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig

from gpt.evaluation.benchmarks.items import Benchmark


class ItemTask(Task):
    """Every choice of an item has its own context, and is asked for with it. A doc is {"id", "place"}."""

    VERSION = 1
    OUTPUT_TYPE = "loglikelihood"

    def __init__(self, benchmark: Benchmark) -> None:
        super().__init__()
        self._benchmark = benchmark
        self._config = TaskConfig(task=benchmark.name, num_fewshot=len(benchmark.examples), output_type="loglikelihood")
        self._docs = [{"id": item.id, "place": place} for place, item in enumerate(benchmark.items)]

    def download(self, *_: Any, **__: Any) -> None:
        """Nothing: the items are there."""

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return self._docs

    def build_all_requests(self, **_: Any) -> None:
        """Make the requests, without lm-eval's progress bar for each benchmark."""
        self._instances = [
            request
            for place, doc in enumerate(self._docs)
            for request in self.construct_requests(
                doc, self._benchmark.prefix, metadata=(self._benchmark.name, place, 1)
            )
        ]

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        item = self._benchmark.items[doc["place"]]
        return item.choices[item.answer].context

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        item = self._benchmark.items[doc["place"]]
        return item.choices[item.answer].continuation

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        choices = self._benchmark.items[doc["place"]].choices
        return [
            Instance("loglikelihood", doc, (ctx + choice.context, choice.continuation), index, kwargs["metadata"])
            for index, choice in enumerate(choices)
        ]

    def process_results(self, doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
        """Return acc, as all tasks of lm-eval have it; our own figures are made of the table of all choices."""
        item = self._benchmark.items[doc["place"]]
        if len(results) == 1:
            return {"acc": float(results[0][1])}
        return {"acc": float(int(np.argmax([likelihood for likelihood, _ in results])) == item.answer)}

    def aggregation(self) -> dict[str, Any]:
        return {"acc": mean}

    def higher_is_better(self) -> dict[str, bool]:
        return {"acc": True}
