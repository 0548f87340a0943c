"""A text that the model writes while it is trained, for a person to read in MLflow. It decides nothing."""

from gpt.model.generation import Sampling, generate_text
from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import Encoding
from gpt.training.sharding import full_model

_TOKENS = 100


def write_sample(model: GPTModel, encoding: Encoding, *, seed: int, is_writer: bool) -> str:
    """Return a text of up to 100 tokens that the model writes from nothing if `is_writer`, else "". All processes must call this.

    Sampling has a random generator of its own, so training's random numbers stay as they are. A sharded model writes from a full
    copy on the CPU: a GPU that cannot hold all weights has no room for such a copy.
    """
    model = full_model(model, keep=is_writer)
    sampling = Sampling(_TOKENS, temperature=0.8, top_k=50, seed=seed)
    return "".join(generate_text(model, encoding, "", sampling)) if is_writer else ""
