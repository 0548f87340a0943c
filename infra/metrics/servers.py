"""What is asked of servers: whether they answer, and which versions the registry has. A thread asks; a scrape takes what it got.

So a server that is away or hangs costs a scrape nothing, and is a metric of its own.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from gpt import addresses
from gpt.maintenance.project import Project
from gpt.params.project import load_params
from gpt.registry.trail import REFUSED
from gpt.secrets.hiding import redact
from infra.metrics.page import Page

if TYPE_CHECKING:
    from gpt.registry.overview.listing import Overview, Row

ASK_SECONDS = 60.0
"From one question to the next."
_PROBE_SECONDS = 5.0
_FRESH_SECONDS = 3 * ASK_SECONDS
_NEWEST = "newest"

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Asked(Generic[T]):
    """A question that a thread asks again and again; `answer` is the last one, None if it is none or too old."""

    def __init__(self, name: str, ask: Callable[[], T], every_seconds: float = ASK_SECONDS) -> None:
        self._name, self._ask, self._every_seconds = name, ask, every_seconds
        self._answer: T | None = None
        self._at = float("-inf")
        self._told = ""
        self.was_asked = False
        "An answer has come, or an error."

    def start(self) -> None:
        # Whoever ends the exporter does not wait for a server that hangs.
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    @property
    def answer(self) -> T | None:
        return self._answer if time.monotonic() - self._at < _FRESH_SECONDS else None

    def _work(self) -> None:
        while True:
            try:
                self._answer, self._at, self._told = self._ask(), time.monotonic(), ""
            except Exception as error:  # a server can fail in any way, and is asked again
                self._answer = None
                if (reason := redact(" ".join(str(error).split()))) != self._told:
                    logger.warning("%s: %s", self._name, reason)
                self._told = reason
            self.was_asked = True
            time.sleep(self._every_seconds)


class Servers:
    """The servers that the environment names, and the registry, from `start` on."""

    def __init__(self, every_seconds: float = ASK_SECONDS) -> None:
        self._up = Asked("servers", servers_up, min(15.0, every_seconds))
        self._registry = Asked("registry", read_registry, every_seconds)

    def start(self) -> None:
        self._up.start()
        self._registry.start()

    def add(self, page: Page) -> None:
        """Add what was answered last; nothing of a project that has no store yet."""
        for server, is_up in (self._up.answer or {}).items():
            page.add("gpt_server_up", is_up, server)
        overviews = self._registry.answer
        if self._registry.was_asked and (overviews is None or overviews):
            page.add("gpt_registry_up", overviews is not None)
        for overview in (overviews or {}).values():
            if overview:
                _add_versions(page, overview)


def servers_up() -> dict[str, bool]:
    """Return by name whether the servers answer that the environment names."""
    checks = {
        "mlflow": (addresses.mlflow_address(), addresses.is_mlflow),
        "prefect": (addresses.prefect_address(), addresses.is_prefect),
    }
    found: dict[str, bool] = {}
    for name, (url, is_that) in checks.items():
        if url and url.startswith(("http://", "https://")):
            try:
                health = addresses.ask(f"{url.rstrip('/')}/health", _PROBE_SECONDS)
                found[name] = health.status < 500 and is_that(
                    url, _PROBE_SECONDS
                )  # a proxy answers for one that is gone
            except addresses.Unreachable:
                found[name] = False
    return found


def read_registry() -> "dict[str, Overview | None]":
    """Return the newest version and those with an alias of each model of this project; {} where there is no store yet.

    A model of which nothing was registered is None. Raises `UserError`, or whatever MLflow raises, where the store fails.
    """
    from gpt.registry.overview.listing import read_overview
    from gpt.registry.versions import find_model
    from gpt.tracking import store

    uri = store.tracking_uri()
    file = store.database_file(uri)
    if file and not file.exists():
        return {}
    client = store.client(uri)
    with store.store_errors(uri):
        return {
            name: read_overview(client, name, limit=1, history=False) if find_model(client, name) else None
            for name in _model_names()
        }


def _model_names() -> list[str]:
    """Return what the versions of this project are called: the base model's, what its recipes make, their candidates."""
    return sorted(Project(load_params()).models)


def _add_versions(page: Page, overview: "Overview") -> None:
    newest = max((row.version for row in overview.rows), default=None)
    for row in overview.rows:
        for alias in (*row.aliases, *((_NEWEST,) if row.version == newest else ())):
            _add_version(page, row, overview.name, alias)


def _add_version(page: Page, row: "Row", *labels: str) -> None:
    registered = datetime.strptime(row.registered, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    page.add("gpt_model_version", row.version, *labels)
    page.add("gpt_model_registered_timestamp_seconds", registered.timestamp(), *labels)
    page.add("gpt_model_test_bpb", row.bits_per_byte, *labels)
    page.add("gpt_model_benchmarks_centred_ratio", row.centred, *labels)
    page.add("gpt_model_refused", row.verdict == REFUSED, *labels)
    name, _, figure = row.figure.rpartition(" ")
    with suppress(ValueError):  # a base model has none, and a later release may write another form
        page.add("gpt_model_figure", float(figure), *labels, name)
