"""What a run has to tell the tracking server: written down first, delivered in the background, kept until it has arrived.

Training never waits for a server. Every event is a line of `spool/<run>.jsonl`; a thread sends the lines
(gpt/tracking/delivery.py). If the server is gone, the lines stay and the next run (or `gpt sync`) delivers them.
"""

import errno
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from gpt.locks import is_still, try_lock
from gpt.secrets.hiding import redact_values
from gpt.tracking.delivery import Delivery, deliver_left_behind, remove_if_finished
from gpt.tracking.events import brief
from gpt.tracking.spool import is_delivered, lock_path, read_events

_RETRY_SECONDS = 10.0
_LOCK_SECONDS = 0.2

logger = logging.getLogger(__name__)


class Journal:
    """The events of one run, appended by the trainer and delivered by a thread.

    `run` names the run in the spool; an existing one is continued. Events are dictionaries with a `kind`:
    those of `gpt.tracking.spool.NEEDED`. Without `start` they are only written down.
    """

    def __init__(self, spool: Path, run: str) -> None:
        spool.mkdir(parents=True, exist_ok=True)
        self.run = run
        self._path = spool / f"{run}.jsonl"
        self._file = _open(self._path)
        self._held: list[bytes] = []  # not written yet, for want of room
        self._is_full = False
        self._logged = {
            event.get("group"): event["step"] for event in read_events(self._path) if event["kind"] == "metrics"
        }
        self._wake, self._closing, self._failing = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._deliver_until_closed, name="journal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_new(self) -> bool:
        return self._file.tell() == 0

    def append(self, kind: str, **values: Any) -> None:
        """Write an event down; cheap, and fails neither because of a server nor of a full disk: then it is held for now."""
        event = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **redact_values(values)}
        if kind == "start":
            event.setdefault("id", uuid.uuid4().hex)  # two projects may share a server and the name of a run
        self._held.append(json.dumps(event).encode() + b"\n")
        self._write_held()
        self._wake.set()

    def _write_held(self) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while self._held:
                if self._file.write(self._held[0]) < len(self._held[0]):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                end += len(self._held.pop(0))
        except OSError as error:
            os.ftruncate(self._file.fileno(), end)  # no half line
            if not self._is_full:
                logger.warning(
                    "%s: %s; training goes on, events are held until there is room", self._path, error.strerror
                )
        self._is_full = bool(self._held)

    def append_metrics(self, group: str, step: int, values: dict[str, float]) -> None:
        """Write metrics of a step down, unless a run that was resumed has already told this step."""
        if step > self._logged.get(group, -1):
            self._logged[group] = step
            self.append("metrics", group=group, step=step, values=values)

    def close(self, timeout_seconds: float) -> bool:
        """Wait for what is left to arrive; return whether all did. The spool is removed once a finished run has arrived."""
        self._closing.set()
        self._wake.set()
        self._write_held()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        self._file.close()
        if self._held:
            logger.warning("%s: %d events could not be written, and are lost", self._path, len(self._held))
        delivered = not self._held and not self._thread.is_alive() and is_delivered(self._path)
        if delivered and (lock := try_lock(lock_path(self._path))):
            with lock:
                remove_if_finished(self._path)
        return delivered

    def _deliver_until_closed(self) -> None:
        if lock := self._wait_for_lock():
            with lock:
                self._deliver(Delivery(self._path))

    def _wait_for_lock(self) -> TextIO | None:
        """Wait until no `gpt sync` delivers this journal; None if all that was left to do is done by it."""
        while (lock := try_lock(lock_path(self._path))) is None:
            if self._closing.wait(_LOCK_SECONDS) and is_delivered(self._path):
                return None
            time.sleep(_LOCK_SECONDS)
        return lock

    def _deliver(self, delivery: Delivery) -> None:
        looked_back = False
        while True:
            closing = self._closing.is_set()
            self._wake.clear()
            try:
                delivery.send()
                self._failing.clear()
                if not looked_back:
                    deliver_left_behind(self._path.parent, skip=self.run)
                    looked_back = True
                if closing:
                    return
            except Exception as error:  # a server can fail in any way, and none may stop training
                if not self._failing.is_set():
                    logger.warning(
                        "tracking server: %s; training goes on, metrics are kept in %s", brief(error), self._path
                    )
                self._failing.set()
                if closing:
                    return
                self._closing.wait(_RETRY_SECONDS)
                continue
            self._wake.wait(1.0)
            self._closing.wait(1.0)  # gather a second of events into one request


def _open(path: Path) -> BinaryIO:
    """Open a journal to go on in it; as long as it is open, `gpt sync` does not remove it."""
    while True:
        _drop_torn_line(path)
        file = path.open("ab", buffering=0)
        fcntl.flock(file, fcntl.LOCK_SH)  # waits for a removal only, which is short
        if is_still(file.fileno(), path):
            return file
        file.close()


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process wrote of a line, so that the next line begins where a line begins."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
