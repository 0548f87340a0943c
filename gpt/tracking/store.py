"""Where runs and models are recorded: MLFLOW_TRACKING_URI, or mlflow.db and mlartifacts/ in the project's folder.

MLflow takes seconds to import and minutes to give up on what is not there: its imports are inside functions, and a
store that cannot be reached is found out here, in seconds, before MLflow tries.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from gpt import addresses
from gpt.errors import UserError
from gpt.paths import DATABASE, kept
from gpt.secrets.hiding import public_uri, redact
from gpt.tracking.location import ARTIFACTS, artifacts_folder, put_right
from gpt.tracking.pages import experiment as pages

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SQLITE, _FILE = "sqlite:///", "file:"
_MADE_TAG = "gpt.made_by_register"
_PROBE_SECONDS = 5.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# MLflow reads these from the environment only; what a user has set stays.
_MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

logger = logging.getLogger(__name__)


class StoreFailed(UserError):
    """The store gave no answer, or failed at one: what it holds is not known. That it holds no such thing is an answer."""


def tracking_uri() -> str:
    """Return the address of the store; a path of sqlite is made absolute, so that it means the same from any folder.

    Raises `UserError` if MLFLOW_TRACKING_URI is no address.
    """
    uri = addresses.mlflow_address() or address_of(kept(DATABASE))
    path, mark, options = uri.removeprefix(_SQLITE).partition("?")
    if uri.startswith(_SQLITE) and not path.startswith(("/", _FILE)):
        address = address_of(Path.cwd() / path)
        return address + (f"{'&' if '?' in address else '?'}{options}" if mark else "")
    return uri


def database_file(uri: str) -> Path | None:
    """Return the file of a sqlite store, None for any other."""
    if not uri.startswith(_SQLITE):
        return None
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(unquote(path.removeprefix(_FILE)) if path.startswith(_FILE) else path)


def address_of(database: Path) -> str:
    """Return the address of a sqlite store. To SQLAlchemy options follow a ?: such a path is told as a URI of sqlite's."""
    path = str(database.absolute())
    return f"{_SQLITE}{_FILE}{quote(path)}?uri=true" if "?" in path else _SQLITE + path


def client(uri: str | None = None) -> "MlflowClient":
    """Connect to the store, `tracking_uri()` unless another is named; raise `UserError` within seconds if it cannot be reached."""
    uri = uri or tracking_uri()
    addresses.check_registry_address()
    check_reachable(uri)
    if (file := database_file(uri)) and file.exists():
        put_right(file)
    for name, value in _MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    _check_settings()
    with store_errors(uri):
        try:
            return MlflowClient(uri)
        except ImportError as error:  # the driver of a database
            raise UserError(
                f"{addresses.MLFLOW} = {public_uri(uri)!r}: {error}; install the driver of that database"
            ) from None


def existing_client(uri: str | None = None) -> "MlflowClient":
    """Connect to the store to look for what it holds; raise `UserError` where there is none yet: MLflow would make one for it."""
    uri = uri or tracking_uri()
    file = database_file(uri)
    if file and not file.exists():
        raise UserError(f"{file}: not there yet, no run has been recorded; run `gpt pretrain` and `gpt register` first")
    return client(uri)


