"""Answers of a model that has learned to answer, many prompts at a time."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gpt.finetuning.data.templates import ChatTemplate, Message
from gpt.model.generation import generate_tokens
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import Encoding

_AT_A_TIME = 64


@dataclass(frozen=True)
class Answer:
    text: str
    ended: bool
    "By itself, with the template's end of a turn, before `max_new_tokens`."
    tokens: int


def answer(
    model: GPTModel,
    template: ChatTemplate,
    asked: Sequence[Sequence[Message]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Answer]:
    """Return the model's answer to each conversation; at temperature 0 the likeliest tokens.

    Prompts of one length are answered together. A conversation's answer does not depend on its neighbours.
    """
    sampling = Sampling(max_new_tokens, temperature=temperature, seed=seed)
    prompts = [template.encode_prompt(messages) for messages in asked]
    answers = []
    for tokens in _write(model, prompts, template.ends, sampling):
        ended = tokens[-1] in template.ends
        text = template.encoding.decode(tokens[:-1] if ended else tokens)
        answers.append(Answer(text, ended, len(tokens)))
    return answers


def plain_answers(
    base: GPTModel, encoding: Encoding, asked: Sequence[Sequence[Message]], max_new_tokens: int
) -> list[Answer]:
    """Return what a base model goes on with after each conversation: its likeliest tokens up to the end of a line.

    It knows no template: each message is a line of plain text to it.
    """
    room = base.config.block_size
    new = min(max_new_tokens, room // 2)
    prompts = [plain_prompt(encoding, messages)[-(room - new) :] for messages in asked]
    ends = {token for token in range(encoding.n_vocab) if b"\n" in encoding.decode_single_token_bytes(token)}
    written = _write(base, prompts, ends, Sampling(new, temperature=0.0))
    return [Answer(encoding.decode(each).partition("\n")[0], each[-1] in ends, len(each)) for each in written]


def plain_prompt(encoding: Encoding, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of messages as lines of plain text."""
    text = "\n".join(message["content"] for message in messages) + "\n"
    return [encoding.eot_token, *encoding.encode_ordinary(text)]


def _write(model: GPTModel, prompts: Sequence[list[int]], ends: Collection[int], sampling: Sampling) -> list[list[int]]:
    """Return the tokens that follow each prompt, with the one that ends them."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    written: dict[int, list[int]] = {}
    for first in range(0, len(order), _AT_A_TIME):
        numbers = order[first : first + _AT_A_TIME]
        said: list[list[int]] = [[] for _ in numbers]
        steps = generate_tokens(
            model,
            [prompts[number] for number in numbers],
            sampling,
            seeds=[sampling.seed + number for number in numbers],
            ends=lambda _, token: token in ends,
        )
        for step in steps:
            for row, token in step.items():
                said[row].append(token)
        written |= zip(numbers, said, strict=True)
    return [written[number] for number in range(len(prompts))]
