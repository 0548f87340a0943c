"""Going back after too many skipped steps in a row: to the checkpoint before them, and past the data that they had.

A skipped step changes no weights. If many in a row are bad, the weights before them may be the cause, or the data: so training
takes older weights and goes past those data. What it goes back to must not depend on when a signal came, or a stopped run would end
with other weights than one that was not: only checkpoints that `checkpoint_interval` asked for count, and before the first of them
the run's beginning.
"""

import logging
from collections.abc import Callable

from accelerate import Accelerator

from gpt.errors import UserError
from gpt.model.transformer import GPTModel
from gpt.params.training import Train
from gpt.training.checkpoints.checkpoint import Checkpoint
from gpt.training.checkpoints.checkpointer import Checkpointer
from gpt.training.state import RunState

logger = logging.getLogger(__name__)


def roll_back(
    state: RunState,
    settings: Train,
    checkpointer: Checkpointer,
    accelerator: Accelerator,
    beginning: Callable[[], Checkpoint],
) -> None:
    """Go back to the last scheduled checkpoint, or to `beginning`, go past the skipped steps' batches, and save that.

    All processes must call this. Raises `UserError` if training went back `max_rollbacks` times already.
    """
    left_at, skipped, rollbacks = state.step, state.guard.counts().skipped, state.rollbacks + 1
    next_batch, run, compile = left_at + state.skipped_batches, state.run, state.compile
    if rollbacks > settings.max_rollbacks:
        raise diverged(f"more than {settings.max_skips} steps in a row until step {left_at} had to be skipped")
    checkpointer.wait()
    accelerator.wait_for_everyone()  # the last save is written
    checkpointer.load(checkpointer.find(only_scheduled=True) or beginning())
    # What does not go back with the weights: how often this happened, what it is called, how it is computed, which data are next.
    state.rollbacks, state.run, state.compile = rollbacks, run, compile
    state.skipped_batches = next_batch - state.step
    state.logged_skipped = skipped
    state.guard.go_on_after(skipped)
    accelerator.wait_for_everyone()  # all have loaded it
    if accelerator.is_main_process:
        logger.warning(
            "step %d: more than %d steps in a row skipped; going back to step %d and past %d batches (%d of %d times)",
            left_at,
            settings.max_skips,
            state.step,
            left_at - state.step,
            rollbacks,
            settings.max_rollbacks,
        )
    checkpointer.remove_newer(state.step)  # they are of steps that are not this run's any more
    checkpointer.save(is_scheduled=True)


def check_result(model: GPTModel, state: RunState) -> None:
    """Raise `UserError` if the full `model` that a run ended with in this `state` is no result."""
    if not all(weight.isfinite().all() for weight in model.state_dict().values()):
        raise diverged("weights are not finite after the last step")
    if state.step and not state.training_rows:
        raise diverged("not one step could be taken")
    if not state.validation_rows or state.last_validation != state.step:
        raise diverged("the validation loss is not finite after the last step")


def diverged(reason: str) -> UserError:
    """Return the error that ends a run whose numbers make no model."""
    return UserError(
        f"training diverged: {reason}; lower train.learning_rate or train.grad_clip in params.yaml, or lengthen the warm-up"
        " (checkpoints are from before)"
    )
