"""base, model and train: what decides the weights, once there are tokens."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gpt.params.types import (
    FileName,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
)

SCRATCH = "scratch"
"`train.init_from` of a model whose weights are drawn."

_ROUNDED = 0.001 + 1e-9
"By so much shares may miss 1, as three of 0.333 do."


class Base(Section):
    name: FileName
    "MLflow experiment."
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    "Decides initial weights, data order and dropout."


class Model(Section):
    n_layer: PositiveInt
    "Transformer blocks."
    n_head: PositiveInt
    "Attention heads, of n_embd / n_head dimensions each."
    n_kv_head: NonNegativeInt
    "Key and value heads, each shared by a group of queries, for a smaller cache in generation; 0: as many as n_head."
    n_embd: PositiveInt
    "Width: dimensions of an embedding."
    block_size: Annotated[int, Field(ge=2)]
    "Longest context in tokens."
    dropout: Fraction
    "Share of activations that training sets to zero."
    bias: bool
    "Biases in linear layers and layer norms, as GPT-2 has them."
    position: Literal["learned", "sinusoidal", "rotary"]
    norm: Literal["layernorm", "rmsnorm"]
    activation: Literal["gelu", "relu2", "swiglu"]
    qk_norm: bool
    "Normalise queries and keys before their product."
    tie_embeddings: bool
    "Use the token embedding as the output head."
    pad_vocab: Annotated[int, Field(ge=1, le=65_536)]
    "Rows of the embedding and the head are rounded up to a multiple of it, for the kernels of GPUs; 1: none is added."
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


class Phase(Section):
    """How training mixes the sources from a step on, until the next phase."""

    from_step: NonNegativeInt
    "Steps counted from 0."
    shares: dict[FileName, NonNegativeFloat]
    "Of the training tokens, by source; they add up to 1. A source that is not named gives none."

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if not self.shares:
            raise ValueError("shares names no source; name at least one, as in {wikipedia: 0.7, code: 0.3}")
        total = sum(self.shares.values())
        if abs(total - 1) > _ROUNDED:
            raise ValueError(
                f"shares add up to {total:g}, not 1: "
                + " + ".join(f"{share:g} ({name})" for name, share in self.shares.items())
            )
        return self


class Train(Section):
    init_from: Text
    "scratch, or the weights to start from: a folder (a model, a checkpoint, Hugging Face's), models:/NAME@ALIAS or /VERSION."
    init_optimizer: bool
    "Start with the optimizer's state too, which a checkpoint has."
    optimizer: Literal["adamw", "muon"]
    "muon: Muon for the matrices of the blocks, AdamW for the rest."
    learning_rate: PositiveFloat
    "At its peak, after the warm-up."
    min_lr: NonNegativeFloat
    "At the end."
    muon_learning_rate: PositiveFloat
    "For Muon's matrices at the peak; it rises and falls as learning_rate does. Without effect for adamw."
    schedule: Literal["cosine", "wsd"]
    "After the warm-up: cosine falls from learning_rate to min_lr; wsd stays there, then falls linearly."
    warmup_fraction: Fraction
    "Share of max_steps in which the learning rate rises linearly, where warmup_steps is 0."
    warmup_steps: NonNegativeInt
    "Or so many steps, where warmup_fraction is 0: then the way to wsd's decay is the same whatever max_steps is."
    decay_fraction: Annotated[float, Field(gt=0, le=1)]
    "Share of max_steps in which wsd falls. Without effect for cosine."
    weight_decay: NonNegativeFloat
    "Of matrices and embeddings; gains and biases do not decay."
    beta1: Fraction
    "Of AdamW: how long the gradient's mean remembers."
    beta2: Fraction
    "Of AdamW: how long its square's mean does."
    grad_clip: NonNegativeFloat
    "Largest global gradient norm; 0 turns clipping off."
    skip_sigma: NonNegativeFloat
    "Skip steps whose loss or gradient norm is, as a logarithm, so many standard deviations above the last ones' mean; 0: none."
    max_skips: PositiveInt
    "More steps in a row are not skipped: training goes back to the checkpoint before them and past their data."
    max_rollbacks: NonNegativeInt
    "How often it goes back; then it ends."
    max_steps: NonNegativeInt
    "0 trains nothing: the model is that of init_from."
    batch_size: PositiveInt
    "Sequences per optimizer step, over all processes."
    mixture: Annotated[tuple[Phase, ...], Field(strict=False)]
    "Which share of the tokens each source gives, by phases; []: all of them as they are, in one shuffled order."
    max_epochs: NonNegativeFloat
    "Training that would see a source's tokens more often does not begin; 0: any number."
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    "Of the passes; weights and the optimizer's state are fp32. tf32: products of a GPU's tensor cores; fp16 needs a GPU."
    attention_across_documents: bool
    "Whether a token attends to earlier documents of its window; false: to its own from its <|endoftext|> on."
    log_interval: PositiveInt
    "Steps; several processes also ask each other this often whether one was told to stop."
    eval_interval: PositiveInt
    "Steps between two measurements on the validation split."
    checkpoint_interval: PositiveInt
    "Steps between two checkpoints."
    checkpoint_keep_last: PositiveInt
    "The newest checkpoints that stay while a run lasts, besides one that a signal had saved."
    checkpoint_keep_every: NonNegativeInt
    "Checkpoints of every so many steps stay too; 0: none."
    checkpoint_keep_stable: NonNegativeInt
    "States before wsd's decay that stay when their runs have ended, the newest of all runs: longer runs start from them; 0: none."
    sample_interval: NonNegativeInt
    "Steps after which the model writes, besides those of eval_interval; 0: no others."
    benchmark_interval: NonNegativeInt
    "Steps after which a small part of evaluate.benchmarks is scored, for MLflow only; 0: never."

    @model_validator(mode="after")
    def _phases_ascend(self) -> Self:
        steps = [phase.from_step for phase in self.mixture]
        if steps and steps[0]:
            raise ValueError(f"mixture: its first phase must begin with from_step: 0, not {steps[0]}")
        if steps != sorted(set(steps)):
            raise ValueError(f"mixture: phases must begin one after the other, not at from_step {steps}")
        return self

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> Self:
        if self.min_lr > self.learning_rate:
            raise ValueError(f"min_lr ({self.min_lr}) must not exceed learning_rate ({self.learning_rate})")
        if self.warmup_steps and self.warmup_fraction:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) and warmup_fraction ({self.warmup_fraction}) both say how long the warm-up"
                " is; set one of them to 0"
            )
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"warmup_fraction + decay_fraction ({self.warmup_fraction} + {self.decay_fraction}) must not exceed 1"
            )
        decay_steps = round(self.decay_fraction * self.max_steps) if self.schedule == "wsd" else 0
        if self.max_steps and self.warmup_steps + decay_steps > self.max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) and the {decay_steps} steps of the decay do not fit into max_steps"
                f" ({self.max_steps}); raise it, or shorten them"
            )
        return self

    @model_validator(mode="after")
    def _start_is_possible(self) -> Self:
        if self.init_from == SCRATCH and not self.max_steps:
            raise ValueError(
                "max_steps = 0: a model from scratch needs training; raise it, or name weights in init_from"
            )
        if self.init_from == SCRATCH and self.init_optimizer:
            raise ValueError(
                "init_optimizer is true, and init_from = scratch has no optimizer's state; set it to false"
            )
        return self
