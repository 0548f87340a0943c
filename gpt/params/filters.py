"""prepare.filters: which documents stay, by their text, by their fields, or by a rule of one's own."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from gpt.params.types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Sha256,
    Text,
    not_empty,
)


class GopherQuality(Section):
    """Rae et al. 2021, table A1 and section A.1.1, as datatrove has it; 0 turns a bound off."""

    kind: Literal["gopher_quality"]
    min_doc_words: NonNegativeInt
    "Fewest words of a document; what is marks alone is no word, here and in the next three."
    max_doc_words: NonNegativeInt
    "Most words of a document."
    min_avg_word_length: NonNegativeInt
    "Least mean length of its words, in characters."
    max_avg_word_length: NonNegativeInt
    "Largest mean length of its words."
    max_symbol_word_ratio: NonNegativeFloat
    "Most signs # for each word, and most ellipses for each word."
    max_bullet_lines_ratio: NonNegativeFloat
    "Largest share of lines that begin with a bullet, • or -."
    max_ellipsis_lines_ratio: NonNegativeFloat
    "Largest share of lines that end with an ellipsis."
    max_non_alpha_words_ratio: NonNegativeFloat
    "Least share of words with a letter, whatever its name says."
    min_stop_words: NonNegativeInt
    "Fewest different ones of the, be, to, of, and, that, have, with."


class GopherRepetition(Section):
    """Rae et al. 2021, table A1: shares of duplicate lines, paragraphs and n-grams; 0 turns a bound off."""

    kind: Literal["gopher_repetition"]
    dup_line_frac: NonNegativeFloat
    "Largest share of lines that were there before in the document."
    dup_para_frac: NonNegativeFloat
    "Largest share of paragraphs that were there before."
    dup_line_char_frac: NonNegativeFloat
    "Largest share of characters in lines that were there before."
    dup_para_char_frac: NonNegativeFloat
    "Largest share of characters in paragraphs that were there before."
    top_n_grams: dict[PositiveInt, PositiveFloat]
    "Largest share of the characters that the most frequent n-gram may have, by n."
    dup_n_grams: dict[PositiveInt, PositiveFloat]
    "Largest share of the characters that repeated n-grams may have, by n."


class C4(Section):
    """Raffel et al. 2020, section 2.2; drops lines first, then documents of few sentences."""

    kind: Literal["c4"]
    filter_no_terminal_punct: bool
    "Lines go that do not end with a mark that ends a sentence, or that end with an ellipsis."
    min_num_sentences: int
    "Documents of fewer sentences go; -1 turns it off, as for the next two."
    min_words_per_line: int
    "Lines of fewer words go."
    max_word_length: int
    "Lines with a longer word go, in characters."
    remove_citations: bool
    "Numbers of notes are taken out, as [1]."
    filter_lorem_ipsum: bool
    "Documents with lorem ipsum go."
    filter_javascript: bool
    "Lines with the word javascript go."
    filter_curly_bracket: bool
    "Documents with { go."
    filter_policy: bool
    "Lines of terms of use, privacy and cookies go."


class FineWeb(Section):
    """Penedo et al. 2024, section 3.6."""

    kind: Literal["fineweb"]
    line_punct_thr: NonNegativeFloat
    "Least share of lines that end with a mark of punctuation."
    short_line_thr: NonNegativeFloat
    "Largest share of short lines."
    short_line_length: NonNegativeInt
    "Most characters of a line that counts as short."
    char_duplicates_ratio: NonNegativeFloat
    "Largest share of characters in lines that were there before in the document."
    new_line_ratio: NonNegativeFloat
    "Most line ends for each word."


class Language(Section):
    kind: Literal["language"]
    model: Text
    "File of a fastText language model, such as lid.176.bin."
    model_sha256: Sha256
    "Of that file."
    languages: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(not_empty)]
    "Codes of languages, as the model names them: en, de, …"
    threshold: Fraction
    "Documents stay if one of the languages is at least so likely."


class FieldFilter(Section):
    """Documents stay whose field is as all of the conditions that are given say; one without the field goes."""

    field: Text
    "Of a JSON object, a column, or one that dots lead to; read though it is none of prepare.read.metadata_fields."
    at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    "Least number that the field may hold; null: no condition, as for the next three."
    at_most: Annotated[float, Field(allow_inf_nan=False)] | None = None
    "Largest number that it may hold."
    equals: str | int | float | bool | None = None
    "What it must hold."
    one_of: Annotated[tuple[str | int | float | bool, ...], Field(strict=False), AfterValidator(not_empty)] | None = (
        None
    )
    "What it must hold one of."

    @model_validator(mode="after")
    def _a_condition(self) -> Self:
        if all(value is None for value in (self.at_least, self.at_most, self.equals, self.one_of)):
            raise ValueError("says nothing of its field; give at_least, at_most, equals or one_of")
        return self


class UrlList(Section):
    """Documents go whose address is in a list: of hosts, which stand for all below them, and of addresses."""

    url_list: Text
    "File with a host (example.org) or an address (example.org/forum, which stands for all below it) a line; # begins a comment."
    field: Text
    "Field with a document's address; one without stays."


class OwnFilter(Section):
    """A class of one's own, from the project's folder or an installed package; further keys are its arguments."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", populate_by_name=True)
    class_: Annotated[Text, Field(alias="class")]
    "Dotted path, as my_filters.Poetry for the class Poetry in my_filters.py."

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is made with."""
        return dict(self.model_extra or {})


_BY_KEY = {"class": "class", "class_": "class", "url_list": "url_list", "field": "field"}
"The first of these keys that a filter has says what it is; else its `kind` does."


def _kind(value: Any) -> str | None:
    keys = type(value).model_fields if isinstance(value, BaseModel) else value if isinstance(value, dict) else {}
    found = next((kind for key, kind in _BY_KEY.items() if key in keys), None)
    return found or (value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None))


Filter = Annotated[
    Annotated[GopherQuality, Tag("gopher_quality")]
    | Annotated[GopherRepetition, Tag("gopher_repetition")]
    | Annotated[C4, Tag("c4")]
    | Annotated[FineWeb, Tag("fineweb")]
    | Annotated[Language, Tag("language")]
    | Annotated[FieldFilter, Tag("field")]
    | Annotated[UrlList, Tag("url_list")]
    | Annotated[OwnFilter, Tag("class")],
    Discriminator(
        _kind,
        custom_error_type="filter",
        custom_error_message="a filter has `kind` gopher_quality, gopher_repetition, c4, fineweb or language, or says"
        " {field: …, at_least: …}, {url_list: …, field: …} or {class: …}",
    ),
]
