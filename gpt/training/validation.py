"""The loss on the validation split, measured by all processes together while training stands still."""

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator

from gpt.evaluation.likelihood import split_likelihood
from gpt.model.transformer import GPTModel
from gpt.processes.agreement import add_up_over_processes
from gpt.tokens.shards import TokenReader


def validate(
    model: GPTModel,
    reader: TokenReader,
    accelerator: Accelerator,
    *,
    autocast: torch.dtype | None,
    give_up: Callable[[], bool],
) -> dict[str, float] | None:
    """Return loss (nats per token) and bits per byte of a whole split, or None if `give_up` said so.

    Every process measures its part of the split and gets the sum. All call `give_up` together, before each batch and at the
    end, so it may make them wait for each other.
    """
    part = (accelerator.process_index, accelerator.num_processes)
    likelihood = split_likelihood(model, reader, autocast=autocast, part=part, give_up=give_up)
    sums = torch.tensor([likelihood.nats, float(likelihood.tokens)], dtype=torch.float64, device=accelerator.device)
    add_up_over_processes(accelerator, sums)
    nats, tokens = sums.tolist()
    if give_up():
        return None
    return {"validation_loss": nats / tokens, "validation_bits_per_byte": nats / math.log(2) / reader.text_bytes}
