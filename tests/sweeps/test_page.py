"""The page and the table show every trial as its record has it, need nothing from elsewhere, and act on nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gpt.commands.main import main
from gpt.sweeps.page import importance, write_page
from gpt.sweeps.records import COMPLETE, FAILED, PRUNED, RUNNING, Records, Trial
from gpt.sweeps.settings import Sweep
from tests.sweeps.conftest import Make

SPACE = {
    "train.learning_rate": {"low": 0.001, "high": 0.1, "log": True},
    "train.optimizer": {"values": ["adamw", "muon"]},
    "train.grad_clip": {"values": [1, 0.5]},
}


@pytest.fixture
def recorded(make_sweep: Make, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Records, Sweep]:
    """A sweep of eight trials, of which the optimizer alone decides the value; the commit it began from is not asked for."""
    sweep, records = make_sweep(parameters=SPACE, trials=8), Records("lr")
    records.begin(sweep.model_dump(mode="json"), "c0ffee")
    for number in range(1, 9):
        optimizer = "muon" if number % 2 else "adamw"
        rate = (0.002, 0.003, 0.004, 0.05, 0.06, 0.07, 0.08, 0.09)[number - 1]
        values = {
            "train.learning_rate": rate,
            "train.optimizer": optimizer,
            "train.grad_clip": 1.0 if number < 5 else 0.5,
        }
        value = (2.0 if optimizer == "muon" else 3.0) + number / 1000
        records.write(Trial(number, values, COMPLETE, value=value, curve=[(10, 4.0), (20, value)], seconds=61.0))
    monkeypatch.setattr(Records, "settings", lambda self: settings)
    return records, sweep


def test_the_table_shows_each_trial_and_the_best(
    recorded: tuple[Records, Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    records, _ = recorded
    pruned = Trial(9, records.trial(1).params | {"train.learning_rate": 0.01}, PRUNED, reason="worse <b>", value=9.0)
    records.write(pruned)
    records.write(Trial(10, records.trial(1).params, RUNNING))
    assert main(["sweep", "show", "lr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["trial", "state", "learning_rate", "optimizer", "grad_clip"]
    assert lines[1].split() == ["1*", "complete", "0.002", "muon", "1.0", "2.0010", "20", "1:01"]
    assert lines[9].split()[:2] == ["9", "pruned"]
    assert lines[10].split()[:2] == ["10", "stopped"], "no process holds it"
    assert "8 complete, 1 pruned, 1 stopped" in lines
    assert "1 go on with `gpt sweep run lr`" in lines
    assert main(["sweep", "show", "lr", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["best"], len(shown["trials"])) == (1, 10)
    assert shown["trials"][8]["reason"] == "worse <b>"


def test_the_page_needs_nothing_and_acts_on_nothing(recorded: tuple[Records, Sweep]) -> None:
    records, sweep = recorded
    records.write(
        Trial(9, records.trial(1).params, FAILED, reason="<script>alert(1)</script> https://u:hunter2@host/x")
    )
    page = write_page(records, sweep).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "hunter2" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    for trial in records.trials():
        assert f">{trial.number}<" in page
    assert all(f">{word}<" in page for word in ("adamw", "muon")), "the choices stand beside their axis, without quotes"
    for heading in ("Trials", "What they tried, and what they got", "What mattered", "How they learned", "The sweep"):
        assert f"<h2>{heading}</h2>" in page
    assert write_page(records, sweep).read_text(encoding="utf-8") == page, "the same records, the same bytes"


def test_what_decides_the_value_matters_most(recorded: tuple[Records, Sweep], settings: dict[str, Any]) -> None:
    records, sweep = recorded
    shares = importance(sweep, settings, records.trials())
    assert next(iter(shares)) == "train.optimizer"
    assert shares["train.optimizer"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    assert not importance(sweep, settings, records.trials()[:3]), "of three nobody knows"


def test_the_best_trial_changes_its_own_lines_alone(
    recorded: tuple[Records, Sweep], capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    assert main(["sweep", "apply", "lr", "--trial", "2"]) == 0
    after = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    changed = [
        (old.split("#")[0].split(), new.split("#")[0].split())
        for old, new in zip(before, after, strict=True)
        if old != new
    ]
    assert changed == [
        (["optimizer:", "muon"], ["optimizer:", "adamw"]),
        (["learning_rate:", "0.01"], ["learning_rate:", "0.003"]),
    ]
    assert [line.partition("#")[2] for line in before] == [line.partition("#")[2] for line in after]
    said = capsys.readouterr().out
    assert "  train.learning_rate: 0.01 -> 0.003" in said.splitlines()
    assert main(["sweep", "apply", "lr", "--trial", "2"]) == 0
    assert "has the settings of trial 2" in capsys.readouterr().out
    assert main(["sweep", "apply", "lr", "--trial", "99"]) == 2
    assert "has no trial 99; there are 1 to 8" in capsys.readouterr().err
