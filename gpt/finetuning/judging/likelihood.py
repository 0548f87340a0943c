"""How likely a model finds the wanted answers, example by example."""

from collections.abc import Sequence

import numpy as np
import torch

from gpt.evaluation.likelihood import measuring
from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.templates import Message
from gpt.finetuning.judging.answers import plain_prompt
from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import Encoding
from gpt.tokens.tokenizer import token_bytes

_AT_A_TIME = 8


def target_nats(model: GPTModel, data: Encoded, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Return the nats of each sequence's targets, and the bytes of text that they are: (sequences,) each."""
    device, count = model.tok_emb.weight.device, len(data)
    nats, sizes = np.zeros(count), np.zeros(count)
    order = np.argsort(data.lengths, kind="stable")  # least padding
    with measuring(model):
        for first in range(0, count, _AT_A_TIME):
            numbers = order[first : first + _AT_A_TIME]
            shape = len(numbers), int(data.lengths[numbers].max()) - 1
            tokens, targets = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
            for row, number in enumerate(numbers):
                ids, mask = data[number].ids, data[number].mask
                tokens[row, : len(ids) - 1] = ids[:-1]
                targets[row, : len(ids) - 1] = np.where(mask[1:], ids[1:], -1)
            found = model.token_nats(torch.from_numpy(tokens).to(device), torch.from_numpy(targets).to(device))
            nats[numbers] = found.double().sum(1).cpu().numpy()
            sizes[numbers] = np.where(targets >= 0, token_bytes(encoding)[targets], 0).sum(1)
    return nats, sizes


def plain_nats(
    base: GPTModel, encoding: Encoding, exchanges: Sequence[tuple[Sequence[Message], str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of a base model for wanted answers: each (what was said before, answer) is lines of plain text to it."""
    device, room = base.tok_emb.weight.device, base.config.block_size
    nats, sizes = np.zeros(len(exchanges)), np.zeros(len(exchanges))
    with measuring(base):
        for number, (said, wanted) in enumerate(exchanges):
            head, tail = plain_prompt(encoding, said), encoding.encode_ordinary(f"{wanted}\n")
            ids = torch.tensor([[*head, *tail][-room - 1 :]], device=device)
            targets = ids[:, 1:].clone()
            targets[:, : max(0, ids.shape[1] - 1 - len(tail))] = -1
            nats[number] = float(base.token_nats(ids[:, :-1], targets).sum())
            sizes[number] = int(token_bytes(encoding)[targets[targets >= 0].cpu().numpy()].sum())
    return nats, sizes
