"""Answers on their way to a client: as server-sent events or whole, and given up when the client leaves."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

import orjson
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gpt.serving.api.refusals import Refusal, error_body
from gpt.serving.api.replies import Answer, Json, Reply
from gpt.serving.engine.request import Finish
from gpt.serving.loop import Answering

_SILENCE_SECONDS = 10.0
"After so long without a piece a heartbeat tells proxies that the stream is alive."
T = TypeVar("T")


class EventStream(StreamingResponse):
    """Server-sent events; `end` is called when the last one was sent or the client has left."""

    def __init__(self, events: AsyncGenerator[bytes, None], end: Callable[[], None]) -> None:
        # A proxy that kept events back until there are many would undo the stream.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


async def stream(answering: Answering, reply: Reply, with_usage: bool) -> AsyncGenerator[bytes, None]:
    """Yield the events of a reply, and heartbeats while there are none."""
    for chunk in reply.first_chunks():
        yield _event(chunk)
    async for piece in answering.with_silences(_SILENCE_SECONDS):
        if piece is None:
            yield b": still at work\n\n"
            continue
        if failed := _refusal_of(piece.finish):
            yield _event(error_body(failed.status_code, failed.detail, code=failed.code))
            break
        yield _event(reply.chunk(piece))
    if with_usage:
        yield _event(reply.usage_chunk())
    yield b"data: [DONE]\n\n"


async def collect(answering: Answering, reply: Reply) -> Json:
    """Return the whole reply; raises `Refusal` if an answer was given up."""
    answers = [Answer() for _ in reply.requests]
    async for piece in answering:
        if failed := _refusal_of(piece.finish):
            raise failed
        answers[reply.requests.index(piece.request)].add(piece)
    return reply.whole(answers)


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, but cancel it when the client leaves; raises `Refusal` then, which nobody reads."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client has left")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _refusal_of(finish: Finish | None) -> Refusal | None:
    """Return why an answer that was given up has none, None of any other."""
    if finish == "timeout":
        return Refusal(504, "not answered in time; ask for fewer tokens, or try again later", code="timeout")
    return Refusal(500, "the server failed; its log says why") if finish == "failure" else None


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(value: Json) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
