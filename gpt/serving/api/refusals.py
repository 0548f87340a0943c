"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}} with a status."""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(HTTPException):
    """A request that is not answered; `param` is the field that is wrong."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_seconds: int = 0
    ) -> None:
        super().__init__(status, message, {"Retry-After": str(retry_seconds)} if retry_seconds else None)
        self.param, self.code = param, code


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that was refused, by us or by the framework."""
    assert isinstance(error, HTTPException)
    param, code = (error.param, error.code) if isinstance(error, Refusal) else (None, None)
    message = str(error.detail)
    if not isinstance(error, Refusal) and error.status_code in (404, 405):
        message = f"{request.method} {request.url.path}: there is no such route"
    return JSONResponse(error_body(error.status_code, message, param, code), error.status_code, error.headers)


async def refuse_invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer a request whose body is no JSON, or has wrong fields: 400 with the first of them, as OpenAI does."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return JSONResponse(error_body(400, "the body is no JSON", code="invalid_json"), 400)
    if not place:
        told = _told(first)
        field = told.partition(":")[0]  # as our own checks of several fields begin
        is_field = first["type"] == "value_error" and field.isidentifier()
        return JSONResponse(
            error_body(400, told if is_field else f"the body: {told}", field if is_field else None), 400
        )
    return JSONResponse(error_body(400, f"{'.'.join(place)}: {_told(first)}", place[0]), 400)


async def refuse_failure(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that met a bug of ours; the server's log has the traceback."""
    return JSONResponse(error_body(500, "the server failed; its log says why"), 500)


def _told(error: dict[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return {"extra_forbidden": "no such field"}.get(error["type"], message[:1].lower() + message[1:])
