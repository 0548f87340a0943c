"""How requests arrive at `mlflow models serve`: of a body no more is kept than a request may have, and a request has a deadline.

MLflow's server keeps a body of any size in memory before anybody can look at it. And of a request that took too long it tells the
client so (a 504), but goes on computing what nobody will read, while others wait. Like scoring.py beside it, this stands in front
of MLflow's own function, for models of our kind only.
"""

import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from threading import Lock
from typing import Any

import mlflow.pyfunc.scoring_server as server
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PyFuncModel
from starlette.requests import ClientDisconnect

from gpt.registry.serving.requests import Limits

Handler = Callable[..., Awaitable[Any]]
Receive = Callable[[], Awaitable[Any]]
_PLACE = "_async_catch_mlflow_exception"
"What MLflow's server puts around the function that answers requests, when it starts."
_DEADLINE = ContextVar("_DEADLINE", default=float("inf"))


def guard_arrival() -> None:
    """Let a server of MLflow that starts from now on in this process limit bodies and time; twice does no harm."""
    catch = getattr(server, _PLACE, None)
    if catch is not None and not hasattr(catch, "unguarded"):
        setattr(server, _PLACE, _guarded(catch))


def check_awaited() -> None:
    """Raise `MlflowException` (a 503) if the client was told meanwhile that its request has taken too long."""
    if time.monotonic() > _DEADLINE.get():
        raise _late()


@contextmanager
def turn(lock: Lock) -> Iterator[None]:
    """Wait for a lock as long as the client waits, and hold it; raises as `check_awaited` does."""
    left = _DEADLINE.get() - time.monotonic()
    if not lock.acquire(timeout=max(0.0, left) if left < float("inf") else -1):
        raise _late()
    try:
        check_awaited()
        yield
    finally:
        lock.release()


def limits_of(model: Any) -> Limits | None:
    """Return the limits of a model of our kind, None of another's."""
    if not isinstance(model, PyFuncModel):
        return None
    try:
        return getattr(model.unwrap_python_model(), "request_limits", None)
    except MlflowException:  # no Python model
        return None


def _late() -> MlflowException:
    seconds = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
    return MlflowException(f"not answered within {seconds} seconds", error_code=TEMPORARILY_UNAVAILABLE)


def _guarded(catch: Callable[[Handler], Handler]) -> Callable[[Handler], Handler]:
    def decorate(handle: Handler) -> Handler:
        limits = limits_of(inspect.getclosurevars(handle).nonlocals.get("model"))
        if limits is None:
            return catch(handle)

        @wraps(handle)
        async def limited(request: Any) -> Any:
            before = _DEADLINE.set(time.monotonic() + MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
            try:
                receive = _first_bytes(request.receive, limits.max_request_bytes + 1)
                return await handle(request=type(request)(request.scope, receive))
            except ClientDisconnect:  # half of a request is no fault of ours, and nobody reads the answer
                raise MlflowException.invalid_parameter_value("the request is not whole") from None
            finally:
                _DEADLINE.reset(before)

        return catch(limited)

    decorate.unguarded = catch  # pyright: ignore[reportFunctionMemberAccess]
    return decorate


def _first_bytes(receive: Receive, size: int) -> Receive:
    """Receive a body of which all bytes after the first `size` are thrown away as they come."""
    left = size

    async def first() -> Any:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            body = message.get("body", b"")[:left]
            left -= len(body)
            message = message | {"body": body}
        return message

    return first
