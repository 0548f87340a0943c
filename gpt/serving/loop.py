"""The engine between a thread that computes and the event loop that talks with clients."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor

from gpt.memory import is_out_of_memory
from gpt.serving.engine.engine import Engine
from gpt.serving.engine.request import Piece, Request

_STEPS_IN_A_ROW = 8
"Of one model; then another one's may come in between."

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """So many requests run and wait that another one would wait too long."""


class EngineLoop:
    """Steps an engine while it has requests, in `thread`, which models share: two at once would fight for the cores."""

    def __init__(self, engine: Engine, thread: Executor, max_requests: int) -> None:
        self.engine = engine
        self.queues: dict[Request, asyncio.Queue[Piece | None]] = {}
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
            await loop.run_in_executor(self._thread, self._step, loop)

    def _step(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take some steps. The event loop is told what each of them adds to answers, and the next one does not wait for it."""
        for _ in range(_STEPS_IN_A_ROW):
            if self.engine.is_idle:
                return
            try:
                pieces = self.engine.step()
            except Exception as error:
                advice = "; give --cache-tokens or --max-running a lower number" if is_out_of_memory(error) else ""
                logger.exception("a step failed, and the requests that were running are given up%s", advice)
                pieces = self.engine.fail()
            loop.call_soon_threadsafe(self._hand_out, pieces)

    def _hand_out(self, pieces: Sequence[Piece]) -> None:
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
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        "None: a silence."
        self._is_silent = False
        self._timer: asyncio.TimerHandle | None = None
        loop.queues.update(dict.fromkeys(requests, self._queue))

    async def __aiter__(self) -> AsyncIterator[Piece]:
        async for piece in self.with_silences(None):
            assert piece is not None, "nobody asked for silences"
            yield piece

    async def with_silences(self, seconds: float | None) -> AsyncIterator[Piece | None]:
        """Yield what is added to the answers, and None after at least so many seconds without anything."""
        # One timer for all pieces: one for each costs more than the piece.
        if seconds is not None:
            self._listen(seconds)
        while self._unfinished:
            piece = await self._queue.get()
            if piece is not None:
                self._is_silent = False
                self.first_piece = self.first_piece or time.monotonic()
                self._unfinished -= piece.finish is not None
            yield piece

    def _listen(self, seconds: float) -> None:
        """Note every so many seconds whether there was a piece since the last time."""
        if self._is_silent:
            self._queue.put_nowait(None)
        self._is_silent = True
        self._timer = asyncio.get_running_loop().call_later(seconds, self._listen, seconds)

    def leave(self) -> None:
        """Give up what is not over: it is read no further from the next step on."""
        if self._timer is not None:
            self._timer.cancel()
        for request in self.requests:
            request.left = True
            self._loop.queues.pop(request, None)
