"""params.yaml as frozen, validated settings.

Every setting has a type, a range and a meaning here and a value in params.yaml: there are no defaults in code.
Whatever is wrong is reported before any work, each fault with its key, its value and what is allowed.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, PlainValidator, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gpt.errors import UserError
from gpt.params.data import Fetch, Prepare, Tokenize, Tokenizer
from gpt.params.types import (
    FileName,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
    not_empty,
)

PARAMS_FILE = Path("params.yaml")


def _switch_or_auto(value: Any) -> bool | Literal["auto"]:
    # pydantic would report a fault for each half of the union, and its Literal takes 1 for true.
    if value is True or value is False or value == "auto":
        return value
    raise ValueError("must be true, false or auto")


class Base(Section):
    name: FileName
    "MLflow experiment."
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    "Decides initial weights, data order and dropout."


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
    prompts: Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(not_empty)]
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
