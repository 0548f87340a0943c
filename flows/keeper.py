"""Make what Prefect says of this workspace's runs true, and let those that were cut off go on: `python -m flows.keeper [--once]`.

It also tells what Prefect cannot see by itself, as events and as the progress of a training (flows/upkeep/). It runs beside a
worker, and has a last look when it is told to stop.
"""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        keeper.put_right()
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    while not told.is_set():
        _try(keeper.put_right)
        _try(keeper.tell)
        told.wait(_POLL_SECONDS)
    # The worker was ended before us: its runs are over, and a moment later no server may be there.
    _try(lambda: keeper.put_right(is_last=True))
    _try(keeper.tell)
    return 0


def _try(look: Callable[[], None]) -> None:
    """Look, and log what keeps it from being done: there is a next time."""
    try:
        look()
    except UserError as error:
        logger.warning("%s", error)
    except Exception:  # also what nobody foresaw: who looks after runs does not end by itself
        logger.exception("the keeper could not do this")


class Keeper:
    """What the command does again and again; each raises `UserError` where Prefect's server cannot be asked."""

    def __init__(self) -> None:
        self._watch, self._progress = Watch(), Progress()
        self._at_work: list[Any] = []

    def put_right(self, is_last: bool = False) -> None:
        """Make the states of flow runs true; `is_last` if no worker starts any more."""
        with _client() as client:
            runs = FlowRuns(client, is_last)
            for line in runs.look():
                print(line, flush=True)
            self._at_work = runs.at_work

    def tell(self) -> None:
        """Tell events that are new, and how far training is."""
        self._watch.look()
        with _client() as client:
            send(client, self._watch.waiting)
            self._watch.were_told()
            self._progress.show(client, self._at_work, self._watch.runs)


@contextmanager
def _client() -> Iterator[Any]:
    """Yield a client of Prefect's server; raise `UserError` where that is away, starts, or refuses something."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, PrefectException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"Prefect's server cannot be asked: {reason}") from None


if __name__ == "__main__":
    sys.exit(main())
