"""evaluate: how a finished model is judged."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gpt.params.types import (
    FileName,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Section,
    Text,
    not_empty,
)


class Evaluate(Section):
    benchmarks: Annotated[tuple[FileName, ...], Field(strict=False)]
    "Files of data/benchmarks. `prepare` keeps their items out of the training documents."
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    "Of the passes that score; as train.precision. Samples are written in fp32."
    max_tokens: NonNegativeInt
    "Score whole documents of at most so many tokens of each split, chosen by the hash of their ids, but at least one; 0: all."
    prompts: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(not_empty)]
    max_new_tokens: PositiveInt
    temperature: NonNegativeFloat
    "0 takes the most likely token always."
    top_k: NonNegativeInt
    "Sample among the k most likely tokens; 0 among all."
