"""What is measured by all processes together while training stands still: the loss on the validation split, and benchmarks."""

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.benchmarks.probe import Probe, read_part
from gpt.evaluation.likelihood import split_likelihood
from gpt.model.transformer import GPTModel
from gpt.params.project import Params
from gpt.processes.agreement import add_up_over_processes, is_same_everywhere
from gpt.tokens.encoding import Encoding
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


def start_probe(params: Params, encoding: Encoding, accelerator: Accelerator) -> Probe | None:
    """Return the part of the benchmarks that is scored while training, None if `train.benchmark_interval` asks for none.

    All processes call this. Raises `UserError` if files are missing or not the same everywhere.
    """
    if not (params.train.benchmark_interval and params.evaluate.benchmarks):
        return None
    probe = Probe(read_part(params.evaluate, paths.BENCHMARKS, paths.DOCUMENTS), encoding)
    if not is_same_everywhere(accelerator, probe.identity()):
        raise UserError(
            f"{paths.BENCHMARKS}: not the same on all machines; make it the same, or set train.benchmark_interval to 0"
        )
    return probe
