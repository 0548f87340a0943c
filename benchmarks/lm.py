"""Benchmarks scored beside lm-eval's model of Hugging Face, with the same weights: `python -m benchmarks lm [--items N]`.

Items are those of data/benchmarks (`gpt fetch benchmarks`), the tokenizer is trained on their texts. Both models take turns in one
process on the same requests through lm-eval's interface, in fp32. The batch size of Hugging Face's is the fastest of several for
each benchmark. Accuracies and greedy answers must be equal, log-likelihoods to 1e-4 nats, whatever their size. Theirs adds up a
continuation's tokens in fp32, which alone can round that much away from a sum of hundreds of nats: where the two differ by more,
ours must be within 1e-4 of what Hugging Face's model gives in float64.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

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
_TURN = 100
"Items that each is asked in turn: other work on the machine then slows both alike."
_TRIED, _EXACT = 20, 50
"Items on which batch sizes are tried, and of which float64 is computed."
_BATCH_SIZES = (4, 16, 64)
_VOCABULARY, _BLOCK_SIZE = 2048, 512  # lm-eval gives up on an answer that is longer than a block; PIQA has some of 300
_WIDTH = 128
_STEPS, _ROWS = 200, 16
_TEXTS = 2000
_TOLERANCE = 1e-4  # nats, of a continuation's log-likelihood
_FASTER = 1.5

Answers = list[tuple[float, bool]]


def measure(items: int = _ITEMS) -> list[str]:
    """Return a markdown table: a row for each benchmark and model; raise `AssertionError` where the two do not agree."""
    benchmarks = [
        read_benchmark(name, paths.BENCHMARKS, limit=items, num_fewshot=0, touched=frozenset())
        for name in load_params().evaluate.benchmarks
    ]
    rows = [
        "| weights | benchmark | items | accuracy, gpt | transformers | largest difference, nats | gpt to fp64"
        " | transformers to fp64 | seconds, gpt | transformers (batch) | ratio | of processor time |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for kind, folder in _models(Path(temporary), benchmarks).items():
            seconds = np.zeros((2, 2))
            for benchmark in benchmarks:
                race = _race(folder, benchmark)
                race.check()
                rows.append(f"| {kind} {race.row()}")
                seconds += race.seconds
                print(rows[-1], flush=True)
            (own, theirs), (ratio, of_processor) = seconds[:, 0], seconds[1] / seconds[0]
            rows.append(
                f"| {kind} | all | | | | | | | {own:.1f} | {theirs:.1f} | **{ratio:.2f} ×** | {of_processor:.2f} × |"
            )
            print(rows[-1], flush=True)
            assert items < _ITEMS or ratio >= _FASTER, f"{kind}: only {ratio:.2f} times as fast"
    return rows


@dataclass(frozen=True)
class _Race:
    """What both answered to a benchmark, and in which time."""

    benchmark: Benchmark
    own: Answers
    theirs: Answers
    exact: dict[int, float]
    "By request, what Hugging Face's model answers in float64: to the first, and to those to which the two answer otherwise."
    seconds: np.ndarray
    "(2, 2): by the clock and of the processor, ours and theirs."
    batch_size: int

    @property
    def accuracies(self) -> list[float]:
        tables = (
            tabulate([self.benchmark], -np.array([nats for nats, _ in each]), np.array([greedy for _, greedy in each]))
            for each in (self.own, self.theirs)
        )
        return [float(table.correct.mean()) for table in tables]

    def check(self) -> None:
        """Raise `AssertionError` if the answers are not the same, or ours is the one that float64 disagrees with."""
        assert self.accuracies[0] == self.accuracies[1], f"{self.benchmark.name}: accuracies {self.accuracies}"
        assert [greedy for _, greedy in self.own] == [greedy for _, greedy in self.theirs], self.benchmark.name
        for number in _apart(self.own, self.theirs):
            assert abs(self.own[number][0] - self.exact[number]) < _TOLERANCE, f"{self.benchmark.name}: {self.row()}"

    def row(self) -> str:
        apart = len(_apart(self.own, self.theirs))
        largest = max(abs(own - theirs) for (own, _), (theirs, _) in zip(self.own, self.theirs, strict=True))
        rounding = (
            max(abs(answers[number][0] - exact) for number, exact in self.exact.items())
            for answers in (self.own, self.theirs)
        )
        cells = [
            self.benchmark.name,
            str(len(self.benchmark.items)),
            *(f"{accuracy:.4f}" for accuracy in self.accuracies),
            f"{largest:.1e}" + (f" ({apart} of {len(self.own):,} above 1e-4)" if apart else ""),
            *(f"{gap:.1e}" for gap in rounding),
            f"{self.seconds[0, 0]:.1f}",
            f"{self.seconds[1, 0]:.1f} ({self.batch_size})",
            *(f"{ratio:.2f} ×" for ratio in self.seconds[1] / self.seconds[0]),
        ]
        return f"| {' | '.join(cells)} |"


def _apart(own: Answers, theirs: Answers) -> list[int]:
    """Return the numbers of the requests whose log-likelihoods differ by the tolerance or more."""
    return [n for n, pair in enumerate(zip(own, theirs, strict=True)) if abs(pair[0][0] - pair[1][0]) >= _TOLERANCE]


def _race(folder: Path, benchmark: Benchmark) -> _Race:
    from gpt.evaluation.benchmarks.lm import GPTLM

    def some(first: int, count: int) -> list[Any]:
        return _requests(replace(benchmark, items=benchmark.items[first : first + count]))

    ours, batch_size = GPTLM(*load_model(folder / "model")), _fastest(folder, some(0, _TRIED))
    theirs, exact = (_hugging_face(folder / "exported", batch_size, dtype) for dtype in ("float32", "float64"))
    found: tuple[Answers, Answers] = ([], [])
    seconds = np.zeros((2, 2))
    for number, first in enumerate(range(0, len(benchmark.items), _TURN)):
        requests = some(first, _TURN)
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            begun = _clocks()
            answers = ours.loglikelihood(requests) if place == 0 else theirs.loglikelihood(requests, disable_tqdm=True)
            seconds[place] += _clocks() - begun
            found[place].extend(answers)
    requests = _requests(benchmark)
    checked = sorted({*range(len(some(0, _EXACT))), *_apart(*found)})
    answers = exact.loglikelihood([requests[number] for number in checked], disable_tqdm=True)
    in_float64 = {number: nats for number, (nats, _) in zip(checked, answers, strict=True)}
    return _Race(benchmark, *found, in_float64, seconds, batch_size)


def _clocks() -> np.ndarray:
    """Return seconds by the clock, and of the processor in this process's threads: the latter hardly see other work."""
    return np.array([time.perf_counter(), time.process_time()])


