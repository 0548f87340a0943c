"""What saving checkpoints costs and how soon a run goes on, at size M: `python -m benchmarks recovery`.

Steps with a save among them take turns with as many steps without; loading a checkpoint takes turns with reading its tensors alone.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from benchmarks.training import CPU_SIZES
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import load_params
from gpt.processes.machine import keep_freed_memory
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.saver import Saver
from gpt.training.steps.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from gpt.training.steps.sharding import copy_to_cpu
from gpt.training.steps.step import Batch, TrainStep, token_batch

_ROOT = Path(__file__).parents[1]
_ROUNDS = 10
_STEPS = 6  # a save ends within so many


def measure() -> list[str]:
    """Return a markdown table."""
    size = CPU_SIZES["M"]
    params = load_params(_ROOT / "params.yaml")
    settings = params.train.model_copy(update={"batch_size": size.batch_size, "optimizer": "adamw"})
    keep_freed_memory()
    accelerator = Accelerator()
    model = GPTModel(GPTConfig(size.vocab_size, size.n_layer, size.n_head, size.n_embd, size.block_size))
    model.init_weights(0)
    model.to(accelerator.device)
    optimizer = build_optimizer(model, settings)
    tokens = torch.randint(0, size.vocab_size, (size.batch_size, size.block_size + 1))
    step = TrainStep(model, optimizer, settings, accelerator, micro_batch_size=size.batch_size, seed=0)

    def read_batch(first: int, last: int) -> Batch:
        return token_batch(tokens[first:last, :-1], tokens[first:last, 1:], size.batch_size)

    def steps() -> float:
        begun = time.perf_counter()
        for number in range(_STEPS):
            loss = step(number, read_batch)[0]
            loss.item()
        return time.perf_counter() - begun

    steps()
    state = {"guard": step.guard.state_dict()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        still: list[float] = []
        number = 0
        with Saver(folder, keep_last=2, keep_every=0) as saver:

            def saving() -> float:
                nonlocal number
                number += 1
                begun = time.perf_counter()
                weights = copy_to_cpu(model.state_dict(), keep=True)
                saver.save(
                    Checkpoint(number, weights, copy_to_cpu(optimizer_tensors(model, optimizer), keep=True), state)
                )
                still.append(time.perf_counter() - begun)
                seconds = still[-1] + steps()
                assert saver.wait()
                return seconds

            with_save, without = _take_turns(saving, steps)
        lost = statistics.median(one - other for one, other in zip(with_save, without, strict=True))
        one_step = statistics.median(without) / _STEPS
        newest = checkpoints.steps(folder)[-1]
        megabytes = sum(file.stat().st_size for file in newest.iterdir()) / 1e6

        def resume() -> None:
            found = checkpoints.load_latest(folder)
            assert found is not None
            model.load_state_dict(found.weights)
            load_optimizer_tensors(model, optimizer, found.optimizer)

        def read() -> None:
            model.load_state_dict(load_file(newest / "model.safetensors"))
            _ = [tensor.clone() for tensor in load_file(newest / "optimizer.safetensors").values()]

        ours, alone = _take_turns(_timed(resume), _timed(read))
    interval = params.train.checkpoint_interval
    share = lost / (interval * one_step)
    more = statistics.median(ours) - statistics.median(alone)
    return [
        f"| size M, {megabytes:,.0f} MB a checkpoint | |",
        "| --- | ---: |",
        f"| training stands still for a save | {statistics.median(still):.3f} s |",
        f"| a save costs, with what its thread takes from the steps beside it | {lost:.2f} s, {lost / one_step:.2f} of a step |",
        f"| of training time, at the default interval of {interval} steps | **{share:.2%}** |",
        f"| verifying and loading it, beyond reading its tensors ({statistics.median(alone):.2f} s) | **+ {more:.2f} s** |",
    ]


def _take_turns(first: Callable[[], float], second: Callable[[], float]) -> tuple[list[float], list[float]]:
    pairs = []
    for number in range(_ROUNDS):
        if number % 2:
            pairs.append((first(), second()))
        else:
            other = second()
            pairs.append((first(), other))
    return [one for one, _ in pairs], [other for _, other in pairs]


def _timed(work: Callable[[], None]) -> Callable[[], float]:
    def seconds() -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    return seconds
