"""A recipe of fine-tuning: `finetuning/NAME.yaml`. Which base model learns what from which labelled data, and how.

Where it runs (`launch`) and what its versions are called after (`register.name`) stand in params.yaml, as for the base model.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gpt.errors import UserError
from gpt.params.project import explained, parse_settings
from gpt.params.sources import AnySource
from gpt.params.training import SCRATCH
from gpt.params.types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
    not_empty,
)
from gpt.paths import RECIPES

FOLDER = RECIPES
"Where recipes lie, and in a folder of its name each what is made by it."

Form = Literal["messages", "alpaca", "prompt_completion", "preference", "text_label", "chitchat"]
TrainOn = Literal["last_answer", "all_answers", "everything"]
# What a form has, by the names that `data.fields` may map to those of the files.
FIELDS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "tools"),
    "alpaca": ("instruction", "input", "output"),
    "prompt_completion": ("prompt", "completion", "task"),
    "preference": ("prompt", "chosen", "rejected"),
    "text_label": ("text", "label"),
    "chitchat": ("messages",),
}
_OF_TASK: dict[str, tuple[Form, ...]] = {
    "instruct": ("messages", "alpaca", "prompt_completion", "chitchat"),
    "classify": ("text_label",),
    "preference": ("preference",),
}


class Decontaminate(Section):
    ngram: NonNegativeInt
    "Words in a row, in lower case and without punctuation, that no training example may have with a benchmark's item; 0: off."
    max_examples: NonNegativeInt
    "What more examples than this share is boilerplate; 0: nothing is."


class Data(Section):
    sources: Annotated[tuple[AnySource, ...], Field(strict=False), AfterValidator(not_empty)]
    "Files of examples: JSONL, JSON or CSV, told by their names."
    form: Form
    "messages: OpenAI's; alpaca: instruction, input, output; chitchat: the package chitchat-dataset."
    fields: dict[str, Text]
    "What the files call a field of the form, where it is another name, as in {label: spam}."
    labels: dict[str, Text]
    "Names of classes, where the files have others, as in {'0': ham, '1': spam}."
    group: str
    'Field by which examples stay together in one split, as all of one customer do; "": each stands for itself.'
    deduplicate: Literal["normalized", "exact", "none"]
    "Examples that ask the same are one: normalized takes no notice of case and punctuation."
    decontaminate: Decontaminate
    "Of the items of evaluate.benchmarks in params.yaml."
    balance: bool
    "Leave out examples until all classes, or tasks, have as many as the smallest."
    validation_fraction: Fraction
    test_fraction: Fraction
    split_seed: NonNegativeInt
    "Which examples are held out: their text and this decide."
    limit: NonNegativeInt
    "Training examples that are used; 0: all."
    repeat: dict[str, PositiveInt]
    "How often an epoch has those of a class, or a task, as in {sums: 4}; of the others once."
    too_long: Literal["error", "drop", "crop", "split"]
    "Examples of more tokens than the context: crop keeps a text's beginning, a conversation's end; split makes several of one."

    @model_validator(mode="after")
    def _fields_are_of_the_form(self) -> Self:
        if unknown := sorted(set(self.fields) - set(FIELDS[self.form])):
            raise ValueError(f"fields: {self.form} has no {', '.join(unknown)}; it has {', '.join(FIELDS[self.form])}")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction and test_fraction leave nothing to train on; lower them")
        return self


class _Conversing(Section):
    template: Literal["turns", "chatml"]
    "How a conversation becomes one text: gpt/finetuning/templates/. Its special tokens are added to the tokenizer."
    cut: Literal["tokens", "characters"]
    "characters: each is a token of its own, for tasks on letters and digits."


class Instruct(_Conversing):
    kind: Literal["instruct"]
    train_on: TrainOn
    "Which text has a loss: the assistant's last answer, all of its answers with their ends, or everything."


class Classify(Section):
    kind: Literal["classify"]
    head_learning_rate: PositiveFloat
    "Of the head, which begins at zero; it rises and falls as train.learning_rate does."


class Preference(_Conversing):
    kind: Literal["preference"]
    beta: PositiveFloat
    "Of DPO (Rafailov et al. 2023): how dear it is to move away from the base model."


class Full(Section):
    kind: Literal["full"]


class Lora(Section):
    kind: Literal["lora"]
    rank: PositiveInt
    alpha: PositiveFloat
    "What the adapters add is multiplied by alpha / rank."
    dropout: Fraction
    "Of what goes into the adapters."


class Head(Section):
    kind: Literal["head"]


class LastBlocks(Section):
    kind: Literal["last_blocks"]
    blocks: PositiveInt
    "Trained with the last norm and the head; the rest stays as the base model has it."


class FineTrain(Section):
    optimizer: Literal["adamw", "muon"]
    learning_rate: PositiveFloat
    min_lr: NonNegativeFloat
    muon_learning_rate: PositiveFloat
    schedule: Literal["cosine", "wsd"]
    warmup_fraction: Fraction
    decay_fraction: Annotated[float, Field(gt=0, le=1)]
    weight_decay: NonNegativeFloat
    beta1: Fraction
    beta2: Fraction
    grad_clip: NonNegativeFloat
    skip_sigma: NonNegativeFloat
    max_skips: PositiveInt
    max_rollbacks: NonNegativeInt
    epochs: PositiveFloat
    "How often each training example is seen; steps follow from it."
    batch_size: PositiveInt
    "Examples per optimizer step, over all processes; of instructions, packed sequences."
    dropout: Fraction
    "In the model while it is fine-tuned."
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    log_interval: PositiveInt
    evaluations: PositiveInt
    "Measurements on the validation examples, evenly over the run."
    checkpoint_interval: PositiveInt
    checkpoint_keep_last: PositiveInt

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> Self:
        if self.min_lr > self.learning_rate:
            raise ValueError(f"min_lr ({self.min_lr}) must not exceed learning_rate ({self.learning_rate})")
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"warmup_fraction + decay_fraction ({self.warmup_fraction} + {self.decay_fraction}) must not exceed 1"
            )
        return self


class Judge(Section):
    max_new_tokens: PositiveInt
    "Of an answer."
    temperature: NonNegativeFloat
    "Of answers: 0 takes the likeliest token always, as tasks want it; 1 answers as often in each way as was learned."
    answers: NonNegativeInt
    "Test prompts that are answered, always the same ones; 0: all."
    samples: NonNegativeInt
    "Of them, those that the report shows."


class Promote(Section):
    confidence: Annotated[float, Field(ge=0.5, lt=1)]
    "Of the intervals of the paired bootstrap over test examples, as in register.gate of params.yaml."
    min_gain: NonNegativeFloat
    """How much better than its floor a model must be on test examples: in accuracy than naive Bayes, in bits per byte of answers
    than the base model, in preferred answers than one half. The figures themselves are compared, and the interval is told beside
    them: with a few hundred examples it often holds 0, and then chance may have promoted what is no better."""
    max_regression: NonNegativeFloat
    """What a measure may lose against the champion on the same test examples: accuracy, exact matches of each task, preferred
    answers, bits per byte. Refused is a loss that is larger at both ends of the interval."""
    max_forgetting: NonNegativeFloat
    "Bits per byte that the base model's own held-out text may cost more than before; nothing is asked where none was measured."


class Recipe(Section):
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    "Decides new weights, data order and dropout."
    base: Text
    "The model that is fine-tuned: a folder, models:/NAME@ALIAS or models:/NAME/VERSION."
    block_size: NonNegativeInt
    "Longest context in tokens; 0: the base model's. Another one needs positions that are computed (rotary, sinusoidal)."
    data: Data
    task: Annotated[Instruct | Classify | Preference, Field(discriminator="kind")]
    method: Annotated[Full | Lora | Head | LastBlocks, Field(discriminator="kind")]
    train: FineTrain
    judge: Judge
    promote: Promote

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.base == SCRATCH:
            raise ValueError("base: fine-tuning begins with a trained model; name a folder or a registered version")
        allowed = _OF_TASK[self.task.kind]
        if self.data.form not in allowed:
            raise ValueError(
                f"task.kind = {self.task.kind} cannot learn from data.form = {self.data.form}; it takes {', '.join(allowed)}"
            )
        if self.method.kind == "head" and self.task.kind != "classify":
            raise ValueError(
                f"method.kind = head trains a classifier's head, and task.kind = {self.task.kind} has none; use full, lora or"
                " last_blocks"
            )
        return self


def is_recipe_name(name: str) -> bool:
    """Whether a recipe may be called so: its file, its outputs and its versions are."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None and name != "dvc"


def recipe_file(name: str) -> Path:
    """Return where a recipe lies; raise `UserError` that names those there are if it is not there."""
    path = FOLDER / f"{name}.yaml"
    if path.is_file() and is_recipe_name(name):
        return path
    there = sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "dvc")
    raise UserError(f"{path}: no such recipe; there are {', '.join(there) or 'none'}")


def load_recipe(name: str) -> Recipe:
    """Read and validate a recipe; raise `UserError` that names every faulty key."""
    path = recipe_file(name)
    try:
        values = parse_settings(path, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    with explained(path):
        return Recipe.model_validate(values)


def registered_name(name: str, recipe: str) -> str:
    """Return what the versions of a recipe are called in the registry, and its runs' experiment; `name` is register.name."""
    return f"{name}-{recipe}"
