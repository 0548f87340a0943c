from types import SimpleNamespace

import pytest

from gpt.tracking import progress as shown
from gpt.tracking.progress import Progress, Reading


def test_progress_goes_on_when_training_went_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shown, "_LINE_SECONDS", 0.0)
    progress = Progress(150, 200)
    for step in (160, 110, 150, 160, 200):
        progress.update(step, 2.5, Reading(1000.0, None, 0))
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("/")[0] for line in lines] == [f"step {step}" for step in (160, 110, 150, 160, 200)]
    assert "-" not in "".join(line.rsplit("  ", 1)[1] for line in lines)


def test_the_time_left_after_going_back_is_that_of_the_steps_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shown, "_LINE_SECONDS", 0.0)
    clock = iter((1000.0, 1020.0, 1030.0, 1090.0))
    monkeypatch.setattr(shown, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Progress(0, 100)
    for step in (20, 10, 30):  # a second each at first, and three from step 10 on
        progress.update(step, 2.5, Reading(1000.0, None, 0))
    assert [line.rsplit("  ", 1)[1] for line in capsys.readouterr().err.splitlines()] == [
        "1:20 left",
        "1:30 left",
        "3:30 left",
    ]


def test_a_run_that_goes_back_at_once_does_not_know_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shown, "_LINE_SECONDS", 0.0)
    Progress(50, 100).update(40, 2.5, Reading(1000.0, None, 0))
    assert "left" not in capsys.readouterr().err
