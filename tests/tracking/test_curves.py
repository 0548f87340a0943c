"""Curves in TensorBoard and W&B: read back from the files that these write, and never a reason to stop."""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import TensorBoardTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from gpt.errors import UserError
from gpt.params.project import load_params
from gpt.tracking import curves
from gpt.tracking.curves import Curves, check_trackers
from tests import ROOT

RUN = "20261127-080000-abcdef"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    PartialState(cpu=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def open_curves(names: tuple[str, ...], folder: Path, first_step: int = 0) -> Curves:
    config: dict[str, Any] = {"train.max_steps": 30, "address": "https://me:hunter22@host"}
    return Curves(names, folder, project="shakespeare-gpt", run=RUN, first_step=first_step, config=config)


def tensorboard(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard" / RUN))
    events.Reload()
    return events


def records(file: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log format, after a head of seven bytes."""
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]: chosen by protobuf's version
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_history(folder: Path) -> dict[int, dict[str, str]]:
    """Return what W&B has by step, as JSON texts; of a step that was told twice the first."""
    found: dict[int, dict[str, str]] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        deadline = time.monotonic() + 60
        while "exit" not in [record.WhichOneof("record_type") for record in records(file)]:
            assert time.monotonic() < deadline, "its own process writes on after the end was told"
            time.sleep(0.02)
        for record in records(file):
            if record.WhichOneof("record_type") == "history":
                items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
                found.setdefault(int(items["_step"]), items)
    return found


def test_tensorboard_has_the_curves_and_a_run_that_went_on_has_each_step_once(tmp_path: Path) -> None:
    with open_curves(("tensorboard",), tmp_path) as told:
        for step in (4, 8, 12):
            told.log(step, {"train/loss": 5.0 - step / 10})
        told.log(8, {"validation/loss": 4.5})
        told.log(8, {"samples/1": "to be, or not"})
    with open_curves(("tensorboard",), tmp_path, first_step=8) as told:  # killed after 12, its last checkpoint was 8
        told.log(12, {"train/loss": 3.75})
        told.log(16, {"train/loss": 3.5})
    events = tensorboard(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (4, pytest.approx(4.6)),
        (8, pytest.approx(4.2)),
        (12, 3.75),
        (16, 3.5),
    ]
    assert [event.step for event in events.Scalars("validation/loss")] == [8]
    (sample,) = events.Tensors("samples/1/text_summary")
    assert sample.tensor_proto.string_val == [b"to be, or not"]


def test_a_run_that_goes_on_at_step_0_keeps_what_it_told_of_it_and_hides_what_came_later(tmp_path: Path) -> None:
    with open_curves(("tensorboard",), tmp_path) as told:
        told.log(0, {"validation/loss": 3.0})
        told.log(4, {"train/loss": 5.0})
    with open_curves(("tensorboard",), tmp_path) as told:  # it went back to step 0, and was killed
        told.log(4, {"train/loss": 4.0})
    events = tensorboard(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(4, 4.0)]
    assert [(event.step, event.value) for event in events.Scalars("validation/loss")] == [(0, 3.0)]


def test_wandb_has_them_offline_under_the_runs_name_and_no_secret(tmp_path: Path) -> None:
    with open_curves(("wandb",), tmp_path) as told:
        told.log(4, {"train/loss": 4.5})
        told.log(8, {"train/loss": 4.25})
        told.log(8, {"validation/loss": 4.5, "system/mfu": 0.5})
        told.log(8, {"samples/1": "to be, or not"})
    history = wandb_history(tmp_path)
    assert (history[4]["train/loss"], history[8]["train/loss"], history[8]["validation/loss"]) == ("4.5", "4.25", "4.5")
    assert history[8]["samples/1"] == '"to be, or not"'
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert folder.name.endswith(RUN)
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"train.max_steps" in content and b"hunter22" not in content


AWAY = """
from pathlib import Path
from accelerate import PartialState
from gpt.tracking import curves

PartialState(cpu=True)
curves._SECONDS = 2
names, config = ("wandb", "tensorboard"), {"train.max_steps": 30}
with curves.Curves(names, Path(), project="a-project", run="RUN", first_step=0, config=config) as told:
    told.log(4, {"train/loss": 4.5})
""".replace("RUN", RUN)


def test_a_server_that_is_away_is_a_warning_and_the_other_tracker_goes_on(tmp_path: Path) -> None:
    # In a process of its own: wandb reads these variables once.
    variables = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    environment = os.environ | variables | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", AWAY], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("launch.trackers: ")]
    assert warning.startswith("launch.trackers: wandb: ")
    assert warning.endswith("training goes on without it, and MLflow has everything")
    assert [event.step for event in tensorboard(tmp_path).Scalars("train/loss")] == [4]


def test_one_that_breaks_on_the_way_is_told_once_and_asked_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def fail(self: TensorBoardTracker, values: dict[str, Any], step: int) -> None:
        asked.append(step)
        raise OSError("no space left on device")

    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    with open_curves(("tensorboard",), tmp_path) as told:
        told.log(4, {"train/loss": 4.5})
        told.log(8, {"train/loss": 4.5})
    assert asked == [4]
    assert caplog.text.count("tensorboard: no space left on device") == 1


def test_a_package_that_is_not_installed_is_told_before_any_work(
    monkeypatch: pytest.MonkeyPatch, copy_project: Callable[..., Path], prepared_project: Path
) -> None:
    copy_project(prepared_project, launch={"trackers": ["tensorboard", "wandb"]})
    launch = load_params().launch
    check_trackers(launch)
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None if name == "wandb" else ROOT)
    with pytest.raises(
        UserError, match=r"launch.trackers = .*: wandb is not installed; pip install 'gpt-pretrain\[wandb\]'"
    ):
        check_trackers(launch)
