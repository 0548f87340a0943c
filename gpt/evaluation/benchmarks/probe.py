"""What a small part of the benchmarks scores while a model is trained, for MLflow to draw. It decides nothing.

The items are asked directly: lm-eval, through which `gpt evaluate` asks, takes long to import. All processes share them.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule

from gpt.errors import UserError
from gpt.evaluation.benchmarks.continuations import Pair, encode_pair, score_continuations
from gpt.evaluation.benchmarks.figures import centred_score, summarise, tabulate
from gpt.evaluation.benchmarks.items import Benchmark, read_all
from gpt.files import sha256_json
from gpt.model.transformer import GPTModel
from gpt.params.evaluation import Evaluate
from gpt.processes.agreement import Share
from gpt.tokens.encoding import Encoding

ITEMS = 50
"Of each benchmark: bits per byte of right answers are steady with so few; accuracies are not, and differ by some points."
_SHOWN = ("accuracy", "accuracy_norm", "bits_per_byte", "perplexity")


def read_part(settings: Evaluate, folder: Path, documents: Path) -> list[Benchmark]:
    """Return the items that are scored while training, always the same; raise `UserError` for missing files."""
    few = settings.model_copy(update={"limit": ITEMS, "num_fewshot": 0, "by_benchmark": {}})
    try:
        return read_all(few, folder, documents)
    except UserError as error:
        raise UserError(f"{error}, or set train.benchmark_interval to 0") from None


class Probe:
    """Benchmarks with their texts as tokens, to be scored again and again."""

    def __init__(self, benchmarks: list[Benchmark], encoding: Encoding) -> None:
        self._benchmarks = benchmarks
        self._pairs: list[Pair] = [
            encode_pair(encoding, *request) for benchmark in benchmarks for request in benchmark.requests()
        ]

    def identity(self) -> int:
        """Return a number that another one is as soon as a token is: processes that share the items must have the same."""
        return int(sha256_json(self._pairs)[:12], 16)

    def score(
        self,
        model: GPTModel,
        accelerator: Accelerator,
        *,
        autocast: torch.dtype | None,
        give_up: Callable[[], bool],
    ) -> dict[str, float] | None:
        """Return figures as `benchmarks/FIGURE/NAME` and `benchmarks/centred`, the same in all processes.

        None if `give_up` said so. All processes call this, and `give_up` in it, together. Neither the model nor a random
        number is changed.
        """
        is_split = isinstance(model, FSDPModule)
        share = Share(accelerator)
        if is_split:
            with torch.no_grad():
                model(
                    torch.zeros((1, 1), dtype=torch.int64, device=accelerator.device)
                )  # FSDP begins with a whole pass
            model.unshard()  # what is not in a block: embeddings and the head
        try:
            scores = score_continuations(
                model,
                self._pairs,
                autocast=autocast,
                part=share.part,
                give_up=give_up,
                share_contexts=not is_split,
            )
        finally:
            if is_split:
                model.reshard()
        nats, misses = share.add_up(scores.to_array())
        if give_up():
            return None
        names = [benchmark.name for benchmark in self._benchmarks]
        summary = summarise(tabulate(self._benchmarks, nats, misses == 0), names)
        figures = {
            f"benchmarks/{key}/{name}": values[key]
            for name, values in summary.items()
            for key in _SHOWN
            if values[key] is not None
        }
        centred = centred_score(summary)
        return figures if centred is None else figures | {"benchmarks/centred": centred}
