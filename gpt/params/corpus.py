"""prepare: how raw files become documents."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from gpt.params.engine import Engine
from gpt.params.types import (
    FileName,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Pattern,
    PositiveFloat,
    PositiveInt,
    Section,
    Sha256,
    Text,
    not_empty,
)


class Read(Section):
    """How the files of a source become documents."""

    format: Literal["auto", "text", "jsonl", "parquet", "warc"]
    "auto: by the ending of a file's name, which .gz or .zst may follow."
    text_field: Text
    "Field of a JSONL line or column of a Parquet file that holds the text; a dot reaches into an object."
    id_field: str
    "Field that names the document, kept as metadata `id`; empty: none."
    metadata_fields: Annotated[tuple[Text, ...], Field(strict=False)]
    "Fields that are kept as the document's metadata."
    separator: str
    "What stands between the documents of a text file; empty: a file is one document."
    pattern: Pattern
    "Regular expression: each match in a text file (its first group, if it has one) is a document; empty: none."
    remove: Pattern
    "Regular expression of what is taken out of every text; empty: nothing."

    @model_validator(mode="after")
    def _one_way_to_split(self) -> Self:
        if self.separator and self.pattern:
            raise ValueError("separator and pattern both say where a text file's documents are; set one of them")
        return self


class Clean(Section):
    repair_unicode: bool
    "Mend text that was decoded wrongly (ftfy); composed Unicode (NFC) and plain line ends come in any case."
    remove_control_characters: bool
    "Take out control characters but tab and line feed, and marks of byte order; joiners and direction marks stay."


class GopherQuality(Section):
    """Rae et al. 2021, table A1 and section A.1.1, as datatrove has it; 0 turns a bound off."""

    kind: Literal["gopher_quality"]
    min_doc_words: NonNegativeInt
    max_doc_words: NonNegativeInt
    min_avg_word_length: NonNegativeInt
    max_avg_word_length: NonNegativeInt
    max_symbol_word_ratio: NonNegativeFloat
    max_bullet_lines_ratio: NonNegativeFloat
    max_ellipsis_lines_ratio: NonNegativeFloat
    max_non_alpha_words_ratio: NonNegativeFloat
    "Least share of words with a letter, whatever its name says."
    min_stop_words: NonNegativeInt


class GopherRepetition(Section):
    """Rae et al. 2021, table A1: shares of duplicate lines, paragraphs and n-grams; 0 turns a bound off."""

    kind: Literal["gopher_repetition"]
    dup_line_frac: NonNegativeFloat
    dup_para_frac: NonNegativeFloat
    dup_line_char_frac: NonNegativeFloat
    dup_para_char_frac: NonNegativeFloat
    top_n_grams: dict[PositiveInt, PositiveFloat]
    "Largest share of the characters that the most frequent n-gram may have, by n."
    dup_n_grams: dict[PositiveInt, PositiveFloat]
    "Largest share of the characters that repeated n-grams may have, by n."


class C4(Section):
    """Raffel et al. 2020, section 2.2; drops lines first, then documents of few sentences."""

    kind: Literal["c4"]
    filter_no_terminal_punct: bool
    min_num_sentences: int
    "-1 turns it off, as for the next two."
    min_words_per_line: int
    max_word_length: int
    remove_citations: bool
    filter_lorem_ipsum: bool
    filter_javascript: bool
    filter_curly_bracket: bool
    filter_policy: bool


class FineWeb(Section):
    """Penedo et al. 2024, section 3.6."""

    kind: Literal["fineweb"]
    line_punct_thr: NonNegativeFloat
    short_line_thr: NonNegativeFloat
    short_line_length: NonNegativeInt
    char_duplicates_ratio: NonNegativeFloat
    new_line_ratio: NonNegativeFloat


class Language(Section):
    kind: Literal["language"]
    model: Text
    "File of a fastText language model, such as lid.176.bin."
    model_sha256: Sha256
    languages: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(not_empty)]
    threshold: Fraction
    "Documents stay if one of the languages is at least so likely."


Filter = Annotated[GopherQuality | GopherRepetition | C4 | FineWeb | Language, Field(discriminator="kind")]


class Deduplicate(Section):
    exact: bool
    "Drop documents of the same text."
    minhash: bool
    "Drop documents of nearly the same text: those whose MinHash signatures agree in one of the buckets."
    ngram: PositiveInt
    "Words that make a shingle."
    buckets: PositiveInt
    hashes: PositiveInt
    "Per bucket. Texts of similarity s meet with probability 1 - (1 - s^hashes)^buckets."
    seed: Annotated[int, Field(ge=0, lt=2**63)]


class Decontaminate(Section):
    action: Literal["cut", "drop", "report"]
    "Of a training document with a match: cut the passage, drop the document, or only report it."
    ngram: Annotated[int, Field(ge=2)]
    "Words in a row that make a match, in lower case and without punctuation."
    window: NonNegativeInt
    "Characters that are cut on each side of a match too."
    min_characters: NonNegativeInt
    "Pieces that a cut leaves shorter than this go too."
    max_pieces: PositiveInt
    "A document that cuts leave in more pieces than this is dropped."


class Prepare(Section):
    engine: Engine
    "Where it runs, never what comes out."
    shards: PositiveInt
    "Pieces that are worked on in parallel, and files of each split."
    read: Read
    read_by_source: dict[FileName, dict[str, Any]]
    "What is otherwise than in `read` for a source, by its name."
    malformed: Literal["error", "skip"]
    "What happens to a record or file that cannot be read: end with an error, or leave it out and count it."
    max_document_bytes: PositiveInt
    "Longer records count as malformed: they are held in memory."
    clean: Clean
    filters: Annotated[tuple[Filter, ...], Field(strict=False)]
    "One after the other; docs/data.md has them with their published values."
    deduplicate: Deduplicate
    decontaminate: Decontaminate
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]
    "Share of documents to measure on while training."
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    "Share of documents that judge the finished model."
    split_seed: NonNegativeInt
    "Another seed puts other documents in validation and test."

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave something to train on (sum < 1)")
        return self

    @model_validator(mode="after")
    def _sources_can_be_read(self) -> Self:
        for name in self.read_by_source:
            try:
                self.reading(name)
            except ValidationError as error:
                fault = error.errors(include_url=False)[0]
                key = ".".join(str(part) for part in ("read_by_source", name, *fault["loc"]))
                raise ValueError(f"{key} = {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}") from None
        return self

    def reading(self, source: str) -> Read:
        """Return how the files of a source are read: `read`, and what `read_by_source` says otherwise."""
        return Read.model_validate(self.read.model_dump() | self.read_by_source.get(source, {}))
