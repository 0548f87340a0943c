"""What every request passes first: the key, the size of its body, and how long it takes to arrive."""

import asyncio
import hmac
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt.errors import UserError
from gpt.serving.api.refusals import Refusal, error_body

MAX_BODY_BYTES = 4 << 20
_DISCARDED_BYTES = 64 << 20
_BODY_SECONDS = 30.0
_LEAST_KEY = 8


def read_keys(path: Path) -> tuple[str, ...]:
    """Return the keys in a file, one a line; raise `UserError` if there is none, or one that could be guessed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no file of keys ({error}); write one key a line") from None
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise UserError(f"{path}: holds no key; write one key a line")
    if any(len(key) < _LEAST_KEY or not key.isascii() for key in keys):
        raise UserError(f"{path}: a key has fewer than {_LEAST_KEY} characters, or others than ASCII has")
    return keys


class Arrival:
    """ASGI middleware: /v1/… needs one of `keys`, if there are any, and a JSON body of at most `MAX_BODY_BYTES`.

    `replied` is called with the route and the status of each reply.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], replied: Callable[[str, int], None]) -> None:
        self._app, self._keys, self._replied = app, [key.encode() for key in keys], replied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        send = self._counted(scope["path"], send)
        if self._keys and not self._is_known(headers.get(b"authorization", b"")):
            body = error_body(401, "a key is needed: send the header Authorization: Bearer KEY", code="invalid_api_key")
            await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            await _discard(receive)
            await JSONResponse(error_body(413, _too_large()), 413)(scope, receive, send)
            return
        await self._app(scope, _bounded(receive), send)

    def _counted(self, path: str, send: Send) -> Send:
        async def send_part(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._replied(path, message["status"])
            await send(message)

        return send_part

    def _is_known(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        # All are compared, so that the time tells nothing.
        same = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(same)


def _bounded(receive: Receive) -> Receive:
    """Return a `receive` that raises `Refusal` for a body that is too large or takes too long."""
    size, whole = 0, False

    async def receive_part() -> Message:
        nonlocal size, whole
        if whole:
            return await receive()  # that the client leaves is awaited as long as its answer takes
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                message: dict[str, Any] = dict(await receive())
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {_BODY_SECONDS:.0f} seconds") from None
        size += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            if not whole:
                await _discard(receive)
            raise Refusal(413, _too_large())
        return message

    return receive_part


async def _discard(receive: Receive) -> None:
    """Read the rest of a body, within limits: a client that still writes when it is refused may never see why."""
    size, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(_BODY_SECONDS):
            while more and size < _DISCARDED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)


def _too_large() -> str:
    return f"the body is larger than {MAX_BODY_BYTES >> 20} MiB"
