"""OpenAI's routes over the models that are served, and the page at `/`."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from gpt.errors import UserError
from gpt.finetuning.data.examples import read_message
from gpt.serving.api import requests as bodies
from gpt.serving.api.arrival import Arrival
from gpt.serving.api.metrics import Metrics
from gpt.serving.api.refusals import Refusal, refuse, refuse_failure, refuse_invalid
from gpt.serving.api.replies import ChatReply, CompletionReply, Json, Reply
from gpt.serving.api.streams import EventStream, collect, stream, unless_left
from gpt.serving.catalogue import Catalogue, Listed, NoSuchModel
from gpt.serving.engine.request import Request as Generation
from gpt.serving.loop import Answering, EngineLoop, QueueFull
from gpt.serving.served import Kind, ServedModel, TooLong

_PAGE = Path(__file__).parents[1] / "page"
_RETRY_SECONDS = 1
_COMPLETION_TOKENS = 16
"OpenAI's default for completions."
_CHAT_SHARE = 4
"A chat that does not say how long its answer may be has this part of the context free for it."

_COUNTED = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/classify")


@dataclass(frozen=True)
class Settings:
    keys: Sequence[str]
    timeout_seconds: float
    "Of a request, with the time that it waits."


def create_app(catalogue: Catalogue, thread: Executor, settings: Settings) -> FastAPI:
    """Return the ASGI application."""
    app = FastAPI(title="gpt serve", docs_url=None, redoc_url=None)  # their pages bring scripts from elsewhere
    routes = _Routes(catalogue, thread, settings)
    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(RequestValidationError, refuse_invalid)
    app.add_exception_handler(Exception, refuse_failure)
    app.add_api_route("/v1/models", routes.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", routes.model, methods=["GET"])
    app.add_api_route("/v1/completions", routes.completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/chat/completions", routes.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/classify", routes.classify, methods=["POST"], response_model=None)
    app.add_api_route("/health", routes.health, methods=["GET"])
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])
    app.add_middleware(Arrival, keys=settings.keys, replied=routes.replied)
    app.add_api_route("/", _page, methods=["GET"], response_model=None, include_in_schema=False)
    app.mount("/page", StaticFiles(directory=_PAGE))
    return app


class _Routes:
    def __init__(self, catalogue: Catalogue, thread: Executor, settings: Settings) -> None:
        self._catalogue, self._thread, self._settings = catalogue, thread, settings
        self._metrics = Metrics(self._running, self._waiting, self._cache_used)
        self._classifying = 0

    def replied(self, path: str, status: int) -> None:
        """Count a reply; paths that are no route count together, so that nobody fills the metrics with names."""
        route = path if path in _COUNTED else "other"
        self._metrics.replies.labels(route, str(status)).inc()

    async def health(self) -> Json:
        return {"status": "ok"}

    async def metrics(self) -> Response:
        return Response(self._metrics.read(), media_type=CONTENT_TYPE_LATEST)

    async def models(self) -> Json:
        return {"object": "list", "data": [_entry(each) for each in await self._catalogue.listed()]}

    async def model(self, name: str) -> Json:
        for each in await self._catalogue.listed():
            if each.id == name:
                return _entry(each)
        raise Refusal(
            404, f"{name}: is not served; GET /v1/models lists what is", param="model", code="model_not_found"
        )

    async def completions(self, request: Request, body: bodies.Completion) -> Response:
        model = await self._find(body.model, "base", "chat")
        prompts = [self._prompt(model, prompt, body) for prompt in body.prompts]
        if not prompts or len(prompts) * (body.n or 1) > bodies.MAX_CHOICES:
            raise Refusal(400, f"prompt: 1 to {bodies.MAX_CHOICES} texts, times n", param="prompt")
        requests = self._requests(model, prompts, body, body.max_tokens or _COMPLETION_TOKENS)
        return await self._answer(request, model, body, CompletionReply(model.name, requests))

    async def chat(self, request: Request, body: bodies.Chat) -> Response:
        model = await self._find(body.model, "chat")
        most = body.most_tokens
        try:
            messages = [read_message(message) for message in body.messages]
            # Off the event loop: a long conversation takes a while.
            ids, dropped = await asyncio.to_thread(
                model.encode_conversation, messages, most or model.context // _CHAT_SHARE
            )
        except UserError as error:
            raise Refusal(400, f"messages: {error}", param="messages") from None
        except TooLong as error:
            raise _too_long(error, "messages") from None
        requests = self._requests(model, [ids], body, most or model.context)
        return await self._answer(request, model, body, ChatReply(model.name, requests, dropped))

    async def classify(self, request: Request, body: bodies.Classify) -> Response:
        model = await self._find(body.model, "classifier")
        if self._classifying >= bodies.MAX_CHOICES:
            raise _full()
        self._classifying += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, model.classify, body.texts)
            probabilities, tokens = await unless_left(request, _awaited(work, self._settings.timeout_seconds))
        except TooLong as error:
            raise _too_long(error, "input") from None
        finally:
            self._classifying -= 1
        data = [
            {"index": index, "label": model.labels[row.argmax()], "probs": row.tolist(), "num_classes": len(row)}
            for index, row in enumerate(probabilities)
        ]
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        head = {"id": f"classify-{secrets.token_hex(16)}", "object": "list", "created": int(time.time())}
        return JSONResponse({**head, "model": model.name, "labels": model.labels, "data": data, "usage": usage})

    async def _find(self, name: str | None, *kinds: Kind) -> ServedModel:
        try:
            model = await self._catalogue.find(name)
        except (NoSuchModel, UserError) as error:
            raise Refusal(404, str(error), param="model", code="model_not_found") from None
        if model.kind not in kinds:
            raise Refusal(400, f"{model.name} {_CANNOT[model.kind]}", param="model", code="model_kind")
        return model

    def _prompt(self, model: ServedModel, prompt: str | list[int], body: bodies.Completion) -> list[int]:
        """Return a prompt's tokens, shortened if the body says so."""
        ids = model.encode_text(prompt) if isinstance(prompt, str) else prompt
        if isinstance(prompt, list) and (not prompt or max(prompt) >= model.encoding.n_vocab):
            raise Refusal(400, f"prompt: token ids are 0 to {model.encoding.n_vocab - 1}, at least one", param="prompt")
        if body.truncate_prompt_tokens is not None:
            room = model.context - min(body.max_tokens or _COMPLETION_TOKENS, model.context // 2)
            most = body.truncate_prompt_tokens if body.truncate_prompt_tokens > 0 else room
            ids = ids[-most:]
        if len(ids) >= model.context:
            raise _too_long(TooLong(len(ids), model.context), "prompt")
        return ids

    def _requests(
        self, model: ServedModel, prompts: Sequence[list[int]], body: bodies.Completion | bodies.Chat, most: int
    ) -> list[Generation]:
        seed = secrets.randbits(62) if body.seed is None else body.seed
        return [
            Generation(
                ids,
                body.sampling(min(most, model.context), seed + choice),
                model.encoding,
                ends=model.ends,
                silent=model.special,
                alternatives=body.alternatives,
                deadline=time.monotonic() + self._settings.timeout_seconds,
            )
            for ids in prompts
            for choice in range(body.n or 1)
        ]

    async def _answer(
        self, request: Request, model: ServedModel, body: bodies.Completion | bodies.Chat, reply: Reply
    ) -> Response:
        assert model.loop is not None, "models that generate have an engine"
        try:
            answering = model.loop.answer(reply.requests)
        except QueueFull:
            raise _full() from None

        def end() -> None:
            answering.leave()
            self._count(answering, reply)

        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(stream(answering, reply, with_usage), end)
        try:
            return JSONResponse(await unless_left(request, collect(answering, reply)))
        finally:
            end()

    def _count(self, answering: Answering, reply: Reply) -> None:
        usage, now = reply.usage(), time.monotonic()
        self._metrics.tokens.labels("prompt").inc(usage["prompt_tokens"])
        self._metrics.tokens.labels("completion").inc(usage["completion_tokens"])
        self._metrics.seconds.observe(now - answering.began)
        if answering.first_piece is not None:
            self._metrics.first_token.observe(answering.first_piece - answering.began)

    def _loops(self) -> list[EngineLoop]:
        return [model.loop for model in self._catalogue.models if model.loop is not None]

    def _running(self) -> float:
        return sum(len(loop.engine.scheduler.running) for loop in self._loops())

    def _waiting(self) -> float:
        return sum(loop.engine.waiting for loop in self._loops())

    def _cache_used(self) -> float:
        caches = [loop.engine.cache for loop in self._loops()]
        return 1 - sum(cache.free for cache in caches) / max(1, sum(cache.blocks for cache in caches))


_CANNOT: dict[Kind, str] = {
    "base": "is a base model: it continues texts (POST /v1/completions), and has not learned to answer",
    "chat": "answers and classifies nothing; POST /v1/chat/completions",
    "classifier": "is a classifier; POST /v1/classify",
}


async def _page() -> FileResponse:
    # Asked for again each time: the page of a newer release is another one. Its policy stands in it.
    return FileResponse(
        _PAGE / "index.html", headers={"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    )


def _entry(listed: Listed) -> Json:
    entry: Json = {"id": listed.id, "object": "model", "created": listed.created, "owned_by": "gpt"}
    entry |= {"default": listed.is_default, "facts": listed.facts}
    if (model := listed.model) is not None:
        entry |= {"kind": model.kind, "context_length": model.context}
        if model.labels:
            entry["labels"] = model.labels
    return entry


def _full() -> Refusal:
    return Refusal(
        429, "too many requests wait already; try again in a moment", code="queue_full", retry_seconds=_RETRY_SECONDS
    )


def _too_long(error: TooLong, param: str) -> Refusal:
    return Refusal(400, str(error), param=param, code="context_length_exceeded")


async def _awaited(work: Any, seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Refusal(504, "not answered in time; send fewer texts, or try again later", code="timeout") from None