def _requests(benchmark: Benchmark) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance("loglikelihood", {}, pair, 0, ("", 0, 1)) for pair in benchmark.requests()]


def _fastest(folder: Path, requests: list[Any]) -> int:
    """Return the batch size with which Hugging Face's model needs the least of the processor."""
    seconds: dict[int, float] = {}
    for size in _BATCH_SIZES:
        lm = _hugging_face(folder / "exported", size, "float32")
        lm.loglikelihood(requests[:8], disable_tqdm=True)
        begun = time.process_time()
        lm.loglikelihood(requests, disable_tqdm=True)
        seconds[size] = time.process_time() - begun
    return min(seconds, key=seconds.__getitem__)


def _hugging_face(folder: Path, batch_size: int, dtype: str) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers
    from lm_eval.models.huggingface import HFLM

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = cast("Any", HFLM)  # a decorator hides its arguments from type checkers
    return kind(str(folder), device="cpu", dtype=dtype, batch_size=batch_size, max_length=_BLOCK_SIZE)


def _models(folder: Path, benchmarks: list[Benchmark]) -> dict[str, Path]:
    """Write a GPT-2 of random weights and a trained one, each in our form and in that of Hugging Face."""
    texts = [
        item.choices[item.answer].context + item.choices[item.answer].continuation
        for benchmark in benchmarks
        for item in benchmark.items
    ][:_TEXTS]
    tokenizer = folder / "tokenizer"
    encoding = build_tokenizer(
        Tokenizer(kind="bpe", vocab_size=_VOCABULARY, train_bytes=10**8, special_tokens=()), texts, folder / "learned"
    )
    assert isinstance(encoding, tiktoken.Encoding)
    # GPT-2's way to cut text, which transformers knows as its own.
    save_tokenizer("gpt2", GPT2_PATTERN, encoding._mergeable_ranks, encoding._special_tokens, tokenizer)
    model = GPTModel(GPTConfig(encoding.n_vocab, n_layer=4, n_head=4, n_embd=_WIDTH, block_size=_BLOCK_SIZE))
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
