"""Generation beside transformers' own, with the same weights: `make bench`, or `python -m benchmarks.generation`.

Greedy, so that both must write the same tokens. transformers keeps keys and values too, in its dynamic or its static cache,
whichever is faster; all take their turns in one process. Preparing a call (copies of weights, caches, the prompt) counts.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gpt.model.convert.architectures import GPT2
from gpt.model.generation import generate_tokens
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTConfig, GPTModel

_ROUNDS = 5
_PROMPT_TOKENS = 16

Rows = list[list[int]]


@dataclass(frozen=True)
class Size:
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    new_tokens: int
    batch_size: int

    def __str__(self) -> str:
        return f"{self.n_layer} × {self.n_embd}, vocabulary {self.vocab_size}, {self.new_tokens} tokens, batch {self.batch_size}"


CPU_SIZES = (Size(6, 6, 384, 512, 4096, 256, 1), Size(6, 6, 384, 512, 4096, 256, 16))
GPU_SIZES = (Size(12, 12, 768, 1024, 50304, 512, 1), Size(12, 12, 768, 1024, 50304, 512, 16))


def measure() -> list[str]:
    """Return a markdown table: tokens per second, and ours against the best of the others."""
    rows = [
        "| size | gpt | transformers, dynamic cache | static cache | ratio to the best peer | same tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in GPU_SIZES if torch.cuda.is_available() else CPU_SIZES:
        seconds, same = race(size)
        rates = {name: size.new_tokens * size.batch_size / statistics.median(times) for name, times in seconds.items()}
        ours, *peers = rates.values()
        shown = " | ".join(f"{rate:,.0f}" for rate in rates.values())
        rows.append(f"| {size} | {shown} | **{ours / max(peers):.2f} ×** | {same:.1%} |")
        print(rows[-1], flush=True)
    return rows


def race(size: Size, rounds: int = _ROUNDS) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of every contender's rounds, ours first, and the share of tokens in which they agree with ours."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peer, model = _models(size, device)
    prompts = torch.randint(
        size.vocab_size, (size.batch_size, _PROMPT_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    contenders: dict[str, Callable[[], Rows]] = {
        "gpt": lambda: _ours(model, prompts.tolist(), size.new_tokens),
        "dynamic": lambda: _theirs(peer, prompts.to(device), size.new_tokens, None),
        "static": lambda: _theirs(peer, prompts.to(device), size.new_tokens, "static"),
    }
    written = {name: run() for name, run in contenders.items()}  # warms up, too
    pairs = [
        (ours, theirs)
        for name in ("dynamic", "static")
        for rows in zip(written["gpt"], written[name], strict=True)
        for ours, theirs in zip(*rows, strict=True)
    ]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders) if number % 2 else reversed(contenders):
            begun = time.perf_counter()
            contenders[name]()  # ends with tokens on the CPU: nothing is left to wait for
            seconds[name].append(time.perf_counter() - begun)
    return seconds, statistics.mean(ours == theirs for ours, theirs in pairs)


def _ours(model: GPTModel, prompts: Rows, count: int) -> Rows:
    steps = list(generate_tokens(model, prompts, Sampling(count, temperature=0.0)))
    return [[step[row] for step in steps] for row in range(len(prompts))]


def _theirs(peer: Any, prompts: torch.Tensor, count: int, cache: str | None) -> Rows:
    tokens = peer.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=count,
        do_sample=False,
        cache_implementation=cache,
        pad_token_id=0,
    )
    return tokens[:, prompts.shape[1] :].tolist()


def _models(size: Size, device: torch.device) -> tuple[Any, GPTModel]:
    """Return transformers' GPT-2 and ours with its weights, which are large enough for texts that do not repeat themselves."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=size.vocab_size, n_positions=size.block_size, n_embd=size.n_embd, n_layer=size.n_layer,
        n_head=size.n_head, initializer_range=0.06, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    peer = GPT2LMHeadModel(config).eval().to(device)  # pyright: ignore[reportArgumentType]
    model = (
        GPTModel(GPTConfig(size.vocab_size, size.n_layer, size.n_head, size.n_embd, size.block_size)).eval().to(device)
    )
    theirs, ours = peer.state_dict(), model.state_dict()
    for name, parts in GPT2.pairs(size.n_layer, ours):
        tensor = theirs[name].T if name.endswith(GPT2.transposed) else theirs[name]
        for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
            ours[part].copy_(piece)
    return peer, model


if __name__ == "__main__":
    print("\n".join(measure()))
