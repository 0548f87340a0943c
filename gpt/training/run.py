"""A training run from its inputs to its outputs, in one process or in each of several, whatever its job is."""

from contextlib import ExitStack, nullcontext
from typing import Any

from accelerate import PartialState

from gpt import paths
from gpt.errors import Interrupted, UserError
from gpt.files import sha256_json
from gpt.params.project import Params
from gpt.processes.agreement import is_same_everywhere
from gpt.processes.cores import bound_threads
from gpt.processes.launch import check_launch, joined_processes, start_accelerator
from gpt.processes.machine import describe_hardware, keep_freed_memory
from gpt.processes.owner import tell_owner
from gpt.processes.precision import check_precision, matmul_precision, mixed_precision, warn_if_emulated
from gpt.processes.signals import Stop
from gpt.tracking.curves import Curves, check_trackers
from gpt.tracking.tracker import Tracker
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.adoption import describe_other_run, read_adopted, write_adopted
from gpt.training.checkpoints.beginning import begin_together
from gpt.training.checkpoints.rollback import check_result
from gpt.training.checkpoints.saver import Saver
from gpt.training.checkpoints.stable import StableStates
from gpt.training.job import About, Job
from gpt.training.steps.compilation import Choice, choose_compile
from gpt.training.steps.optimizer import stable_steps
from gpt.training.steps.sharding import full_model
from gpt.training.trainer import Trainer


def train(job: Job) -> None:
    """Do a job, going on from its last checkpoint.

    Raises `UserError` for inputs that are missing or do not fit, `Interrupted` after a signal, with the state saved.
    """
    check_launch(job.params)
    check_trackers(job.params.launch)
    _check_precision(job.params)
    bound_threads()
    with joined_processes(job.params.launch) as processes:
        _train(job, processes)


def _check_precision(params: Params) -> None:
    if params.train.precision == "fp16" and params.launch.strategy == "fsdp":
        raise UserError(
            "params.yaml: train.precision = 'fp16' does not work with launch.strategy = 'fsdp'; use fp32, tf32 or bf16"
        )
    check_precision("train.precision", params.train.precision)


def _train(job: Job, processes: PartialState) -> None:
    params, identity = job.params, job.identity()
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
        job.open(accelerator, stop)
        trainer = Trainer(job, accelerator, folder, saver, stop)
        if not trainer.resume() and saver:
            write_adopted(folder, [])  # what was to be adopted is not there: of a kill, or damaged
        compiled = _compile(trainer)
        if accelerator.is_main_process:
            _track(trainer, {"compile": compiled}, identity.id, job.describe())
        accelerator.wait_for_everyone()  # one that still prepared itself would end at a signal, and leave the others waiting
        stop.defer()
        with trainer.record.tracker or nullcontext(), trainer.record.curves or nullcontext():
            try:
                trainer.fit()
                _save_result(trainer, identity.id, read_adopted(folder))
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


def _compile(trainer: Trainer) -> Choice:
    """Compile the transformer blocks or leave them, and note in the run's state what is done, for its later starts."""
    settings, state = trainer.job.params.launch, trainer.state
    steps_left = trainer.settings.max_steps - state.step
    choice = choose_compile(
        settings, trainer.take_step, state.step, steps_left, trainer.read_batch, before=state.compile
    )
    # What auto chose once stays chosen, also where this machine cannot follow.
    if settings.compile != "auto" or state.compile is None:
        state.compile = choice.value
    return choice


def _track(trainer: Trainer, choices: dict[str, Choice], fingerprint: str, about: About) -> None:
    """Print what `auto` has chosen and open the run's journal, on rank 0."""
    params, state = trainer.job.params, trainer.state
    launch = params.section("launch")
    for name, choice in choices.items():
        if launch[name] == "auto":
            print(f"{name} auto: {choice}", flush=True)
    tags = {
        "device": describe_hardware(),
        "num_processes": trainer.accelerator.num_processes,
        "fingerprint": fingerprint,
        "parameters": trainer.bare_model.count_parameters(),
        "resumed_at_step": state.step,
    }
    tags |= {f"launch.{key}": value for key, value in launch.items()}
    tags |= {name: str(choice) for name, choice in choices.items()}
    tags |= {f"parent.{key}": str(value) for key, value in (state.parent or {}).items()}
    is_new, tags = state.run is None, tags | about.tags
    trainer.record.tracker = Tracker(
        paths.kept(paths.SPOOL),
        state.run,
        experiment=params.base.name,
        command=trainer.job.command,
        settings=about.settings,
        note=about.note,
        tags=tags,
        dataset=about.dataset,
        card=about.card,
    )
    state.run = trainer.record.tracker.run
    trainer.record.curves = Curves(
        params.launch.trackers,
        paths.kept(paths.LOGS),
        project=params.base.name,
        run=state.run,
        first_step=0 if is_new else state.step,
        config=about.settings | tags,
    )
    if is_new:  # it may go on from another run's state, whose curves are its own up to there
        trainer.record.replay(state.training_rows, state.validation_rows)


def _save_result(trainer: Trainer, fingerprint: str, adopted: list[dict[str, Any]]) -> None:
    """Let rank 0 write what the job makes; raise `UserError` if the run is no result."""
    is_writer = trainer.accelerator.is_main_process
    model = full_model(trainer.bare_model, keep=is_writer)
    if not is_writer:
        return
    check_result(model, trainer.state)
    about = {
        "fingerprint": fingerprint,
        "adopted": adopted,
        "parent": trainer.state.parent,
        "num_processes": trainer.accelerator.num_processes,
        "hardware": describe_hardware(),
    }
    assert trainer.record.tracker is not None, "rank 0 tracks the run"
    for name, text in trainer.job.save(model, trainer.state, about).items():
        trainer.record.tracker.log_text(name, text)
