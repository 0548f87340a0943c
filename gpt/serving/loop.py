"""The engine between a thread that computes and the event loop that talks with clients."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Self

from gpt.memory import is_out_of_memory
from gpt.serving.engine.engine import Engine
from gpt.serving.engine.request import Piece, Request

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """So many requests run and wait that another one would wait too long."""


class EngineLoop:
    """Steps an engine while it has requests, in `thread`, which models share: two at once would fight for the cores."""

    def __init__(self, engine: Engine, thread: Executor, max_requests: int) -> None:
        self.engine = engine
        self.queues: dict[Request, asyncio.Queue[Piece]] = {}
        "Of requests that run or wait."
        self._thread, self._max_requests = thread, max_requests
        self._task: asyncio.Task[None] | None = None

    def answer(self, requests: Sequence[Request]) -> "Answering":
        """Begin to answer requests; whoever calls this calls `leave` of what it returns. Raises `QueueFull`."""
        if len(self.queues) + len(requests) > self._max_requests:
            raise QueueFull
        answering = Answering(self, requests)
        for request in requests:
            self.engine.add(request)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return answering

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.engine.is_idle:
            try:
                pieces = await loop.run_in_executor(self._thread, self.engine.step)
            except Exception as error:
                advice = "; give --cache-tokens or --max-running a lower number" if is_out_of_memory(error) else ""
                logger.exception("a step failed, and the requests that were running are given up%s", advice)
                pieces = self.engine.fail()
            for piece in pieces:
                if queue := self.queues.get(piece.request):
                    queue.put_nowait(piece)


class Answering:
    """Requests that are being answered: iterating yields what is added to their answers until all are over."""

    def __init__(self, loop: EngineLoop, requests: Sequence[Request]) -> None:
        self.requests, self.began = requests, time.monotonic()
        self.first_piece: float | None = None
        "When it came, of `time.monotonic`."
        self._loop, self._unfinished = loop, len(requests)
        self._queue: asyncio.Queue[Piece] = asyncio.Queue()
        loop.queues.update(dict.fromkeys(requests, self._queue))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        if not self._unfinished:
            raise StopAsyncIteration
        piece = await self._queue.get()
        self.first_piece = self.first_piece or time.monotonic()
        self._unfinished -= piece.finish is not None
        return piece

    def leave(self) -> None:
        """Give up what is not over: it is read no further from the next step on."""
        for request in self.requests:
            request.left = True
            self._loop.queues.pop(request, None)
