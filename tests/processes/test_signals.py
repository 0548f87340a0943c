import signal
import subprocess
import sys
import time

import psutil
import pytest

from gpt.errors import Interrupted
from gpt.processes.owner import stop_with
from gpt.processes.signals import Stop

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(100)"]


def test_signals_close_together_are_one_wish_to_stop_and_the_old_handlers_come_back() -> None:
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


def test_a_second_wish_ends_at_once() -> None:
    code = """
import signal, time
from gpt.processes.signals import Stop
stop = Stop()
with stop.handled():
    stop.defer()
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    time.sleep(2.5)
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    process.stdout.close()


def test_a_process_stops_with_its_owner() -> None:
    owner = subprocess.Popen(SLEEPER)
    stop = Stop()
    with stop.handled():
        stop.defer()
        stop_with(psutil.Process(owner.pid))
        time.sleep(0.2)
        assert not stop.signum
        owner.kill()  # a zombie as long as nobody waits for it
        deadline = time.monotonic() + 20
        while not stop.signum and time.monotonic() < deadline:
            time.sleep(0.01)
    owner.wait()
    assert stop.signum == signal.SIGTERM
