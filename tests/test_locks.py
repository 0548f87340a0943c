"""Locks that whoever looks at them takes from nobody."""

import subprocess
import sys
from pathlib import Path

from gpt.locks import is_locked, try_lock
from tests import ROOT

_LOOKERS = 2
_ROUNDS = 200
_LOOK = """
import sys
from pathlib import Path
from gpt.locks import is_locked
print("looks", flush=True)
while True:
    is_locked(Path(sys.argv[1]))
"""


def test_whoever_only_looks_keeps_nobody_from_a_lock(tmp_path: Path) -> None:
    """Metrics look at the trainer's lock every few seconds; a trainer that begins then must not be told that another trains."""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", _LOOK, str(path)]
    lookers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(_LOOKERS)]
    try:
        for looker in lookers:
            assert looker.stdout is not None
            assert looker.stdout.readline() == b"looks\n"
        for _ in range(_ROUNDS):
            lock = try_lock(path)
            assert lock is not None
            assert is_locked(path)
            assert try_lock(path) is None, "that one holds it"
            lock.close()
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()
    assert not is_locked(path)
