"""Jobs that wait for the network, side by side."""

from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

from gpt.sources.refusals import OtherContent

_AT_A_TIME = 8  # files of a store: more would wait for each other's bytes

Result = TypeVar("Result")


def run_together(jobs: Mapping[str, Callable[[], Result]]) -> tuple[dict[str, Result], dict[str, OtherContent]]:
    """Run jobs side by side; return by their names what they give, and which found another file than was said.

    Any other error is raised at once, and no further job begins. The threads are no reason for the process to stay: what one was
    about to fetch when somebody pressed Ctrl-C, the next fetch goes on with.
    """
    waiting, done, stopped = SimpleQueue[str](), SimpleQueue[tuple[str, Result | BaseException]](), Event()
    for name in jobs:
        waiting.put(name)

    def work() -> None:
        while not stopped.is_set():
            try:
                name = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((name, jobs[name]()))
            except BaseException as error:
                done.put((name, error))

    for _ in range(min(_AT_A_TIME, len(jobs))):
        Thread(target=work, daemon=True).start()
    results, other = dict[str, Result](), dict[str, OtherContent]()
    try:
        for _ in jobs:
            name, result = done.get()
            if isinstance(result, OtherContent):
                other[name] = result
            elif isinstance(result, BaseException):
                raise result
            else:
                results[name] = result
    finally:
        stopped.set()
    return results, other
