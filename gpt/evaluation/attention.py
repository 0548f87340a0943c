"""What attention looks at while a model reads a text: weights by layer and head, for the report's picture and docs/attention.md."""

from collections.abc import Sequence
from typing import Any

import torch

from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import Encoding

START = "START"
"Stands for the <|endoftext|> after which every document begins."
_MOST_TOKENS = 24
_MOST_LAYERS, _MOST_HEADS = 4, 6
"Maps of more are too small to read; of a deeper or wider model every so many are kept."
_DIGITS = 3


@torch.no_grad()
def attention_weights(model: GPTModel, tokens: Sequence[int]) -> torch.Tensor:
    """Return all weights (n_layer, n_head, T, T) with which a model reads T tokens, at most its block_size; rows sum to 1."""
    inputs: list[torch.Tensor] = []
    attentions = [block.get_submodule("att") for block in model.trf_blocks]
    hooks = [attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for attention in attentions]
    model(torch.tensor([tokens], device=model.tok_emb.weight.device))
    for hook in hooks:
        hook.remove()
    weights = [attention(x, return_weights=True)[1][0] for attention, x in zip(attentions, inputs, strict=True)]
    return torch.stack(weights).cpu()


def token_names(encoding: Encoding, tokens: Sequence[int]) -> list[str]:
    """Return tokens as a person reads them beside a map; bytes that are a part of a letter only, as hexadecimal digits."""
    return [_name(encoding, token) for token in tokens]


def describe_attention(model: GPTModel, encoding: Encoding, prompt: str) -> dict[str, Any]:
    """Return with which weights a model reads the beginning of a prompt, as JSON: tokens, and maps by layer and head from 1 on.

    A map has a row for each token, with the weights of the tokens up to it.
    """
    most = min(_MOST_TOKENS, model.config.block_size)
    tokens = [encoding.eot_token, *encoding.encode_ordinary(prompt)][:most]
    weights = attention_weights(model, tokens)
    layers, heads = spread(weights.shape[0], _MOST_LAYERS), spread(weights.shape[1], _MOST_HEADS)
    return {
        "tokens": token_names(encoding, tokens),
        "n_layer": weights.shape[0],
        "n_head": weights.shape[1],
        "maps": [
            {"layer": layer + 1, "head": head + 1, "weights": _rounded(weights[layer, head])}
            for layer in layers
            for head in heads
        ],
    }


def spread(count: int, most: int) -> list[int]:
    """Return at most so many of 0 … count - 1, the first and the last among them."""
    return sorted({round(number) for number in torch.linspace(0, count - 1, min(count, most)).tolist()})


def _rounded(weights: torch.Tensor) -> list[list[float]]:
    return [[round(weight, _DIGITS) for weight in row[: place + 1]] for place, row in enumerate(weights.tolist())]


def _name(encoding: Encoding, token: int) -> str:
    if token == encoding.eot_token:
        return START
    content = encoding.decode_single_token_bytes(token)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content.hex()
    return text.replace("\n", "↵").replace("\t", "→").strip(" ") or "␣"