def experiment_id(client: "MlflowClient", name: str) -> str:
    """Return the id of an experiment; create it if need be, with its artifacts beside the database if that is local.

    Raises `UserError` if the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            place = _artifact_location(client.tracking_uri)
            return client.create_experiment(name, artifact_location=place, tags=pages.experiment_tags(name))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another process may have been faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"{client.tracking_uri}: experiment {name} was deleted; restore it with"
            f" `mlflow experiments restore -x {experiment.experiment_id}`, or choose another base.name in params.yaml"
        )
    pages.complete(client, experiment)
    return experiment.experiment_id


def find_training_run(client: "MlflowClient", experiment_name: str, fingerprint: str) -> "Run | None":
    """Return the newest run that was trained with a fingerprint, a finished one before others; None if there is none."""
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return None
    found = client.search_runs(
        [experiment.experiment_id], f"tags.fingerprint = '{fingerprint}'",
        order_by=["attributes.start_time DESC"], max_results=1000,
    )  # fmt: skip
    finished = [run for run in found if run.info.status == "FINISHED"]
    return next(iter(finished or found), None)


def training_run(client: "MlflowClient", experiment_name: str, fingerprint: str) -> "Run":
    """Return the newest run that was trained with a fingerprint, as `find_training_run`; make one if there is none.

    There is none while its journal waits for the server: then the journal takes over the run that was made here.
    """
    experiment = experiment_id(client, experiment_name)
    if run := find_training_run(client, experiment_name, fingerprint):
        return run
    logger.warning(
        "%s has no run of this training, %s: a run without its settings and curves stands in for it; `gpt sync` in the"
        " project that trained it delivers what waits there",
        public_uri(client.tracking_uri), fingerprint,
    )  # fmt: skip
    run = client.create_run(experiment, tags={"fingerprint": fingerprint, _MADE_TAG: "true"}, run_name=fingerprint)
    client.set_terminated(run.info.run_id, "FINISHED")
    return client.get_run(run.info.run_id)


def take_over_registered_run(
    client: "MlflowClient", experiment: str, fingerprint: str, tags: dict[str, str]
) -> str | None:
    """Return the id of the run that `training_run` made for want of one, now with `tags`; None if it made none."""
    made = f"tags.fingerprint = '{fingerprint}' and tags.`{_MADE_TAG}` = 'true'"
    for run in client.search_runs([experiment], made, max_results=1):
        for key, value in tags.items():
            client.set_tag(run.info.run_id, key, value)
        client.delete_tag(run.info.run_id, _MADE_TAG)
        return run.info.run_id
    return None


@contextmanager
def store_errors(uri: str | None = None) -> Iterator[None]:
    """Turn what MLflow raises about its store, `tracking_uri()` unless another is named, into a `StoreFailed` that names it."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (
        MlflowException,
        RequestException,
        SQLAlchemyError,
    ) as error:  # of artifacts MLflow hands on what requests raises
        reason = redact(" ".join(str(error).split()))  # before it is cut
        raise StoreFailed(f"{public_uri(uri or tracking_uri())}: {reason[:500]}{_hint(reason)}") from error


def _hint(reason: str) -> str:
    """Return what to do about what a store said, "" where only that says it."""
    if "database schema" in reason:
        return "; see `mlflow db upgrade --help`"
    account = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if "Permission denied" in reason or "error code 403" in reason:
        return f"; the account {account or 'that asked'} may not do this: another may (docs/operations.md, Accounts)"
    if "error code 401" in reason or "not authenticated" in reason:
        what = f"they are not {account}'s" if account else "they are not set"
        return f"; it asks for MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and {what}"
    return ""


def check_reachable(uri: str) -> None:
    """Raise `UserError` within seconds if there is no store at an address. It only looks."""
    parts = urlsplit(uri)
    if file := database_file(uri):
        _check_sqlite(file)
        return
    try:
        if parts.scheme in ("http", "https"):
            if not addresses.is_mlflow(uri, _PROBE_SECONDS):
                raise UserError(
                    f"{addresses.MLFLOW} = {public_uri(uri)!r}: what answers there is not an MLflow server; correct or unset it"
                )
        elif (port := parts.port or _DATABASE_PORTS.get(parts.scheme.partition("+")[0])) and parts.hostname:
            socket.create_connection((parts.hostname, port), timeout=_PROBE_SECONDS).close()
    except (OSError, ValueError, addresses.Unreachable) as error:
        raise UserError(
            f"{public_uri(uri)}: the MLflow store cannot be reached ({error}); start it, or correct {addresses.MLFLOW}"
        ) from None


def _check_settings() -> None:
    """Raise `UserError` for a variable of MLflow's own that it cannot read: it would fail of it in the middle of its work."""
    from mlflow import environment_variables

    for name in sorted(os.environ):
        variable = getattr(environment_variables, name, None) if name.startswith("MLFLOW_") else None
        if variable is not None:
            try:
                variable.get()
            except ValueError as error:
                reason = " ".join(str(error).split())
                raise UserError(f"{name} = {os.environ[name]!r}: {reason}; correct or unset it") from None


def _check_sqlite(file: Path) -> None:
    if file.exists():
        try:
            with file.open("rb") as database:
                head = database.read(16)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); MLflow keeps its runs there") from None
        if head and head != b"SQLite format 3\0":
            raise UserError(f"{file}: not a sqlite database; move it away, or correct MLFLOW_TRACKING_URI")
    elif not os.access(file.parent, os.W_OK):
        raise UserError(f"{file}: its folder is missing or not writable; make it, or correct MLFLOW_TRACKING_URI")


def _artifact_location(uri: str) -> str | None:
    """Without a server artifacts lie in a folder, beside the database if that is a file."""
    if file := database_file(uri):
        return artifacts_folder(file).as_uri()
    if urlsplit(uri).scheme.partition("+")[0] in _DATABASE_PORTS:
        return Path(ARTIFACTS).absolute().as_uri()
    return None
