"""Make what Prefect says of this workspace's runs true, and let those that were cut off go on: `python -m flows.keeper [--once]`.

It also tells what Prefect cannot see by itself, as events and as the progress of a training (flows/upkeep/). It runs beside a
worker, and has a last look when it is told to stop.
"""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flows.server import configured_api, prepare_prefect
from flows.upkeep.events import send
from flows.upkeep.progress import Progress
from flows.upkeep.runs import FlowRuns
from flows.upkeep.watch import Watch
from gpt.entry import begin, end_with
from gpt.errors import UserError
from gpt.paths import ensure_user, enter_project

_POLL_SECONDS = 10.0

logger = logging.getLogger(__name__)


def main() -> int:
    """Look every ten seconds, and once more when told to stop; or once. Return 0."""
    begin()
    return end_with(_main)


def _main() -> int:
    if (arguments := sys.argv[1:]) not in ([], ["--once"]):
        raise UserError(f"{' '.join(arguments)!r}: `python -m flows.keeper` takes `--once`, or nothing")
    once = arguments == ["--once"]
    enter_project()
    ensure_user()
    prepare_prefect()
    if not configured_api():
        raise UserError("PREFECT_API_URL names no server whose runs could be looked after; `make up` starts one")
    keeper, told = Keeper(), threading.Event()
    if once:
        if reason := keeper.put_right():
            raise UserError(f"Prefect's server cannot be asked: {reason}")
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    while not told.is_set():
        if reason := keeper.put_right() or keeper.tell():
            logger.warning("Prefect's server cannot be asked: %s", reason)
        told.wait(_POLL_SECONDS)
    keeper.put_right(
        is_last=True
    )  # the worker was ended before us: its runs are over, and no server may be there a moment later
    return 0


class Keeper:
    """What the command does again and again; each returns why Prefect's server could not be asked, nothing if it could."""

    def __init__(self) -> None:
        self._watch, self._progress = Watch(), Progress()
        self._at_work: list[Any] = []

    def put_right(self, is_last: bool = False) -> str:
        """Make the states of flow runs true; `is_last` if no worker starts any more."""
        with _asked() as answer:
            runs = FlowRuns(answer.client, is_last)
            for line in runs.look():
                print(line, flush=True)
            self._at_work = runs.at_work
        return answer.failure

    def tell(self) -> str:
        """Tell events that are new, and how far training is."""
        with _asked() as answer:
            self._watch.look()
            send(answer.client, self._watch.waiting)
            self._watch.waiting.clear()
            self._progress.show(answer.client, self._at_work, self._watch.runs)
        return answer.failure


@dataclass
class _Answer:
    client: Any
    failure: str = ""


@contextmanager
def _asked() -> Iterator[_Answer]:
    """Yield a client of Prefect's server; what keeps it from answering ends the block, and is noted."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    answer = _Answer(None)
    try:
        with get_client(sync_client=True) as answer.client:
            yield answer
    except (httpx.HTTPError, PrefectException, OSError) as error:  # it is away or starting: what is true can wait
        answer.failure = next(iter(str(error).splitlines()), type(error).__name__)


if __name__ == "__main__":
    sys.exit(main())
