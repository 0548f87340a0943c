"""What training looks at on the way: its loss on the validation split, and a text that the model writes."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import tiktoken
import torch
from accelerate import Accelerator

from gpt.model.generation import Sampling, generate_text
from gpt.model.transformer import GPTModel
from gpt.processes.agreement import add_up_over_processes
from gpt.tokens.shards import TokenReader
from gpt.training.sharding import whole_model

_SAMPLE_TOKENS = 100


class Measure(Protocol):
    """What `gpt.evaluation.likelihood.split_likelihood` does; passed in because evaluation builds on training."""

    def __call__(
        self,
        model: GPTModel,
        reader: TokenReader,
        *,
        autocast: torch.dtype | None,
        part: tuple[int, int],
        give_up: Callable[[], bool],
    ) -> Any: ...


def validate(
    model: GPTModel,
    reader: TokenReader,
    measure: Measure,
    accelerator: Accelerator,
    *,
    autocast: torch.dtype | None,
    give_up: Callable[[], bool],
) -> dict[str, float] | None:
    """Return loss (nats per token) and bits per byte of a whole split, or None if `give_up` said so.

    Every process measures its part and is given the sum; they ask `give_up` together, before each batch and at the end.
    """
    part = (accelerator.process_index, accelerator.num_processes)
    sums = measure(model, reader, autocast=autocast, part=part, give_up=give_up)
    found = torch.tensor([sums.nats, float(sums.tokens)], dtype=torch.float64, device=accelerator.device)
    add_up_over_processes(accelerator, found)
    nats, tokens = found.tolist()
    if give_up():
        return None
    return {"validation_loss": nats / tokens, "validation_bits_per_byte": nats / math.log(2) / reader.text_bytes}


def write_sample(model: GPTModel, encoding: tiktoken.Encoding, *, seed: int, is_writer: bool) -> str:
    """Return a text that the model writes from nothing, if `is_writer`; all processes must ask for it.

    Its own generator leaves training's random numbers alone. A split model writes from a copy on the CPU: a device that needs
    help to hold the weights has no room for all of them.
    """
    model = whole_model(model, keep=is_writer)
    sampling = Sampling(_SAMPLE_TOKENS, temperature=0.8, top_k=50, seed=seed)
    return "".join(generate_text(model, encoding, "", sampling)) if is_writer else ""
