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
    unescape_html: bool
    "Turn HTML's &amp; and &#233; into what they stand for, once: for sources whose text was escaped, not for code."
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


class Action(Section):
    """What happens to a training document with a match: cut the passage, drop the document, or only report it."""

    benchmarks: Literal["cut", "drop", "report"]
    "With an item of a benchmark."
    held_out: Literal["cut", "drop", "report"]
    "With a validation or test document."

    @model_validator(mode="before")
    @classmethod
    def _one_each(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"is said of both kinds apart, as in {{benchmarks: {value}, held_out: {value}}}")
        return value


class Decontaminate(Section):
    action: Action
    ngram: Annotated[int, Field(ge=2)]
    "Words in a row that make a match, in lower case and without punctuation."
    max_documents: NonNegativeInt
    "What more training documents than this share is boilerplate and no match; 0: everything is one."
    window: NonNegativeInt
    "Characters that are cut on each side of a benchmark's passage too: its answer may stand there."
    min_characters: NonNegativeInt
    "Pieces that a cut leaves shorter than this go too."
    max_pieces: PositiveInt
    "A document that cuts leave in more pieces than this is dropped."


class ForSource(Section):
    """What is done to the documents of one source."""

    read: Read
    clean: Clean
    filters: Annotated[tuple[Filter, ...], Field(strict=False)]
    "One after the other; docs/data.md has them with their published values."
    deduplicate: Deduplicate


class Prepare(ForSource):
    engine: Engine
    "Where it runs, never what comes out."
    shards: PositiveInt
    "Pieces that are worked on in parallel, and files of each split."
    by_source: dict[FileName, dict[str, Any]]
    "What is otherwise in `read`, `clean`, `filters` and `deduplicate` for a source, by its name."
    malformed: Literal["error", "skip"]
    "What happens to a record or file that cannot be read: end with an error, or leave it out and count it."
    max_document_bytes: PositiveInt
    "Longer records count as malformed: they are held in memory."
    decontaminate: Decontaminate
    hold_out: Literal["documents", "ends"]
    "documents: whole ones, chosen by their hash; ends: the last part of every document, as nanoGPT does with one text."
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]
    "Share of documents, or of each document, to measure on while training."
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    "Share of documents, or of each document, that judges the finished model."
    split_seed: NonNegativeInt
    "Another seed puts other documents in validation and test."

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave something to train on (sum < 1)")
        return self

    @model_validator(mode="after")
    def _sources_differ_as_they_may(self) -> Self:
        for name, changes in self.by_source.items():
            key = f"by_source.{name}"
            if unknown := sorted(changes.keys() - ForSource.model_fields.keys()):
                raise ValueError(f"{key}: {', '.join(unknown)} cannot differ; {', '.join(ForSource.model_fields)} can")
            for section, change in changes.items():
                if section != "filters" and not isinstance(change, dict):
                    raise ValueError(f"{key}.{section} = {change!r}: must be keys of {section} with their values")
            if unknown := sorted(changes.get("deduplicate", {}).keys() - _OWN_OF_DEDUPLICATE):
                raise ValueError(
                    f"{key}.deduplicate: {', '.join(unknown)} must be the same for all sources, whose documents are compared"
                    f" with each other; {' and '.join(_OWN_OF_DEDUPLICATE)} can differ"
                )
            try:
                self.of(name)
            except ValidationError as error:
                fault = error.errors(include_url=False)[0]
                place = ".".join((key, *map(str, fault["loc"])))
                message = fault["msg"].removeprefix("Value error, ")
                raise ValueError(f"{place} = {fault['input']!r}: {message[0].lower()}{message[1:]}") from None
        return self

    def of(self, source: str) -> ForSource:
        """Return what is done to a source's documents: what params.yaml says of all, and otherwise of this one."""
        values = {name: getattr(self, name) for name in ForSource.model_fields}
        for name, change in self.by_source.get(source, {}).items():
            values[name] = values[name].model_dump() | change if name != "filters" else change
        return ForSource.model_validate(values)

    def comparison(self) -> Deduplicate:
        """Return how documents are compared: as any source wants it. `of(source)` decides which of them may go."""
        wanted = [self.deduplicate, *(self.of(source).deduplicate for source in self.by_source)]
        return self.deduplicate.model_copy(
            update={name: any(getattr(each, name) for each in wanted) for name in _OWN_OF_DEDUPLICATE}
        )


_OWN_OF_DEDUPLICATE = ("exact", "minhash")
"Keys that decide about a source's documents alone."
