"""Pretraining from its inputs to its outputs: `gpt pretrain` in one process, or in each of several."""

import csv
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

from accelerate import Accelerator, PartialState

from gpt import paths
from gpt.errors import Interrupted, UserError
from gpt.files import atomic_file, sha256_json, write_json
from gpt.limits import usable_cores
from gpt.model.storage import save_model
from gpt.params.launch import Launch
from gpt.params.project import Params
from gpt.processes.agreement import is_same_everywhere, work_together
from gpt.processes.cores import bound_threads
from gpt.processes.launch import check_launch, joined_processes, start_accelerator
from gpt.processes.machine import describe_hardware, keep_freed_memory
from gpt.processes.owner import tell_owner
from gpt.processes.precision import check_precision, matmul_precision, mixed_precision, warn_if_emulated
from gpt.processes.signals import Stop
from gpt.tokens.epochs import check_epochs, describe_epochs
from gpt.tokens.shards import data_id
from gpt.tokens.tokenizer import check_tokenizer
from gpt.tokens.verification import Verification
from gpt.tracking.curves import Curves, check_trackers
from gpt.tracking.dataset import describe_dataset, read_card
from gpt.tracking.tracker import Tracker, flat_params
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.adoption import describe_other_run, read_adopted, write_adopted
from gpt.training.checkpoints.beginning import begin_together
from gpt.training.checkpoints.fingerprint import fingerprint
from gpt.training.checkpoints.rollback import check_result
from gpt.training.checkpoints.saver import Saver
from gpt.training.checkpoints.stable import StableStates
from gpt.training.compilation import Choice, choose_compile
from gpt.training.initial import check_initial, read_source
from gpt.training.optimizer import stable_steps
from gpt.training.sharding import full_model
from gpt.training.state import TRAINING_COLUMNS, VALIDATION_COLUMNS
from gpt.training.trainer import Trainer


def pretrain(params: Params) -> None:
    """Train the base model that params.yaml describes, going on from its last checkpoint, and write it to models/base.

    Raises `UserError` for inputs that are missing or do not fit, `Interrupted` after a signal, with the state saved.
    """
    check_launch(params)
    check_trackers(params.launch)
    _check_precision(params)
    bound_threads()
    with joined_processes(params.launch) as processes:
        _pretrain(params, processes)


def _check_precision(params: Params) -> None:
    if params.train.precision == "fp16" and params.launch.strategy == "fsdp":
        raise UserError(
            "params.yaml: train.precision = 'fp16' does not work with launch.strategy = 'fsdp'; use fp32, tf32 or bf16"
        )
    check_precision("train.precision", params.train.precision)


def _pretrain(params: Params, processes: PartialState) -> None:
    check_tokenizer(paths.TOKENS, paths.TOKENIZER, "run `gpt tokenize` again")  # it is packed with the model
    check_initial(params)
    identity = fingerprint(params)
    folder = paths.kept(paths.CHECKPOINTS) / identity.id
    _check_sameness(processes, params, identity.id)
    accelerator = start_accelerator(params.launch, mixed_precision(params.train.precision))
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if accelerator.is_main_process:
        warn_if_emulated("train.precision", params.train.precision, accelerator.device)
    with ExitStack() as stack:
        stack.enter_context(matmul_precision(params.train.precision))
        stop = Stop()
        stack.enter_context(stop.handled())
        if params.launch.num_machines > 1:
            stop.defer()  # the signal is one machine's: all stop together, once they are ready to agree on it
        saver: Saver | None = None
        stable: StableStates | None = None
        if accelerator.is_main_process:
            stack.enter_context(checkpoints.single_trainer(folder))
            identity.save(folder)
            stable = StableStates(folder.parent, identity, params.train.checkpoint_keep_stable)
            keep_last, keep_every = params.train.checkpoint_keep_last, params.train.checkpoint_keep_every
            saver = stack.enter_context(Saver(folder, keep_last=keep_last, keep_every=keep_every, stable=stable))
        begun = begin_together(accelerator, stable, folder, stable_steps(params.train), stop)
        if stable and (told := begun or describe_other_run(folder.parent, identity) or stable.describe_nearest(folder)):
            print(told, flush=True)
        _verify_data(accelerator, params.launch, stop)
        trainer = Trainer(params, accelerator, folder, saver, stop)
        _tell_epochs(trainer)
        if not trainer.resume() and saver:
            write_adopted(folder, [])  # what was to be adopted is not there: of a kill, or damaged
        compiled = _compile(trainer)
        if accelerator.is_main_process:
            _track(trainer, {"compile": compiled}, identity.id)
        accelerator.wait_for_everyone()  # one that still prepared itself would end at a signal, and leave the others waiting
        stop.defer()
        with trainer.record.tracker or nullcontext(), trainer.record.curves or nullcontext():
            try:
                trainer.fit()
                _write_outputs(trainer, identity.id, read_adopted(folder))
                trainer.stop_if_asked()  # from here on a launcher may end us before we have removed the checkpoints
            except Interrupted as stopped:
                tell_owner(stopped)  # now: a launcher may not wait for what the tracker has left to deliver
                raise
            finally:
                trainer.record.close()
        if saver:
            saver.wait()
            checkpoints.remove(folder)
        accelerator.wait_for_everyone()  # if rank 0 has died, the others did not succeed


