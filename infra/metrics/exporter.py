"""Everything that a scrape of this project reads, part by part: one that fails is counted and told, and costs no other."""

import logging
import threading
from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from flows.upkeep import workspace
from flows.upkeep.journals import Spool
from gpt.secrets.hiding import redact
from infra.metrics.checkpoints import add_checkpoints, add_disks
from infra.metrics.gpu import Gpus, add_gpus
from infra.metrics.page import Page
from infra.metrics.runs import add_runs, add_waiting
from infra.metrics.servers import Servers

logger = logging.getLogger(__name__)


class Exporter(Collector):
    """Of the project in the current folder, for Prometheus' client library. Journals that are there are read at once."""

    def __init__(self, servers: Servers) -> None:
        self._spool, self._gpus, self._servers = Spool(), Gpus(), servers
        self._parts: dict[str, Callable[[Page], None]] = {
            "runs": self._add_runs,
            "spool": add_waiting,
            "workspace": lambda page: page.add("gpt_workspace_busy", workspace.is_busy()),
            "disks": add_disks,
            "gpus": lambda page: add_gpus(page, self._gpus),
            "servers": servers.add,
        }
        self._failures = dict.fromkeys(self._parts, 0)
        self._told: dict[str, str] = {}
        self._lock = threading.Lock()  # several may scrape
        self._spool.look()

    def collect(self) -> Iterable[Metric]:
        """Return what is true now."""
        with self._lock:
            page = Page()
            for name, add in self._parts.items():
                try:
                    add(page)
                except Exception as error:  # whatever is wrong with a file or a driver, the rest can be told
                    self._failures[name] += 1
                    self._tell(name, f"{type(error).__name__}: {error}")
                page.add("gpt_exporter_failures", self._failures[name], name)
            return page.families()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: who registers this would ask for a whole scrape otherwise."""
        return ()

    def _add_runs(self, page: Page) -> None:
        for run in add_runs(page, self._spool):
            add_checkpoints(page, run)
        self._spool.tell_faults()

    def _tell(self, part: str, reason: str) -> None:
        """Log why a part cannot be read, once as long as it stays the same."""
        if self._told.get(part) != reason:
            self._told[part] = reason
            logger.warning("%s cannot be read: %s", part, redact(reason))
