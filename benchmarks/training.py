"""Training throughput beside transformers and litgpt: `make bench`, or `python -m benchmarks.training`.

Every contender is a process of its own, as its user would have it, and all take their steps in turn: what disturbs the machine
disturbs all of them. The same model for all: GPT-2's choices (litgpt: rotary positions and an untied head, which is
what its configuration can say), random tokens, fused AdamW, gradients clipped at 1. `lean` has the same matrices but the block of
params.yaml: no biases, RMSNorm, ReLU². Large matrix products take turns with them: all stand on the same ones, so what a
contender reaches of their speed says how much is left to gain.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_WARMUP, _ROUNDS, _SECONDS = 2, 5, 180.0
"Steps before the race; rounds at least, and more of them until so much time has passed."
_WORK_SECONDS = 1.0
"A contender's share of a round, at least one step."
_PRODUCTS = "matrix products"


@dataclass(frozen=True)
class Size:
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    batch_size: int
    vocab_size: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.block_size

    @property
    def flops(self) -> int:
        """Of a step, counted as gpt.training.meters does."""
        weights = 12 * self.n_layer * self.n_embd**2 + self.n_embd * self.vocab_size
        return self.tokens * (6 * weights + 12 * self.n_layer * self.n_embd * self.block_size)

    def __str__(self) -> str:
        return f"{self.n_layer} × {self.n_embd}, block {self.block_size}, batch {self.batch_size}, vocabulary {self.vocab_size}"


CPU_SIZES = {
    "S": Size(4, 4, 128, 64, 12, 65),
    "M": Size(6, 6, 384, 256, 8, 4096),
    "L": Size(12, 12, 768, 256, 2, 50304),
}
GPU_SIZES = {"124M": Size(12, 12, 768, 1024, 32, 50304)}
LIBRARIES = ("gpt", "lean", "transformers", "litgpt")
CONTENDERS = tuple(f"{library}{mode}" for library in LIBRARIES for mode in ("", " compiled"))
_LEAN = {"bias": False, "norm": "rmsnorm", "activation": "relu2"}


def measure() -> list[str]:
    """Return a markdown table: tokens per second, eager and compiled; ours against the best peer and against the products' peak."""
    sizes = GPU_SIZES if torch.cuda.is_available() else CPU_SIZES
    titles = [*LIBRARIES, "gpt to the best peer", "lean to it", "gpt, share of the products' peak", "best peer's"]
    rows = [f"| size; eager, compiled | {' | '.join(titles)} |", "| --- " + "| ---: " * len(titles) + "|"]
    for name, size in sizes.items():
        seconds = race(name)
        rates = {contender: size.tokens / seconds[contender] for contender in CONTENDERS}
        best = {library: max(rates[library], rates[f"{library} compiled"]) for library in LIBRARIES}
        peer = max(best["transformers"], best["litgpt"])
        peak = _product_flops(torch.cuda.is_available()) / seconds[_PRODUCTS]
        share = size.flops / size.tokens / peak
        cells = [f"{rates[library]:,.0f}, {rates[f'{library} compiled']:,.0f}" for library in LIBRARIES]
        cells += [f"**{best['gpt'] / peer:.2f} ×**", f"{best['lean'] / peer:.2f} ×"]
        cells += [f"{best['gpt'] * share:.0%}", f"{peer * share:.0%}"]
        rows.append(f"| {name}: {size} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def race(name: str) -> dict[str, float]:
    """Return the median seconds of a step of every contender at one size, over rounds in which they take turns."""
    workers = {contender: _Worker(contender, name) for contender in (*CONTENDERS, _PRODUCTS)}
    try:
        steps: dict[str, int] = {}
        for contender, worker in workers.items():  # compiles and warms up, one after the other
            worker.run(_WARMUP)
            steps[contender] = max(1, round(_WORK_SECONDS / worker.run(1)[0]))
        seconds: dict[str, list[float]] = {contender: [] for contender in workers}
        order, begun = list(workers), time.perf_counter()
        while len(seconds[_PRODUCTS]) < _ROUNDS or time.perf_counter() - begun < _SECONDS:
            order.reverse()
            for contender in order:
                seconds[contender].append(statistics.median(workers[contender].run(steps[contender])))
    finally:
        for worker in workers.values():
            worker.close()
    return {contender: statistics.median(times) for contender, times in seconds.items()}


class _Worker:
    """A process that takes as many training steps as a line asks for and answers with their seconds."""

    def __init__(self, contender: str, size: str) -> None:
        command = [sys.executable, "-m", "benchmarks.training", contender, size]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def run(self, steps: int) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("["):  # libraries print things of their own
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self._process.args)} ended with {self._process.wait()}")  # pyright: ignore[reportCallIssue, reportArgumentType]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def work(contender: str, name: str) -> None:
    """Be one contender: read numbers of steps from stdin, write the seconds of each step to stdout."""
    size = (CPU_SIZES | GPU_SIZES)[name]
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = torch.randint(0, size.vocab_size, (size.batch_size, size.block_size + 1))
    if contender == _PRODUCTS:
        step = _products(device)
    else:
        library, _, mode = contender.partition(" ")
        build = {"gpt": _gpt, "lean": _lean, "transformers": _transformers, "litgpt": _litgpt}[library]
        step = build(size, mode == "compiled", tokens, device)
    for line in sys.stdin:
        seconds: list[float] = []
        for _ in range(int(line)):
            begun = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        print(json.dumps(seconds), flush=True)


