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
