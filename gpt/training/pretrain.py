"""Pretraining: the job of `gpt pretrain`, which makes models/base of data/tokens."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from gpt import paths
from gpt.errors import Interrupted
from gpt.files import write_json
from gpt.limits import usable_cores
from gpt.model.attention import number_documents
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import Params
from gpt.params.training import SCRATCH
from gpt.processes.agreement import work_together
from gpt.processes.owner import tell_owner
from gpt.processes.signals import Stop
from gpt.tokens.batches import Batches
from gpt.tokens.epochs import check_epochs, describe_epochs, describe_excess
from gpt.tokens.mixture import phases_of
from gpt.tokens.shards import TokenReader, data_id
from gpt.tokens.tokenizer import check_tokenizer, load_tokenizer
from gpt.tokens.verification import Verification
from gpt.tracking.dataset import describe_dataset, read_card
from gpt.tracking.pages.description import describe_training
from gpt.tracking.tracker import flat_params
from gpt.training.checkpoints.fingerprint import Fingerprint, fingerprint
from gpt.training.initial import check_initial, check_unchanged, load_optimizer, new_model, read_source
from gpt.training.job import About, Figures, GiveUp
from gpt.training.run import train
from gpt.training.state import TRAINING_COLUMNS, VALIDATION_COLUMNS, RunState, write_rows
from gpt.training.steps.step import Batch, token_batch
from gpt.training.validation import start_probe, validate, write_samples


def pretrain(params: Params) -> None:
    """Train the base model that params.yaml describes, going on from its last checkpoint, and write it to models/base.

    Raises `UserError` for inputs that are missing or do not fit, `Interrupted` after a signal, with the state saved.
    """
    train(Pretraining(params))


class Pretraining:
    """The base model of params.yaml: see `Job`, whose methods these are."""

    command = "gpt pretrain"
    figure = "bits_per_byte"

    def __init__(self, params: Params) -> None:
        self.params = params
        self.learning_rates: dict[str, float] = {}
        self.begins_trained = params.train.init_from != SCRATCH
        self.tokens_per_step = params.train.batch_size * params.model.block_size

    def identity(self) -> Fingerprint:
        check_tokenizer(paths.TOKENS, paths.TOKENIZER, "run `gpt tokenize` again")  # it is packed with the model
        check_initial(self.params)
        return fingerprint(self.params)

    def open(self, accelerator: Accelerator, stop: Stop) -> None:
        _verify_data(accelerator, self.params, stop)
        train, self._block_size = self.params.train, self.params.model.block_size
        self._encoding = load_tokenizer(paths.TOKENIZER)
        self._source = read_source(train)
        self._batches = Batches(
            TokenReader(paths.TOKENS, "train"),
            self._block_size,
            train.batch_size,
            self.params.base.seed,
            phases_of(train.mixture, train.max_steps),
        )
        self._validation = TokenReader(paths.TOKENS, "validation")
        self._probe = start_probe(self.params, self._encoding, accelerator)
        self.has_benchmarks = self._probe is not None
        uses = self._batches.uses(train.max_steps)
        if accelerator.is_main_process:
            print("\n".join(describe_epochs(uses, train.max_steps, self._block_size)), flush=True)
        check_epochs(uses, train.max_steps, self._block_size, train.max_epochs)

    def new_model(self) -> GPTModel:
        return new_model(self.params, self._encoding.n_vocab)

    def initial_optimizer(self, config: GPTConfig) -> dict[str, torch.Tensor]:
        return load_optimizer(self.params.train, config)

    def check_unchanged(self) -> None:
        check_unchanged(self.params.train, self._source)

    def read(self, step: int, first: int, last: int) -> Batch:
        inputs, targets = self._batches.read(step, first, last)
        batch = token_batch(inputs, targets, self.params.train.batch_size)
        if not self.params.train.attention_across_documents:
            batch.tensors["documents"] = number_documents(inputs, self._encoding.eot_token)
        return batch

    def describe_excess(self, batches: int) -> str:
        limit = self.params.train.max_epochs
        excess = describe_excess(self._batches.uses(batches), self._block_size, limit)
        return excess and f"{excess} (train.max_epochs = {limit:g})"

    def validate(
        self, model: GPTModel, accelerator: Accelerator, autocast: torch.dtype | None, give_up: GiveUp
    ) -> Figures | None:
        return validate(model, self._validation, accelerator, autocast=autocast, give_up=give_up)

    def write_samples(self, model: GPTModel, *, seed: int, is_writer: bool) -> Sequence[tuple[str, str]]:
        prompts = self.params.evaluate.prompts
        return write_samples(model, self._encoding, prompts, seed=seed, is_writer=is_writer)

    def score_benchmarks(
        self, model: GPTModel, accelerator: Accelerator, autocast: torch.dtype | None, give_up: GiveUp
    ) -> Figures | None:
        assert self._probe is not None, "there are benchmarks"
        return self._probe.score(model, accelerator, autocast=autocast, give_up=give_up)

    def describe(self) -> About:
        params = self.params
        fetched = params.fetch.by_name()
        return About(
            dataset=describe_dataset(params.base.name, paths.DOCUMENTS, paths.TOKENS, fetched),
            card=read_card(paths.DATA_CARD, paths.TOKENS),
            note=describe_training(params),
            settings=flat_params(params),
            tags={f"init.{key}": str(value) for key, value in self._source.items() if value is not None},
        )

    def save(self, model: GPTModel, state: RunState, about: dict[str, Any]) -> dict[str, str]:
        save_model(model, paths.TOKENIZER, paths.BASE_MODEL)
        write_rows(paths.TRAINING_PLOT, state.training_rows, TRAINING_COLUMNS)
        write_rows(paths.VALIDATION_PLOT, state.validation_rows, VALIDATION_COLUMNS)
        write_json(paths.RUN, about | {"initial": self._source, "data_sha256": data_id(paths.TOKENS)})
        return {path.name: path.read_text(encoding="utf-8") for path in (paths.TRAINING_PLOT, paths.VALIDATION_PLOT)}


def _verify_data(accelerator: Accelerator, params: Params, stop: Stop) -> None:
    """Verify the shards that training reads, in one process a machine; raise `UserError` if one is damaged."""
    launch = params.launch
    with ExitStack() as stack:
        verification: Verification | None = None
        if accelerator.is_local_main_process:  # other machines may have files of their own
            verification = stack.enter_context(
                Verification(
                    paths.TOKENS,
                    ("train", "validation"),
                    threads=usable_cores(),
                    part=(accelerator.process_index // launch.num_processes, launch.num_machines),
                    tell=partial(print, flush=True) if accelerator.is_main_process else None,
                )
            )
        try:
            work_together(accelerator, lambda seconds: verification is None or verification.wait(seconds), stop)
        except Interrupted as stopped:
            tell_owner(stopped)
            raise
