import logging
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch

from gpt.errors import UserError
from gpt.params.project import load_params
from gpt.processes import precision as precisions
from gpt.processes.precision import autocast_type, check_precision, matmul_precision, mixed_precision, warn_if_emulated
from gpt.training.pretrain import pretrain
from tests import ROOT

PARAMS = load_params(ROOT / "params.yaml")
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@on_cpu
@pytest.mark.parametrize("key", ["train.precision", "evaluate.precision"])
@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_what_needs_a_gpu_is_refused_instead_of_computing_in_fp32(key: str, precision: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: {re.escape(key)} = '{precision}' needs a GPU; use fp32"):
        check_precision(key, precision)


def test_fp16_and_a_split_model_are_refused() -> None:
    train, launch = ({"precision": "fp16"}, {"strategy": "fsdp"})
    params = PARAMS.model_copy(
        update={"train": PARAMS.train.model_copy(update=train), "launch": PARAMS.launch.model_copy(update=launch)}
    )
    with pytest.raises(UserError, match=r"does not work with launch\.strategy = 'fsdp'"):
        pretrain(params)


def accepted() -> list[str]:
    """Return the precisions in which this machine may train."""
    names = []
    for name in ("fp32", "tf32", "bf16", "fp16"):
        with suppress(UserError):
            check_precision("train.precision", name)
            names.append(name)
    return names


@on_cpu
def test_a_machine_without_a_gpu_trains_in_fp32_and_bf16() -> None:
    assert accepted() == ["fp32", "bf16"]


@pytest.mark.parametrize(
    ("capability", "names"), [((9, 0), ["fp32", "tf32", "bf16", "fp16"]), ((7, 5), ["fp32", "fp16"])]
)
def test_a_gpu_trains_in_what_it_computes(
    capability: tuple[int, int], names: list[str], pretend_gpu: Callable[[int, int], None]
) -> None:
    pretend_gpu(*capability)
    assert accepted() == names


def test_accelerate_and_autocast_are_told_what_params_yaml_says() -> None:
    assert [mixed_precision(name) for name in ("fp32", "bf16", "fp16")] == ["no", "bf16", "fp16"]
    assert [autocast_type(name) for name in ("fp32", "tf32", "bf16")] == [None, None, torch.bfloat16]


def test_a_gpu_takes_tf32_only_where_params_yaml_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    for outer, inner in (("high", "highest"), ("highest", "high")):
        torch.set_float32_matmul_precision(outer)
        with matmul_precision("tf32" if inner == "high" else "bf16"):
            assert torch.get_float32_matmul_precision() == inner
        assert torch.get_float32_matmul_precision() == outer
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("native", "warnings"), [(True, 0), (False, 1)])
def test_a_precision_that_is_only_emulated_is_a_warning_with_the_factor(
    native: bool, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precisions, "is_native", lambda _: native)
    monkeypatch.setattr(precisions, "time_ratio", lambda *_: 97.3)
    with caplog.at_level(logging.WARNING):
        warn_if_emulated("train.precision", "bf16", torch.device("cpu"))
    assert caplog.text.count("emulated on this processor: passes take about 97 times as long") == warnings


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_no_library_warns_of_norms_in_bf16(norm: str) -> None:
    script = f"""
import torch
from gpt.model.transformer import GPTConfig, GPTModel
model = GPTModel(GPTConfig(vocab_size=16, n_layer=1, n_head=2, n_embd=16, block_size=8, norm="{norm}", qk_norm=True))
with torch.autocast("cpu", torch.bfloat16):
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    model(tokens, tokens)[0].backward()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
