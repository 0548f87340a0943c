"""Requests to `mlflow models serve`, checked before MLflow reads them, and errors without a traceback.

MLflow's scoring server leaves out parameters that it does not know, repeats a whole request that is no JSON, answers with the
traceback of what it did not expect, and has no limit. A model cannot say otherwise by MLflow's interface. But it is loaded in the
server's process, so it puts its own checks in front of the one function that answers requests, for models of its own kind only.
"""

import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import mlflow.pyfunc.scoring_server as server
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, Schema

from gpt.registry.serving.arrival import guard_arrival, limits_of
from gpt.registry.serving.requests import Limits, check_parameters

_TABLES = ("dataframe_split", "dataframe_records", "inputs", "instances")
_FORM = 'send {"inputs": {"prompt": ["a text", ...]}, "params": {"seed": 1, ...}}'
_INTERNAL = "the model failed to answer; the server's log says why"
_TEXTS = Schema([ColSpec(DataType.string, "prompt")])
_IN_REQUEST = ContextVar("_IN_REQUEST", default=False)

logger = logging.getLogger(__name__)


def guard_server() -> None:
    """Let MLflow's scoring server in this process check requests to models with `request_limits`; twice does no harm."""
    guard_arrival()
    if not hasattr(server.invocations, "unguarded"):
        server.invocations = _guarded(server.invocations)


def is_serving() -> bool:
    """Whether what runs now answers a request to a server."""
    return _IN_REQUEST.get()


def _guarded(answer: Callable[..., Any]) -> Callable[..., Any]:
    def invocations(data: bytes, content_type: str | None, model: PyFuncModel, input_schema: Any) -> Any:
        limits = limits_of(model)
        if limits is None:
            return answer(data, content_type, model, input_schema)
        before = _IN_REQUEST.set(True)
        try:
            kind = (content_type or "none").lower()  # MLflow knows small letters only
            takes_parameters = model.unwrap_python_model().takes_parameters
            request = _check_request(data, kind, limits, takes_parameters=takes_parameters)
            # For CSV MLflow wants types that pandas knows.
            schema = _TEXTS if kind.startswith("text/csv") else input_schema
            return answer(request, kind, model, schema)
        except MlflowException as error:
            raise _public(error) from None
        except Exception:
            logger.exception("a request was not answered")
            raise MlflowException(_INTERNAL, error_code=INTERNAL_ERROR) from None
        finally:
            _IN_REQUEST.reset(before)

    invocations.unguarded = answer  # pyright: ignore[reportFunctionMemberAccess]
    return invocations


def _public(error: MlflowException) -> MlflowException:
    """Return an error as a client may see it: with the field that is wrong, without the traceback and the whole request."""
    stack = error.json_kwargs.pop("stack_trace", None)
    if error.message.startswith("Encountered an unexpected error"):
        # MLflow blames the request (a 400) for whatever a model raises; this one was checked.
        logger.error("a request was not answered\n%s", stack)
        return MlflowException(_INTERNAL, error_code=INTERNAL_ERROR)
    reason = (
        error.message.rpartition("\nError: ")[2] if error.message.startswith("Failed to predict") else error.message
    )
    if reason.startswith("Failed to enforce schema"):
        reason = f'no column "prompt" of texts can be read ({reason.rpartition("Error: ")[2]}); {_FORM}'
    error.message = reason[:1000]
    return error


def _check_request(data: bytes, content_type: str, limits: Limits, *, takes_parameters: bool) -> bytes | dict[str, Any]:
    """Return a request as MLflow's server shall read it, JSON as an object.

    Raises `MlflowException` (a 400) for what is too large, for what is no JSON object, and for fields that nothing reads.
    """
    if len(data) > limits.max_request_bytes:
        raise _refusal(f"the request has more than the {limits.max_request_bytes:,} bytes that are allowed")
    if content_type.partition(";")[0].strip() != "application/json":
        return data
    try:
        request = json.loads(data)
    except UnicodeDecodeError as error:
        raise _refusal(f"the request is not UTF-8 (byte {error.start}); {_FORM}") from None
    except json.JSONDecodeError as error:
        raise _refusal(f"the request is no JSON ({error}); {_FORM}") from None
    except (ValueError, RecursionError):
        raise _refusal(f"the request is nested too deep, or has a number of too many digits; {_FORM}") from None
    if not isinstance(request, dict):
        raise _refusal(f"the request is no JSON object, but a {type(request).__name__}; {_FORM}")
    # {"prompt": "To be", "seed": 1} is the other form that MLflow reads, that of OpenAI's completions.
    tables = ("prompt",) if "prompt" in request else _TABLES
    table = {key: value for key, value in request.items() if key in tables}
    rest = {key: value for key, value in request.items() if key not in tables}
    parameters = rest if "prompt" in request else rest.pop("params", None)
    if "prompt" not in request and (rest or len(table) != 1):
        wrong = (
            f"a field {ascii(next(iter(rest)))[:60]} that nothing reads" if rest else f"{len(table)} tables, not one"
        )
        raise _refusal(f"the request has {wrong}; {_FORM}")
    if parameters and not takes_parameters:  # MLflow would leave them out
        raise _refusal(f"this model takes no parameters, and the request has {ascii(parameters)[:60]}")
    try:
        checked = check_parameters({} if parameters is None else parameters, limits)
    except ValueError as error:
        raise _refusal(str(error)) from None
    rows = table.get("instances")
    if isinstance(rows, list) and any(isinstance(row, dict) for row in rows):
        table = {"dataframe_records": rows}  # of "instances" MLflow loses those that lack a field which others have
    checked = {name: list(value) if isinstance(value, tuple) else value for name, value in checked.items()}
    return table | (checked if "prompt" in request else {"params": checked})


def _refusal(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)
