"""What comes of examples that a model was not judged on before, or was by other code: the gate compares on the same ones."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gpt.errors import UserError
from gpt.finetuning.data.encoded import Encoder, TooLong, join
from gpt.finetuning.data.examples import Example
from gpt.finetuning.data.templates import ChatTemplate, Tokens
from gpt.finetuning.judging import outcomes as of_examples
from gpt.finetuning.judging.answers import answer
from gpt.finetuning.judging.exchanges import asked_part, exact_matches
from gpt.finetuning.judging.likelihood import target_nats
from gpt.finetuning.judging.outcomes import Outcomes
from gpt.finetuning.methods.classes import class_probabilities
from gpt.finetuning.methods.saving import load_answering, load_classifier
from gpt.params.finetuning import Recipe
from gpt.tokens.encoding import Encoding


def judge_again(recipe: Recipe, folder: Path, examples: Sequence[Example], device: torch.device) -> Outcomes:
    """Return what comes of examples by a recipe's model, without floors.

    Raises `UserError` if one has no room in the model's context, or the model has learned preferences: those need its base.
    """
    match recipe.task.kind:
        case "classify":
            return _classes(recipe, folder, examples, device)
        case "instruct":
            return _answers(recipe, folder, examples, device)
        case "preference":
            raise UserError("preferences are judged beside the base model, which no version keeps")


def _classes(recipe: Recipe, folder: Path, examples: Sequence[Example], device: torch.device) -> Outcomes:
    model, encoding, labels = load_classifier(folder, device)
    sequences = _sequences(recipe, encoding, None, model.config.block_size, examples)
    said = class_probabilities(model, [each.ids for each in sequences]).argmax(1)
    right = [labels[number] == example["label"] for number, example in zip(said, examples, strict=True)]
    return of_examples.tabulate(of_examples.ACCURACY, examples, np.array(right))


def _answers(recipe: Recipe, folder: Path, examples: Sequence[Example], device: torch.device) -> Outcomes:
    model, template = load_answering(folder, device)
    sequences = _sequences(recipe, template.encoding, template, model.config.block_size, examples)
    nats, sizes = target_nats(model, join(sequences, []), template.encoding)
    tables = [of_examples.tabulate(of_examples.BITS_PER_BYTE, examples, nats / math.log(2), sizes)]
    settings, asked = recipe.judge, [example for example in examples if "task" in example]
    answers = answer(
        model,
        template,
        [asked_part(example) for example in asked],
        settings.max_new_tokens,
        temperature=settings.temperature,
        seed=recipe.seed,
    )
    for task, right in exact_matches(asked, answers).items():
        of_task = [example for example in asked if example["task"] == task]
        tables.append(of_examples.tabulate(f"{of_examples.EXACT_MATCH}.{task}", of_task, np.array(right)))
    return Outcomes.join(tables)


def _sequences(
    recipe: Recipe, encoding: Encoding, template: ChatTemplate | None, room: int, examples: Sequence[Example]
) -> list[Tokens]:
    encoder = Encoder(recipe, encoding, template, room)
    try:
        return [encoder.encode(example)[1][0] for example in examples]
    except TooLong:
        raise UserError(f"a test example has more than the {room} tokens that this model sees") from None
