"""A DVC stage as a Prefect task: DVC decides whether there is work, Prefect records when and what was said."""

import json
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Cancelled, Completed, Failed

from flows.upkeep.workspace import wait_for_others
from gpt.processes.trees import running

# The stages that reach for a network, where the same attempt may succeed a little later.
_NETWORK_STAGES = {"fetch", "fetch_weights"}
# Those that go on from a checkpoint. SIGKILL comes from outside, as from a kernel without memory.
_RESUMING_STAGES = {"pretrain", "finetune"}
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGBUS}
_REMEMBERED_LINES = 200
_ERROR_LINES = 10  # of one of DVC's messages
_OF_DVC = ("Running stage ", "> ", "ERROR: failed to reproduce", "Updating lock file")  # what it says itself
_BUSY = "is busy, it is being blocked by:"  # how DVC says that another process works on the same paths
_STAGE_ENDED = re.compile(r"ERROR: failed to reproduce '.*': failed to run: .*, exited with (-?\d+)$")
# What DVC advises after a stage: how to commit, said anew each time. The flow's last lines say it once (flows/keeping.py).
_DVC_HINTS = re.compile(
    r"To track the changes with git, run:|\tgit add .*|To enable auto staging, run:|\tdvc config core\.autostage true"
    r"|Use `dvc push` to send your updates to remote storage\."
)


P = ParamSpec("P")
GPT = str(Path(sys.prefix) / "bin" / "gpt")


class Stopped(Exception):
    """A command was told to stop, and did: its last words, and `reason`, what told it, which ends the flow too."""

    def __init__(self, message: str, reason: BaseException) -> None:
        super().__init__(message)
        self.reason = reason


class StageError(Exception):
    """A stage's own last words, and its exit code: 2 if the user must change something."""

    def __init__(self, stage: str, message: str, exit_code: int) -> None:
        super().__init__(f"{stage}: {message}")
        self.exit_code = exit_code


def says_what_stopped_it(run: Callable[P, State]) -> Callable[P, State]:
    """Let a task whose command was stopped carry that in its state; the flow raises the reason again (flows/pipeline.py)."""

    @wraps(run)
    def task_function(*arguments: P.args, **named: P.kwargs) -> State:
        try:
            return run(*arguments, **named)
        except Stopped as stopped:
            return Cancelled(name="Stopped", message=str(stopped), data=stopped)

    return task_function


def is_worth_retrying(_task: Any, _run: Any, state: State) -> bool:
    """Whether a failed stage may succeed when it is just tried again: a fetch, or a training that was killed and goes on."""
    error = state.data
    if not isinstance(error, StageError) or error.exit_code == 2:
        return False
    stage = str(error).split(":")[0].split("@")[0]
    return stage in _NETWORK_STAGES or (stage in _RESUMING_STAGES and _signal_of(error.exit_code) in _FROM_OUTSIDE)


@task(
    name="stage",
    task_run_name="{name}",
    cache_policy=NO_CACHE,  # DVC is the cache
    persist_result=False,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=is_worth_retrying,
)
@says_what_stopped_it
def run_stage(name: str, repository: str = ".", deadline: float | None = None) -> State:
    """Bring one stage of the project in the current folder, or of a DVC repository in it, up to date.

    `Cached` if DVC had nothing to run. At the deadline, in seconds since 1970, it is told to stop.

    The state carries the failure instead of raising it: a traceback through Prefect tells a user nothing.
    """
    # Without the wait, an IDE's `dvc status` at the wrong moment makes a finished stage fail. The flow has the order.
    command = [sys.executable, "-m", "dvc", "--cd", repository, "--wait-for-lock", "repro", "--single-item", name]
    exit_code, said = run_in_turn(command, deadline)
    if exit_code != 0:
        return Failed(message=str(error := explain(name, exit_code, said)), data=error)
    if f"Running stage '{name}':" in said:
        return Completed(message="Ran")
    restored = any(line.startswith(f"Stage '{name}' is cached") for line in said)
    return Completed(name="Cached", message="Restored from DVC's cache" if restored else "Nothing changed")


