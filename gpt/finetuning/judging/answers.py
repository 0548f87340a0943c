"""Answers of a model that has learned to answer, many prompts at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpt.finetuning.data.templates import ChatTemplate, Message
from gpt.model.generation import generate_tokens
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTModel

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
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    answers: dict[int, Answer] = {}
    ends = template.ends
    for first in range(0, len(order), _AT_A_TIME):
        numbers = order[first : first + _AT_A_TIME]
        said: list[list[int]] = [[] for _ in numbers]
        steps = generate_tokens(
            model,
            [prompts[number] for number in numbers],
            sampling,
            seeds=[seed + number for number in numbers],
            ends=lambda _, token: token in ends,
        )
        for step in steps:
            for row, token in step.items():
                said[row].append(token)
        for number, tokens in zip(numbers, said, strict=True):
            ended = tokens[-1] in ends
            text = template.encoding.decode(tokens[:-1] if ended else tokens)
            answers[number] = Answer(text, ended, len(tokens))
    return [answers[number] for number in range(len(asked))]
