"""A run as MLflow shows it, told through the journal, so that training never waits for a server."""

import logging
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from gpt.params.project import Params
from gpt.tracking.journal import Journal
from gpt.tracking.pages.source import source_tags

_SYSTEM_SECONDS = 10.0
_CLOSE_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Tracker:
    """One run as MLflow shows it. `run` continues a run whose checkpoint named it; None begins one of an `experiment`.

    `settings` decide its result, `note` are parts of its description (Markdown), `command` is what was started. `dataset` is what
    `describe_dataset` says of its data, `card` the data card (HTML), if there is one.

    As a context manager it ends the run truthfully: FINISHED, KILLED after an interrupt, FAILED after any other error.
    """

    def __init__(
        self,
        spool: Path,
        run: str | None,
        *,
        experiment: str,
        command: str,
        settings: dict[str, Any],
        note: list[str],
        tags: dict[str, Any],
        dataset: dict[str, Any],
        card: str | None,
    ) -> None:
        self.run = run or time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:6]
        self._journal = Journal(spool, self.run)
        if self._journal.is_new:
            # A run that goes on without its journal is found by its name: it has begun in MLflow.
            known = {"id": ""} if run else {}
            fingerprint = tags["fingerprint"]
            self._journal.append("start", experiment=experiment, run=self.run, fingerprint=fingerprint, **known)
            self._journal.append("params", values=settings)
            self._journal.append("dataset", **dataset)
            if card:
                self.log_text("data.html", card)
            self._journal.append("note", parts=note)
        else:
            self._journal.append("resume")
        # A tag may change when the run goes on elsewhere, a param may not.
        self._journal.append("tags", values=source_tags(command, Path.cwd()) | tags)
        if run is None:
            self._journal.append("name")
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._next_system = 0.0

    def __enter__(self) -> Self:
        self._journal.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        from gpt.errors import Interrupted

        status = (
            "FINISHED" if kind is None else "KILLED" if issubclass(kind, Interrupted | KeyboardInterrupt) else "FAILED"
        )
        self._journal.append("end", status=status)
        if not self._journal.close(_CLOSE_SECONDS):
            logger.warning(
                "the tracking server has not got everything of run %s; `gpt sync` or the next run delivers it", self.run
            )

    def log_metrics(self, group: str, step: int, values: dict[str, float]) -> None:
        """Log metrics of an optimizer step; `group` names those that are logged together."""
        self._journal.append_metrics(group, step, values)
        now = time.monotonic()
        if now >= self._next_system:
            self._next_system = now + _SYSTEM_SECONDS
            self._journal.append_metrics("system", step, self._system_metrics())

    def log_text(self, path: str, text: str) -> None:
        """Log a text as an artifact of the run."""
        self._journal.append("text", path=path, text=text)

    def _system_metrics(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        return {
            "system/process_memory_megabytes": self._process.memory_info().rss / 1e6,
            "system/process_cpu_percentage": self._process.cpu_percent(),
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": memory.percent,
        }


def flat_params(params: Params) -> dict[str, Any]:
    """Return the settings that decide the result, as `section.key`; `launch` may change on resume and goes into tags."""
    sections = params.model_dump(mode="json", by_alias=True)
    flat = {
        f"{section}.{key}": value
        for section, values in sections.items()
        if section not in ("launch", "fetch")
        for key, value in values.items()
    }
    return flat | {f"fetch.{source.name}.{source.identity_key}": source.identity for source in params.fetch.sources}
