"""tokenizer and tokenize: how documents become tokens."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gpt.params.types import FileName, NonNegativeInt, PositiveInt, Section, Sha256, Text

END_OF_TEXT = "<|endoftext|>"


def _different(value: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for number, name in enumerate(value) if name in value[:number]]:
        raise ValueError(f"names {twice[0]} twice")
    if END_OF_TEXT in value:
        raise ValueError(f"names {END_OF_TEXT}, which every tokenizer here has")
    return value


class _Tokenizer(Section):
    train_bytes: PositiveInt
    "It learns from about so much text of the train split, of long documents parts, by hash; one that is loaded is tried on it."
    special_tokens: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(_different)]
    "Reserved for later, as <|im_start|>: their ids come after all others, and no text becomes one of them."


class Tokenizer(_Tokenizer):
    """Learned from the train split, or GPT-2's."""

    kind: Literal["bpe", "gpt2", "char"]
    vocab_size: Annotated[int, Field(ge=258, le=1_000_000)]
    "Entries including <|endoftext|>, without special_tokens; for bpe exact, for gpt2 50257, for char an upper bound."

    @model_validator(mode="after")
    def _gpt2_is_fixed(self) -> Self:
        if self.kind == "gpt2" and self.vocab_size != 50257:
            raise ValueError("vocab_size of kind gpt2 is 50257")
        return self


class TiktokenTokenizer(_Tokenizer):
    """An encoding that tiktoken knows, as o200k_base."""

    kind: Literal["tiktoken"]
    encoding: FileName
    "From tiktoken's cache (TIKTOKEN_CACHE_DIR), else from the network."


class HuggingFaceTokenizer(_Tokenizer):
    """A tokenizer.json of Hugging Face's library: byte-level BPE, or SentencePiece's kinds."""

    kind: Literal["huggingface"]
    file: Text
    "Its path; relative to the project."
    sha256: Sha256
    "Of the file."
    end_of_text: Text
    "The special token that ends documents; one that the file does not have is added to it."


class Tokenize(Section):
    shard_tokens: Annotated[int, Field(ge=1024)]
    "Tokens a shard file holds at most."
    shuffle_seed: NonNegativeInt
    "Decides the order of a source's documents."
