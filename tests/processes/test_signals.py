import signal
import subprocess
import sys

import pytest

from gpt.errors import Interrupted
from gpt.processes.signals import Stop
from tests import ROOT


def test_signals_close_together_are_one_stop_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = Stop()
    with stop.handled():
        stop.defer()
        assert not stop.signum
        signal.raise_signal(signal.SIGINT)  # from the terminal
        signal.raise_signal(signal.SIGTERM)  # and from the launcher
        assert stop.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGTERM) is before


def test_before_training_they_are_obeyed_at_once() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGTERM before the first step") as raised, Stop().handled():
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.signum == signal.SIGTERM


def test_a_second_signal_ends_at_once() -> None:
    code = """
import time
from gpt.processes import signals
signals._SAME_STOP_SECONDS = 0.0
stop = signals.Stop()
with stop.handled():
    stop.defer()
    print("ready", flush=True)
    while not stop.signum:
        time.sleep(0.01)
    print("noted", flush=True)
    while True:
        time.sleep(0.01)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.readline() == "noted\n"
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    process.stdout.close()
