"""Benchmarks scored beside lm-eval's model of Hugging Face, with the same weights: `python -m benchmarks lm [--items N]`.

Items are those of data/benchmarks (`gpt fetch benchmarks`), the tokenizer is trained on their texts. Both models take turns in one
process on the same requests through lm-eval's interface. The batch size of Hugging Face's is the fastest of several for
each benchmark. Accuracies must be equal, log-likelihoods to 1e-4.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import torch

from gpt import paths
from gpt.evaluation.benchmarks.figures import tabulate
from gpt.evaluation.benchmarks.items import Benchmark, read_benchmark
from gpt.model.convert.huggingface import export_huggingface
from gpt.model.storage import load_model, save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import load_params
from gpt.params.tokens import Tokenizer
from gpt.tokens.tokenizer import GPT2_PATTERN, build_tokenizer, save_tokenizer

_ITEMS = 500
_BATCH_SIZES = (4, 16, 64)
_VOCABULARY, _BLOCK_SIZE = 2048, 512
_STEPS, _ROWS = 60, 16
_TEXTS = 2000


def measure(items: int = _ITEMS) -> list[str]:
    """Return a markdown table: a row for each benchmark and model; raise `AssertionError` where they do not agree."""
    benchmarks = [
        read_benchmark(name, paths.BENCHMARKS, limit=items, num_fewshot=0, touched=frozenset())
        for name in load_params().evaluate.benchmarks
    ]
    rows = [
        "| weights | benchmark | items | accuracy, gpt | transformers | largest difference, nats | seconds, gpt"
        " | transformers (batch) | ratio |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for kind, folder in _models(Path(temporary), benchmarks).items():
            totals = np.zeros(2)
            for benchmark in benchmarks:
                row, seconds = _race(kind, folder, benchmark)
                rows.append(row)
                totals += seconds
                print(row, flush=True)
            rows.append(
                f"| {kind} | all | | | | | {totals[0]:.1f} | {totals[1]:.1f} | **{totals[1] / totals[0]:.2f} ×** |"
            )
            print(rows[-1], flush=True)
    return rows


def _race(kind: str, folder: Path, benchmark: Benchmark) -> tuple[str, tuple[float, float]]:
    from lm_eval.api.instance import Instance

    from gpt.evaluation.benchmarks.lm import GPTLM

    requests = [Instance("loglikelihood", {}, pair, 0, ("", 0, 1)) for pair in benchmark.requests()]
    ours = GPTLM(*load_model(folder / "model"))
    ours.loglikelihood(requests[:8])
    own, own_seconds = _timed(ours, requests)
    theirs: list[tuple[float, bool]] = []
    best = (float("inf"), 0)
    for size in _BATCH_SIZES:
        lm = _hugging_face(folder / "exported", size)
        lm.loglikelihood(requests[:8], disable_tqdm=True)
        theirs, seconds = _timed(lm, requests, disable_tqdm=True)
        best = min(best, (seconds, size))
    tables = [
        tabulate([benchmark], -np.array([n for n, _ in each]), np.array([g for _, g in each])) for each in (own, theirs)
    ]
    accuracies = [float(table.correct.mean()) for table in tables]
    difference = max(abs(one - other) for (one, _), (other, _) in zip(own, theirs, strict=True))
    assert accuracies[0] == accuracies[1], f"{kind} {benchmark.name}: accuracies differ: {accuracies}"
    assert difference < 1e-4 * max(1.0, max(abs(nats) for nats, _ in own)), f"{kind} {benchmark.name}: {difference}"
    row = (
        f"| {kind} | {benchmark.name} | {len(benchmark.items)} | {accuracies[0]:.4f} | {accuracies[1]:.4f} | {difference:.1e}"
        f" | {own_seconds:.1f} | {best[0]:.1f} ({best[1]}) | {best[0] / own_seconds:.2f} × |"
    )
    return row, (own_seconds, best[0])


def _timed(lm: Any, requests: list[Any], **options: Any) -> tuple[list[tuple[float, bool]], float]:
    begun = time.perf_counter()
    found = lm.loglikelihood(requests, **options)
    return found, time.perf_counter() - begun


def _hugging_face(folder: Path, batch_size: int) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers
    from lm_eval.models.huggingface import HFLM

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return HFLM(str(folder), device="cpu", dtype="float32", batch_size=batch_size, max_length=_BLOCK_SIZE)


def _models(folder: Path, benchmarks: list[Benchmark]) -> dict[str, Path]:
    """Write a GPT-2 of random weights and a trained one, each in our form and in that of Hugging Face."""
    texts = [
        item.choices[item.answer].context + item.choices[item.answer].continuation
        for benchmark in benchmarks
        for item in benchmark.items
    ][:_TEXTS]
    tokenizer = folder / "tokenizer"
    encoding = build_tokenizer(
        Tokenizer(kind="bpe", vocab_size=_VOCABULARY, train_bytes=10**8), texts, folder / "learned"
    )
    # GPT-2's way to cut text, which transformers knows as its own.
    save_tokenizer("gpt2", GPT2_PATTERN, encoding._mergeable_ranks, encoding._special_tokens, tokenizer)
    model = GPTModel(GPTConfig(encoding.n_vocab, n_layer=4, n_head=4, n_embd=256, block_size=_BLOCK_SIZE))
    model.init_weights(1)
    made = {}
    for kind in ("random", "trained"):
        if kind == "trained":
            _train(model, encoding, texts)
        made[kind] = folder / kind
        save_model(model, tokenizer, folder / kind / "model")
        export_huggingface(folder / kind / "model", folder / kind / "exported")
    return made


def _train(model: GPTModel, encoding: tiktoken.Encoding, texts: list[str]) -> None:
    """Take a few steps on the texts: enough that tokens are far from equally likely."""
    tokens = torch.tensor([token for text in texts for token in [encoding.eot_token, *encoding.encode_ordinary(text)]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(_STEPS):
        starts = torch.randint(len(tokens) - 65, (_ROWS,), generator=draw)
        rows = tokens[starts[:, None] + torch.arange(65)]
        loss, _ = model(rows[:, :-1], rows[:, 1:], scale=1 / (_ROWS * 64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lm")
    parser.add_argument("--items", type=int, default=_ITEMS, help="of each benchmark (default: %(default)s)")
    measure(parser.parse_args().items)