def _check_sameness(processes: PartialState, params: Params, fingerprint: str) -> None:
    """Raise `UserError` if not all processes have the same settings and inputs."""
    digest = sha256_json({"params": params.model_dump(mode="json"), "fingerprint": fingerprint})
    if not is_same_everywhere(processes, int(digest[:12], 16)):
        raise UserError(
            "params.yaml, data/tokens, models/tokenizer or the versions of gpt and torch are not the same on all machines;"
            " make them the same"
        )


def _verify_data(accelerator: Accelerator, launch: Launch, stop: Stop) -> None:
    """Verify the shards that training reads, in one process a machine; raise `UserError` if one is damaged."""
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


def _tell_epochs(trainer: Trainer) -> None:
    """Print how often training will see each source; raise `UserError` if that is too often."""
    settings, block_size = trainer.settings, trainer.params.model.block_size
    uses = trainer.batches.uses(settings.max_steps)
    if trainer.accelerator.is_main_process:
        print("\n".join(describe_epochs(uses, settings.max_steps, block_size)), flush=True)
    check_epochs(uses, settings.max_steps, block_size, settings.max_epochs)


def _compile(trainer: Trainer) -> Choice:
    """Compile the transformer blocks or leave them, and note in the run's state what is done, for its later starts."""
    settings, state = trainer.params.launch, trainer.state
    steps_left = trainer.settings.max_steps - state.step
    choice = choose_compile(
        settings, trainer.take_step, state.step, steps_left, trainer.read_batch, before=state.compile
    )
    # What auto chose once stays chosen, also where this machine cannot follow.
    if settings.compile != "auto" or state.compile is None:
        state.compile = choice.value
    return choice


def _track(trainer: Trainer, choices: dict[str, Choice], fingerprint: str) -> None:
    """Print what `auto` has chosen and open the run's journal, on rank 0."""
    launch = trainer.params.section("launch")
    for name, choice in choices.items():
        if launch[name] == "auto":
            print(f"{name} auto: {choice}", flush=True)
    tags = {
        "device": describe_hardware(),
        "num_processes": trainer.accelerator.num_processes,
        "fingerprint": fingerprint,
        "parameters": trainer.bare_model.count_parameters(),
        "resumed_at_step": trainer.state.step,
    }
    tags |= {f"launch.{key}": value for key, value in launch.items()}
    tags |= {name: str(choice) for name, choice in choices.items()}
    dataset = describe_dataset(trainer.params.base.name, paths.DOCUMENTS, paths.TOKENS, trainer.params.fetch.by_name())
    card = read_card(paths.DATA_CARD, paths.TOKENS)
    state = trainer.state
    is_new, tags = state.run is None, tags | _parent_tags(trainer)
    trainer.record.tracker = Tracker(paths.kept(paths.SPOOL), trainer.params, state.run, tags, dataset, card)
    state.run = trainer.record.tracker.run
    trainer.record.curves = Curves(
        trainer.params.launch.trackers,
        paths.kept(paths.LOGS),
        project=trainer.params.base.name,
        run=state.run,
        first_step=0 if is_new else state.step,
        config=flat_params(trainer.params) | tags,
    )
    if is_new:  # it may go on from another run's state, whose curves are its own up to there
        trainer.record.replay(state.training_rows, state.validation_rows)


def _parent_tags(trainer: Trainer) -> dict[str, str]:
    """Return what a run began with, as tags: another's state before its decay, and weights that were there already."""
    tags = {f"parent.{key}": str(value) for key, value in (trainer.state.parent or {}).items()}
    source = read_source(trainer.settings)
    return tags | {f"init.{key}": str(value) for key, value in source.items() if value is not None}


def _write_outputs(trainer: Trainer, fingerprint: str, adopted: list[dict[str, Any]]) -> None:
    """Write models/base, plots/ and models/run.json on rank 0; raise `UserError` if the run is no result."""
    is_writer = trainer.accelerator.is_main_process
    model = full_model(trainer.bare_model, keep=is_writer)
    if not is_writer:
        return
    check_result(model, trainer.state)
    save_model(model, paths.TOKENIZER, paths.BASE_MODEL)
    state = trainer.state
    for path, rows, columns in (
        (paths.TRAINING_PLOT, state.training_rows, TRAINING_COLUMNS),
        (paths.VALIDATION_PLOT, state.validation_rows, VALIDATION_COLUMNS),
    ):
        with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    assert trainer.record.tracker is not None, "rank 0 tracks the run"
    for path in (paths.TRAINING_PLOT, paths.VALIDATION_PLOT):
        trainer.record.tracker.log_text(path.name, path.read_text(encoding="utf-8"))
    write_json(
        paths.RUN,
        {
            "fingerprint": fingerprint,
            "adopted": adopted,
            "parent": state.parent,
            "initial": read_source(trainer.settings),
            "num_processes": trainer.accelerator.num_processes,
            "hardware": describe_hardware(),
            "data_sha256": data_id(paths.TOKENS),
        },
    )
