import json
from dataclasses import fields
from typing import Any

import pytest
import torch

from gpt.training.checkpoints.checkpoint import FORMAT
from gpt.training.state import RunState
from gpt.training.steps.guard import Guard

CPU = torch.device("cpu")


def make_state() -> RunState:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # pyright: ignore[reportPrivateImportUsage]
    scaler.scale(torch.ones(()))  # it makes its tensors at first use
    return RunState(Guard(6.0, CPU), scaler, torch.zeros((), dtype=torch.float64), torch.zeros(()))


def change(name: str, value: Any) -> Any:
    """Return a field's value as a run might have changed it; a kind of field that is not known here fails."""
    match value:
        case Guard():
            value.is_bad(torch.tensor(3.1), torch.tensor(0.7))
            value.is_bad(torch.tensor(float("nan")), torch.tensor(0.7))
            return value
        case torch.amp.GradScaler():  # pyright: ignore[reportPrivateImportUsage]
            value.update(2.0)
            return value
        case torch.Tensor():
            return value + 1 / 3
        case int():
            return value + 7
        case None:
            return "eager"
        case list():
            return [*value, {"step": 4, "train_loss": 1 / 3}]
    raise AssertionError(f"{name}: say here how it changes")


def json_of(value: Any) -> Any:
    return value.state_dict() if hasattr(value, "state_dict") else value


@pytest.mark.parametrize("name", [field.name for field in fields(RunState)])
def test_every_field_comes_back(name: str) -> None:
    saved, fresh = make_state(), make_state()
    setattr(saved, name, change(name, getattr(saved, name)))
    assert json_of(getattr(saved, name)) != json_of(getattr(fresh, name))
    fresh.load_json(json.loads(json.dumps(saved.to_json(), allow_nan=False)))
    assert json_of(getattr(fresh, name)) == json_of(getattr(saved, name))
    assert fresh.to_json() == saved.to_json()


def test_a_tensor_comes_back_to_the_last_bit_and_as_it_was() -> None:
    saved, fresh = make_state(), make_state()
    saved.loss_sum += 1e3 / 7
    saved.gradient_norm = torch.tensor(1 / 7)
    fresh.load_json(json.loads(json.dumps(saved.to_json())))
    assert fresh.loss_sum.dtype == torch.float64 and torch.equal(fresh.loss_sum, saved.loss_sum)
    assert fresh.gradient_norm.dtype == torch.float32 and torch.equal(fresh.gradient_norm, saved.gradient_norm)


def test_what_was_saved_and_what_goes_on_share_nothing() -> None:
    state = make_state()
    beginning = state.to_json()
    before = json.dumps(beginning)
    for _ in range(2):
        state.training_rows.append({"step": 4})
        state.guard.is_bad(torch.tensor(3.0), torch.tensor(1.0))
        assert json.dumps(beginning) == before
        state.load_json(beginning)


@pytest.mark.parametrize("name", ["rollbacks", "another"])
def test_a_state_with_other_fields_is_refused(name: str) -> None:
    values = make_state().to_json()
    if values.pop(name, None) is None:
        values[name] = 1
    with pytest.raises(ValueError, match=f"not the fields of a run's state: {name}"):
        make_state().load_json(values)


def test_the_guard_that_judges_is_the_one_that_is_saved() -> None:
    state = make_state()
    guard = state.guard
    state.load_json(make_state().to_json())
    assert state.guard is guard


def test_another_set_of_fields_is_another_format() -> None:
    """Whoever changes these fields raises checkpoint.FORMAT and writes both down here."""
    assert (FORMAT, sorted(field.name for field in fields(RunState))) == (
        4,
        [
            "compile",
            "gradient_norm",
            "guard",
            "last_benchmark",
            "last_sample",
            "last_save",
            "last_scheduled_save",
            "last_stable",
            "logged_skipped",
            "logged_taken",
            "loss_sum",
            "parent",
            "rollbacks",
            "run",
            "scaler",
            "skipped_batches",
            "step",
            "training_rows",
            "validation_rows",
        ],
    )