def run_in_turn(command: Sequence[str], deadline: float | None = None) -> tuple[int, list[str]]:
    """Run DVC as `run_logged` does, one at a time in this workspace: say which process is at work, and wait for it."""
    while True:
        try:
            wait_for_others(get_run_logger().warning, deadline)
        except TimeoutError as reason:
            raise Stopped(str(reason), reason) from None
        exit_code, said = run_logged(command, deadline)
        if exit_code == 0 or not any(_BUSY in line for line in said):
            return exit_code, said
        # Another one was faster by a moment. Nothing was changed.


def run_logged(command: Sequence[str], deadline: float | None = None) -> tuple[int, list[str]]:
    """Run a command as an owned child and log its lines, without DVC's hints; return its exit code and its last lines.

    Raises `Stopped` when a signal, a cancellation or the deadline has ended it: it has saved what it could by then.
    """
    left = None if deadline is None else max(0.0, deadline - time.time())
    logger = get_run_logger()
    said: deque[str] = deque(maxlen=_REMEMBERED_LINES)

    def on_line(line: str) -> None:
        if line.strip() and not _DVC_HINTS.fullmatch(line):
            said.append(line)
            (logger.error if line.lower().startswith("error: ") else logger.info)("%s", line)

    try:
        environment = _environment()
        return running.run(command, cwd=Path.cwd(), env=environment, on_line=on_line, timeout_seconds=left), list(said)
    except BaseException as reason:
        if isinstance(reason, Exception) and not isinstance(reason, TimeoutError):
            raise
        words = [line for line in said if not line.startswith(_OF_DVC)]
        raise Stopped(words[-1] if words else "stopped", reason) from None


def explain(stage: str, exit_code: int, said: Sequence[str]) -> StageError:
    """Turn what a failed stage said into one message: DVC's error if it never ran, else its own errors or last line."""
    lines = list(said)
    for number, line in enumerate(lines):
        if ended := _STAGE_ENDED.match(line):
            exit_code, lines = int(ended[1]), lines[:number]
            break
    else:
        if found := [number for number, line in enumerate(lines) if line.startswith("ERROR: ")]:
            message = "\n".join(lines[found[-1] : found[-1] + _ERROR_LINES]).removeprefix("ERROR: ")
            return StageError(stage, message, exit_code)
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return StageError(stage, "\n".join(errors), exit_code)
    number = _signal_of(exit_code)
    killed = signal.strsignal(number) if 0 < number < signal.NSIG else None
    words = [line for line in lines if not line.startswith(_OF_DVC)]
    if killed and words and re.fullmatch(rf"(\S+: .*\d+ )?{killed}(  .*)?", words[-1]):  # some shells report it
        words.pop()
    ending = f"ended by signal {number}" if killed else f"exit code {exit_code}"
    if killed and number == signal.SIGKILL:
        ending += ", as the kernel does when memory is short"
    return StageError(stage, f"{words[-1] if words else 'failed'} ({ending})", exit_code)


def timed_out(words: str) -> State:
    """Return the state of a flow at its deadline; `words` say what it did until then."""
    message = f"stopped at its deadline: {words}; the next run goes on"
    return Failed(name="TimedOut", message=message, data=StageError("deadline", message, exit_code=1))


def _signal_of(exit_code: int) -> int:
    """Return the signal that an exit code tells of, as a shell and as Python tell it; 0 and below for none."""
    return -exit_code if exit_code < 0 else exit_code - 128


def last_object(said: list[str]) -> dict[str, Any]:
    """Return the last line that is a JSON object; errors share the pipe and may follow it."""
    for line in reversed(said):
        if line.startswith("{"):
            return json.loads(line)
    raise ValueError("the command printed no JSON object, although --json asks for one")


def same_failure(state: State) -> State:
    """Return the state of a flow whose task has failed; where it was told to stop, raise what told it.

    At its deadline it was told by us: the flow has timed out.
    """
    result: Any = state.result(raise_on_failure=False)
    if isinstance(result, Stopped) and isinstance(result.reason, TimeoutError):
        return timed_out(str(result))
    if isinstance(result, Stopped):
        raise result.reason
    return Failed(message=state.message, data=result)


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,  # dvc.yaml finds `gpt` by it
        "SHELL": "/bin/sh",  # DVC runs commands in the user's, which may be none or one of another language, such as fish
        "PYTHONUNBUFFERED": "1",  # lines arrive when they are written
        "DVC_NO_ANALYTICS": "1",
        "DVC_DAEMON": "1",  # no background processes of DVC's own
    }
