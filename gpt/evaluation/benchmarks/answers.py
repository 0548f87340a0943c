"""What a finished model answers to the benchmarks, beside an untrained model of its shape: scores, and the figures made of them."""

import math
from typing import Any

import numpy as np
import torch

from gpt import paths
from gpt.evaluation.benchmarks.continuations import encode_pair, score_continuations
from gpt.evaluation.benchmarks.figures import centred_score, summarise, tabulate
from gpt.evaluation.benchmarks.items import Benchmark, read_all
from gpt.evaluation.benchmarks.tasks import quiet_lm_eval, run_benchmarks, run_tasks
from gpt.evaluation.scores import Items
from gpt.model.transformer import GPTModel
from gpt.params.project import Params
from gpt.processes.agreement import Share
from gpt.tokens.encoding import Encoding

Figures = dict[str, Any]


def score_benchmarks(
    params: Params,
    model: GPTModel,
    encoding: Encoding,
    *,
    autocast: torch.dtype | None = None,
    share: Share | None = None,
    all_items: bool = False,
) -> tuple[Figures, Items]:
    """Return `benchmarks`, `centred` and, if params.yaml names some, `tasks`, and the table of items that they are made of.

    Each benchmark has its figures of all scored items, `clean` those of items of which no training document had a passage, and
    `untrained` what weights that have learned nothing give to the right answers. `all_items` overrides limits. Processes that
    share the work all get the whole.
    """
    with quiet_lm_eval():
        from gpt.evaluation.benchmarks.lm import GPTLM  # lm-eval takes a second to import

    share = share or Share()
    settings = params.evaluate
    if all_items:
        by_benchmark = {name: change | {"limit": 0} for name, change in settings.by_benchmark.items()}
        settings = settings.model_copy(update={"limit": 0, "by_benchmark": by_benchmark})
    benchmarks = read_all(settings, paths.BENCHMARKS, paths.DOCUMENTS)
    lm = GPTLM(model, encoding, autocast=autocast, share=share)
    items = run_benchmarks(lm, benchmarks)
    summary = summarise(items, [benchmark.name for benchmark in benchmarks])
    if benchmarks:
        untrained = _untrained(params, model, encoding, benchmarks, autocast, share)
        for name, figures in summary.items():
            figures["untrained"] = untrained[name]
    figures: Figures = {"benchmarks": summary, "centred": centred_score(summary)}
    if settings.tasks:
        figures["tasks"] = run_tasks(lm, settings)
    return figures, items


def _untrained(
    params: Params,
    model: GPTModel,
    encoding: Encoding,
    benchmarks: list[Benchmark],
    autocast: torch.dtype | None,
    share: Share,
) -> dict[str, Figures]:
    """Return bits per byte and perplexity of the right answers under weights as training begins with."""
    blank = GPTModel(model.config)
    blank.init_weights(params.base.seed)
    blank.to(model.tok_emb.weight.device)
    only_right = [benchmark.with_right_choices() for benchmark in benchmarks]
    pairs = [encode_pair(encoding, *request) for benchmark in only_right for request in benchmark.requests()]
    if blank.head_weight.any():
        nats = share.add_up(score_continuations(blank, pairs, autocast=autocast, part=share.part).nats)
    else:  # init: zero makes all logits 0, whatever was read: each token is as likely as any other
        nats = np.array([len(pair.continuation) * math.log(model.config.vocab_size) for pair in pairs])
    table = tabulate(only_right, nats, np.zeros(len(pairs), np.bool_))  # what it would write is not asked
    summary = summarise(table, [benchmark.name for benchmark in benchmarks])
    is_written = {benchmark.name: all(len(item.choices) == 1 for item in benchmark.items) for benchmark in benchmarks}
    return {
        name: {"bits_per_byte": figures["bits_per_byte"]}
        | ({"perplexity": figures["perplexity"]} if is_written[name] else {})
        for name, figures in summary.items()
    }
