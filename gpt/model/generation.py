"""Sampling text: one token after the other, each a part of the next one's input."""

import codecs
from collections.abc import Iterator, Sequence

import tiktoken
import torch

from gpt.model.transformer import GPTModel


@torch.inference_mode()
def generate_tokens(
    model: GPTModel, prompt: Sequence[int], *, max_new_tokens: int, temperature: float, top_k: int, seed: int
) -> Iterator[int]:
    """Yield up to `max_new_tokens` token ids that continue `prompt` (at least one id).

    `temperature` 0 takes the likeliest token; `top_k` 0 samples from all.
    Past block_size the model sees the last block_size tokens.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    window = list(prompt)[-model.config.block_size :]
    training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            logits = model(torch.tensor([window], device=device))[0, -1].float().cpu()  # (vocab_size,)
            token = _choose(logits, temperature, top_k, generator)
            yield token
            window = [*window, token][-model.config.block_size :]
    finally:
        model.train(training)


def generate_text(
    model: GPTModel,
    encoding: tiktoken.Encoding,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
) -> Iterator[str]:
    """Yield a completion of `prompt` piece by piece, in whole characters, until <|endoftext|> or `max_new_tokens`."""
    # Every document of the training data begins after an <|endoftext|>.
    tokens = [encoding.eot_token, *encoding.encode_ordinary(prompt)]
    # A character may be spread over tokens: hold its first bytes back until the rest is there.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in generate_tokens(
        model, tokens, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, seed=seed
    ):
        if token == encoding.eot_token:
            break
        if piece := decoder.decode(encoding.decode_single_token_bytes(token)):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


def _choose(logits: torch.Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """Choose a token id from logits (vocab_size,)."""
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
