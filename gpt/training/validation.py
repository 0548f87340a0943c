"""What all processes do together while training stands still: measure the loss on the validation split, score benchmarks, write.

The texts that the model writes are for a person to read. They decide nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.benchmarks.probe import Probe, read_part
from gpt.evaluation.likelihood import split_likelihood
from gpt.model.generation import generate_texts
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTModel
from gpt.params.project import Params
from gpt.processes.agreement import add_up_over_processes, is_same_everywhere
from gpt.tokens.encoding import Encoding
from gpt.tokens.shards import TokenReader
from gpt.training.steps.sharding import full_model

_SAMPLING = Sampling(100, temperature=0.8, top_k=50)
_MOST_PROMPTS = 4  # training stands still meanwhile


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


def write_samples(
    model: GPTModel, encoding: Encoding, prompts: Sequence[str], *, seed: int, is_writer: bool
) -> list[tuple[str, str]]:
    """Return each of the first four prompts and the up to 100 tokens that the model adds to it; none unless `is_writer`.

    All processes must call this.

    Sampling has a random generator of its own, so training's random numbers stay as they are. A sharded model writes from a full
    copy on the CPU: a GPU that cannot hold all weights has no room for such a copy.
    """
    model = full_model(model, keep=is_writer)
    if not is_writer:
        return []
    prompts = prompts[:_MOST_PROMPTS]
    return list(zip(prompts, generate_texts(model, encoding, prompts, replace(_SAMPLING, seed=seed)), strict=True))
