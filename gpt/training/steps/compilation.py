"""Whether the transformer blocks are compiled. It costs seconds to minutes before the first step, so it must pay for itself.

The blocks are compiled, not the model: they all run the same code, which is compiled once; a whole model takes four
times as long, and longer with every layer.
"""

import importlib.util
import logging
import math
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt.errors import UserError
from gpt.model.transformer import GPTModel
from gpt.params.launch import Launch
from gpt.processes.agreement import largest_of_processes
from gpt.training.steps.step import ReadBatch, TrainStep

# Two cores compile a block in about 10 s, busy ones in many more, and steps then take a fifth to a third less time.
_SLOW_COMPILE_SECONDS = 30.0
_LARGE_SAVING = 0.4
_ELSEWHERE = "another process cannot compile"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What `launch.compile` comes to here: eager or compiled, and the figures that decided it."""

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


def choose_compile(
    settings: Launch, step: TrainStep, number: int, steps_left: int, read: ReadBatch, before: str | None = None
) -> Choice:
    """Compile the blocks of the step's model, or leave them eager, as `launch.compile` says; `auto` measures on step `number`.

    `auto` measures once a run: `before` is how the run was computed when it began, eager or compiled, and None if it begins now.
    So what a stopwatch says at a resume changes no digit. All processes choose the same. No state of the training changes.
    Raises `UserError` if `launch.compile` is true and compiling fails.
    """
    if settings.compile is False:
        return Choice("eager", "as params.yaml says")
    if settings.compile == "auto" and before is not None:
        return _compile_as_before(step, number, read, before)
    must, lacking = settings.compile is True, missing_for_compile()
    if largest_of_processes(step.accelerator, float(lacking is not None)):
        lacking = lacking or _ELSEWHERE
        return _give_up(must, lacking, f"{lacking}; change that, or use auto or false")
    eager = math.inf
    if not must:
        eager = step.micro_batches * largest_of_processes(step.accelerator, step.time_pass(number, read)[1])
        if not worth_compiling(eager, steps_left):
            return Choice("eager", f"{steps_left} steps of {eager:.3g} s cannot repay compiling")
    first, later, failure = _compile(step, number, read, repeat=0 if must else 2)
    compiled = step.micro_batches * largest_of_processes(step.accelerator, later)
    if math.isinf(compiled):
        _uncompile(step.bare_model)
        failure = f"compiling failed: {failure or _ELSEWHERE}"
        return _give_up(must, failure, f"{failure}; use false")
    if must:
        return Choice("compiled", f"as params.yaml says, in {first:.3g} s")
    if compiled >= eager:
        _uncompile(step.bare_model)
        return Choice("eager", f"{eager:.3g} s a step, compiled {compiled:.3g} s")
    saved = (eager - compiled) * steps_left - first
    return Choice(
        "compiled", f"{compiled:.3g} s a step, eager {eager:.3g} s; saves {saved:.0f} s over {steps_left} steps"
    )


def _compile_as_before(step: TrainStep, number: int, read: ReadBatch, before: str) -> Choice:
    """Do again what the run did when it began; where this cannot be compiled any more, go on eager with a warning."""
    if before == "eager":
        return Choice("eager", "as when this run began")
    reason = missing_for_compile()
    if largest_of_processes(step.accelerator, float(reason is not None)):
        reason = reason or _ELSEWHERE
    else:
        first, later, failure = _compile(step, number, read, repeat=0)
        if math.isfinite(largest_of_processes(step.accelerator, later)):
            return Choice("compiled", f"as when this run began, in {first:.3g} s")
        _uncompile(step.bare_model)
        reason = f"compiling failed: {failure or _ELSEWHERE}"
    if step.accelerator.is_main_process:
        logger.warning(
            "params.yaml: launch.compile = 'auto' chose to compile when this run began, which cannot be done now (%s);"
            " training goes on eager, and its weights may differ in the last digits from those of compiled steps",
            reason,
        )
    return Choice("eager", reason)


def worth_compiling(eager_seconds: float, steps_left: int) -> bool:
    """Whether the steps that are left would repay compiling if it were slow and saved much; `eager_seconds` are one step's."""
    return eager_seconds * steps_left * _LARGE_SAVING > _SLOW_COMPILE_SECONDS


def missing_for_compile() -> str | None:
    """Return what torch.compile needs on this machine and does not find, or what forbids it, in words, or None."""
    for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"):  # torch would then run eager without a word
        if os.environ.get(name) == "1":
            return f"{name}=1 forbids it"
    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        compilers = (os.environ["CC"],) if os.environ.get("CC") else ("gcc", "clang")
        return None if any(map(shutil.which, compilers)) else f"there is no C compiler ({', '.join(compilers)})"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        return f"there is no C++ compiler ({compiler})"
    # torch 2.13 (_inductor/cpp_builder.py) splits the command as a shell does, with this folder unquoted after -L.
    folder = str(Path(torch.__file__).parent)
    return f"torch cannot link what lies under a space or a quote ({folder})" if set(folder) & set(" \t'\"\\") else None


def eager_blocks(model: GPTModel) -> AbstractContextManager[object]:
    """Run compiled blocks as they were written: other shapes than training's would each be compiled anew."""
    is_compiled = model.trf_blocks[0]._compiled_call_impl is not None
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()


def _give_up(must: bool, reason: str, advice: str) -> Choice:
    if must:
        raise UserError(f"params.yaml: launch.compile = True, but {advice}")
    return Choice("eager", reason)


def _compile(step: TrainStep, number: int, read: ReadBatch, repeat: int) -> tuple[float, float, str]:
    """Compile the blocks; return the seconds of the first pass, which compiles, and of a later one, and what went wrong."""
    for block in step.bare_model.trf_blocks:
        block.compile(dynamic=False)
    try:
        return *step.time_pass(number, read, repeat), ""
    except Exception as error:  # compilers fail in many ways, and none of them need stop a run
        return math.inf, math.inf, " ".join(str(error).split())[:200] or type(error).__name__


def _uncompile(model: GPTModel) -> None:
    for block in model.trf_blocks:
        block._compiled_call_impl = None  # what Module.compile() sets; there is no public way back
