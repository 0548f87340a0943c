"""Texts that the model writes while it is trained, for a person to read. They decide nothing."""

from collections.abc import Sequence
from dataclasses import replace

from gpt.model.generation import Sampling, generate_texts
from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import Encoding
from gpt.training.sharding import full_model

_SAMPLING = Sampling(100, temperature=0.8, top_k=50)
_MOST_PROMPTS = 4  # training stands still meanwhile


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
