"""tokenizer and tokenize: how documents become tokens."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gpt.params.types import NonNegativeInt, PositiveInt, Section


class Tokenizer(Section):
    kind: Literal["bpe", "gpt2", "char"]
    vocab_size: Annotated[int, Field(ge=258, le=1_000_000)]
    "Entries including <|endoftext|>; for bpe exact, for gpt2 50257, for char an upper bound."
    train_bytes: PositiveInt
    "It learns from about so much text of the train split, documents chosen by their hash."

    @model_validator(mode="after")
    def _gpt2_is_fixed(self) -> Self:
        if self.kind == "gpt2" and self.vocab_size != 50257:
            raise ValueError("vocab_size of kind gpt2 is 50257")
        return self


class Tokenize(Section):
    shard_tokens: Annotated[int, Field(ge=1024)]
    "Tokens a shard file holds at most."
    shuffle_seed: NonNegativeInt
    "Decides the order of a source's documents."
