"""`-S KEY=VALUE` is tried out before DVC starts: what DVC would write is what params.yaml may hold, or one message says why not."""

from pathlib import Path

import pytest

from gpt.errors import UserError
from gpt.files import sha256_file
from gpt.params.changes.overrides import check_overrides
from tests.conftest import small_change, write_params


@pytest.fixture
def params(tmp_path: Path) -> Path:
    (tmp_path / "text.jsonl").touch()
    write_params(tmp_path, small_change(tmp_path / "text.jsonl"))
    return tmp_path / "params.yaml"


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ((), 1),
        (("train.max_steps=50", "train.learning_rate=1e-3"), 1),
        (("train.max_steps=5,10,15",), 3),
        (("train.max_steps=5,10", "model.n_layer=1,2,3"), 6),
        (("evaluate.prompts=[To be,My lord]",), 1),
        (("+prepare.by_source.made-up.split=auto",), 1),
    ],
)
def test_what_is_allowed_is_counted_and_params_yaml_stays(params: Path, overrides: tuple[str, ...], count: int) -> None:
    before = sha256_file(params)
    assert check_overrides(overrides, params) == count
    assert sha256_file(params) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_step=5", r"params\.yaml: train\.max_step is not a known key; did you mean train\.max_steps\?$"),
        ("max_steps=5", r"max_steps is not a known key; did you mean train\.max_steps\?$"),
        ("zebra=5", r"zebra is not a known key; "),
        ("+train.zebra=5", r"params\.yaml: train\.zebra = 5 is not a known key"),
        ("train.max_steps=-1", r"params\.yaml: train\.max_steps = -1: "),
        ("train.max_steps=5,many", r"params\.yaml: train\.max_steps = 'many': "),
        ("train.batch_size=7", r"params\.yaml: train\.batch_size \(7\) must be divisible"),
        ("~train.max_steps", r"params\.yaml: train\.max_steps is missing"),
        ("train.max_steps", r"^-S train\.max_steps: write KEY=VALUE, as in train\.max_steps=50$"),
        ("train.max_steps=[1", r"^-S train\.max_steps=\[1: .*; write KEY=VALUE"),
    ],
)
def test_what_is_not_allowed_is_one_message(params: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_overrides([override], params)
    assert str(params.parent) not in str(caught.value).replace(str(params), ""), "it names no copy"
