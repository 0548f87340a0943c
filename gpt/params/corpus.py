"""prepare: how raw files become documents."""

from functools import cache
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from gpt.params.engine import Engine
from gpt.params.filters import Filter
from gpt.params.types import FileName, Fraction, NonNegativeInt, Pattern, PositiveInt, Section, Text

_FORMATS = Literal["auto", "text", "code", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "html", "warc"]


@cache
def template_pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    """Return a template as pairs of text and the field that follows it, None at the end; {{ and }} are braces.

    Raises `ValueError` for braces that do not match and for what is more than a field's name.
    """
    pieces = []
    for text, field, form, conversion in Formatter().parse(template):
        if form or conversion or (field is not None and not field.strip()):
            raise ValueError(
                "between braces stands the name of a field and nothing else; braces of the text are {{ and }}"
            )
        pieces.append((text, field))
    return tuple(pieces)


def _template(value: str) -> str:
    try:
        pieces = template_pieces(value)
    except ValueError as error:
        raise ValueError(f"is no template ({error})") from None
    if value and not any(field for _, field in pieces):
        raise ValueError("names no field, as in {title}; leave it empty for none")
    return value


Template = Annotated[str, AfterValidator(_template)]


class Read(Section):
    """How the files of a source become documents."""

    format: _FORMATS
    "auto: by the ending of a file's name, which .gz, .bz2 or .zst may follow."
    text_field: Text
    "Field of a JSON object or column of a table that holds the text; a dot reaches into an object."
    template: Template
    "Text of several fields instead, as {title} and {body.text} in it; empty: none."
    message: Template
    "Text of each object in a list, as {role} and {content} of a chat's messages; empty: a list must hold strings."
    join: str
    "What stands between the strings or messages of a list."
    delimiter: Annotated[str, Field(max_length=1)]
    "What stands between the fields of a line of CSV or TSV; empty: a comma in CSV, a tab in TSV."
    quote: Annotated[str, Field(max_length=1)]
    "What a field of CSV or TSV may stand in, twice where the text has it; empty: nothing."
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
    def _marks_of_tables_differ(self) -> Self:
        if {self.delimiter, self.quote} & {"\r", "\n"}:
            raise ValueError("delimiter and quote stand in a line and cannot be its end; correct them")
        if self.quote and self.quote in (self.delimiter or ",\t"):
            raise ValueError(f"quote and delimiter are both {self.quote!r}; change one of them")
        return self

    @model_validator(mode="after")
    def _one_way_to_split(self) -> Self:
        if self.separator and self.pattern:
            raise ValueError("separator and pattern both say where a text file's documents are; set one of them")
        return self


class Clean(Section):
    """How texts are mended; nothing but the last key changes source code (format code)."""

    repair_unicode: bool
    "Mend text that was decoded wrongly (ftfy); composed Unicode (NFC) and plain line ends come in any case."
    unescape_html: bool
    "Turn HTML's &amp; and &#233; into what they stand for, once: for sources whose text was escaped, not for code."
    remove_control_characters: bool
    "Take out control characters but tab and line feed, and marks of byte order; joiners and direction marks stay."
    mask_personal_data: bool
    "Put others in the place of e-mail addresses, public IP addresses and telephone numbers, in source code too."


class Deduplicate(Section):
    exact: bool
    "Drop documents of the same text."
    minhash: bool
    "Drop documents of nearly the same text: those whose MinHash signatures agree in one of the buckets."
    ngram: PositiveInt
    "Words that make a shingle."
    buckets: PositiveInt
    "Parts of a signature; one that agrees makes two documents near copies."
    hashes: PositiveInt
    "Per bucket. Texts of similarity s meet with probability 1 - (1 - s^hashes)^buckets."
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    "Of the hash functions."


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

    split: Literal["auto", "train", "validation", "test"]
    "auto: by prepare.hold_out and the fractions; else the one that it was published as, whole."
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
    "What is otherwise in `split`, `read`, `clean`, `filters` and `deduplicate` for a source, by its name."
    malformed: Literal["error", "skip"]
    "What happens to a record or file that cannot be read: end with an error, or leave it out and count it."
    max_document_bytes: Annotated[int, Field(gt=0, le=300_000_000)]
    "Longer records count as malformed: they are held in memory, some at a time. Of a longer text say where its documents end."
    decontaminate: Decontaminate
    hold_out: Literal["documents", "ends"]
    """documents: whole ones, chosen by their hash; ends: the last part of every document is for validation, as nanoGPT does with
    one text, and what is before that for test."""
    validation_fraction: Fraction
    "Share of documents, or of each document, to measure on while training; 0 where a source is given as validation."
    test_fraction: Fraction
    "Share of documents, or of each document, that judges the finished model; 0 where a source is given as test."
    split_seed: NonNegativeInt
    "Another seed puts other documents in validation and test."

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must leave something to train on (sum < 1)")
        return self

    @model_validator(mode="after")
    def _each_split_has_something(self) -> Self:
        given = [self.split, *(change.get("split") for change in self.by_source.values())]  # of any type, as yet
        for split, fraction in (("validation", self.validation_fraction), ("test", self.test_fraction)):
            if not fraction and split not in given:
                raise ValueError(
                    f"{split}_fraction is 0, and no source is given as {split}; raise it, or say which source is, as in"
                    f" by_source: {{NAME: {{split: {split}}}}}"
                )
        return self

    @model_validator(mode="after")
    def _sources_differ_as_they_may(self) -> Self:
        for name, changes in self.by_source.items():
            key = f"by_source.{name}"
            if unknown := sorted(changes.keys() - ForSource.model_fields.keys()):
                raise ValueError(f"{key}: {', '.join(unknown)} cannot differ; {', '.join(ForSource.model_fields)} can")
            for section, change in changes.items():
                if section not in _WHOLE and not isinstance(change, dict):
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
            values[name] = change if name in _WHOLE else values[name].model_dump() | change
        return ForSource.model_validate(values)

    def comparison(self) -> Deduplicate:
        """Return how documents are compared: as any source wants it. `of(source)` decides which of them may go."""
        wanted = [self.deduplicate, *(self.of(source).deduplicate for source in self.by_source)]
        return self.deduplicate.model_copy(
            update={name: any(getattr(each, name) for each in wanted) for name in _OWN_OF_DEDUPLICATE}
        )


_WHOLE = ("split", "filters")
"Keys of a source that replace what is said of all, where the others change some keys of it."
_OWN_OF_DEDUPLICATE = ("exact", "minhash")
"Keys that decide about a source's documents alone."