def _products(device: torch.device) -> Callable[[], Any]:
    """Products of square matrices in the precision of training, large enough for the device's peak."""
    n = _product_size(device.type == "cuda")
    matrix = torch.randn(n, n, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    product = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=product)


def _product_size(gpu: bool) -> int:
    return 8192 if gpu else 2048


def _product_flops(gpu: bool) -> int:
    return 2 * _product_size(gpu) ** 3


def _lean(size: Size, compiled: bool, tokens: torch.Tensor, device: torch.device) -> Callable[[], Any]:
    return _gpt(size, compiled, tokens, device, **_LEAN)


def _gpt(size: Size, compiled: bool, tokens: torch.Tensor, device: torch.device, **choices: Any) -> Callable[[], Any]:
    """What `gpt pretrain` runs, without its logging, validation and checkpoints."""
    from accelerate import Accelerator

    from gpt.model.transformer import GPTConfig, GPTModel
    from gpt.params.project import load_params
    from gpt.processes.machine import keep_freed_memory
    from gpt.training.steps.optimizer import build_optimizer
    from gpt.training.steps.step import TrainStep, token_batch

    keep_freed_memory()
    accelerator = Accelerator(mixed_precision="bf16" if device.type == "cuda" else "no", cpu=device.type == "cpu")
    settings = load_params().train.model_copy(
        update={"batch_size": size.batch_size, "optimizer": "adamw", "grad_clip": 1.0}
    )
    model = GPTModel(GPTConfig(size.vocab_size, size.n_layer, size.n_head, size.n_embd, size.block_size, **choices))
    model.init_weights(0)
    model.to(device)
    if compiled:
        for block in model.trf_blocks:
            block.compile()
    optimizer = build_optimizer(model, settings)
    train_step = TrainStep(model, optimizer, settings, accelerator, micro_batch_size=size.batch_size, seed=0)
    return lambda: train_step(
        0, lambda first, last: token_batch(tokens[first:last, :-1], tokens[first:last, 1:], size.batch_size)
    )


def _transformers(size: Size, compiled: bool, tokens: torch.Tensor, device: torch.device) -> Callable[[], Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=size.vocab_size, n_positions=size.block_size, n_embd=size.n_embd, n_layer=size.n_layer,
        n_head=size.n_head, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    return _plain_step(model, lambda inputs: model(inputs).logits, compiled, tokens, device)


def _litgpt(size: Size, compiled: bool, tokens: torch.Tensor, device: torch.device) -> Callable[[], Any]:
    from litgpt import GPT, Config  # pyright: ignore[reportMissingImports]

    config = Config(
        block_size=size.block_size, vocab_size=size.vocab_size, padded_vocab_size=size.vocab_size,
        n_layer=size.n_layer, n_head=size.n_head, n_embd=size.n_embd, rotary_percentage=0.25, parallel_residual=False,
        bias=True, norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP", gelu_approximate="tanh",
    )  # fmt: skip
    model = GPT(config)
    return _plain_step(model, model, compiled, tokens, device)


def _plain_step(
    model: torch.nn.Module, logits: Callable[..., Any], compiled: bool, tokens: torch.Tensor, device: torch.device
) -> Callable[[], Any]:
    """The step that a user of these libraries writes: mean cross-entropy, backward, clip, fused AdamW."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = tokens.to(device)

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            predicted = logits(tokens[:, :-1])
        return torch.nn.functional.cross_entropy(predicted.flatten(0, 1).float(), tokens[:, 1:].flatten())

    forward = torch.compile(loss) if compiled else loss

    def step() -> None:
        forward().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(*sys.argv[1:])
    else:
        print("\n".join(measure()))
