"""Beginning with a state that another run has kept, which process 0 does while the others wait.

To copy gigabytes, or to wait for another run that does, may take longer than processes wait for each other. So all keep in touch
meanwhile.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from accelerate import Accelerator, PartialState

from gpt.errors import Interrupted
from gpt.processes.agreement import work_together
from gpt.processes.owner import tell_owner
from gpt.processes.signals import Stop
from gpt.training.checkpoints.stable import StableStates


def begin_together(
    state: Accelerator | PartialState, states: StableStates | None, folder: Path, most_steps: int, stop: Stop
) -> str | None:
    """Let a run begin as `StableStates.begin_from` does; return what was done in process 0, the only one that has `states`.

    All processes call this. Raises `Interrupted` in all of them if one was sent a signal.
    """
    if state.num_processes == 1:  # in the main thread, which a signal stops at once
        return states.begin_from(folder, most_steps) if states else None
    given_up = threading.Event()

    def begin() -> str | None:
        return states.begin_from(folder, most_steps, given_up.is_set) if states else None

    with ThreadPoolExecutor(1, "beginning") as pool:
        working = pool.submit(begin)
        try:
            work_together(state, lambda seconds: _is_done(working, seconds), stop)
        except Interrupted as stopped:
            tell_owner(stopped)
            raise
        finally:
            given_up.set()
        return working.result()


def _is_done(working: Future[str | None], seconds: float) -> bool:
    """Return whether the work is done, after so long at most; raise what it raised."""
    wait([working], seconds)
    if working.done():
        working.result()
    return working.done()
