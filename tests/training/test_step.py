import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from gpt.model.attention import number_documents
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import load_params
from gpt.params.training import Train
from gpt.training.steps.optimizer import build_optimizer, optimizer_tensors
from gpt.training.steps.step import Batch, ReadBatch, TrainStep, token_batch
from tests import ROOT

BATCH, T, VOCABULARY = 8, 12, 50
Gradient = dict[str, torch.Tensor]


def make_settings(**change: object) -> Train:
    values = {"batch_size": BATCH, "grad_clip": 0.0, "warmup_fraction": 0.0, **change}
    return load_params(ROOT / "params.yaml").train.model_copy(update=values)


def make_model(**change: object) -> GPTModel:
    size = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": T, **change}
    model = GPTModel(GPTConfig(VOCABULARY, **size))  # pyright: ignore[reportArgumentType]
    model.init_weights(seed=3)
    return model


def read(first: int, last: int) -> Batch:
    """Return sequences of one and the same batch."""
    tokens = torch.randint(VOCABULARY, (BATCH, T + 1), generator=torch.Generator().manual_seed(5))[first:last]
    return token_batch(tokens[:, :-1], tokens[:, 1:], BATCH)


def read_documents(first: int, last: int) -> Batch:
    """Return the same, in which attention stops at documents that end with token 3."""
    batch = read(first, last)
    batch.tensors["documents"] = number_documents(batch.tensors["tokens"], 3)
    return batch


def make_step(
    model: GPTModel,
    settings: Train,
    micro_batch_size: int = BATCH,
    accelerator: Accelerator | None = None,
) -> tuple[TrainStep, list[Gradient]]:
    """Return a step and the list that the gradients which its optimizer gets go to."""
    optimizer, seen = build_optimizer(model, settings), list[Gradient]()

    def note(*_: object) -> None:
        seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    optimizer.register_step_pre_hook(note)
    accelerator = accelerator or Accelerator(cpu=True)
    step = TrainStep(model, optimizer, settings, accelerator, micro_batch_size=micro_batch_size, seed=1)
    return step, seen


def difference(first: Gradient, second: Gradient) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def norm_of(gradient: Gradient) -> float:
    return float(torch.cat([part.flatten() for part in gradient.values()]).norm())


def reference(model: GPTModel, read: ReadBatch = read) -> tuple[torch.Tensor, Gradient]:
    """The mean loss over all tokens of the batch, and its gradient, written down once more."""
    tensors = read(0, BATCH).tensors
    logits = model(tensors["tokens"], documents=tensors.get("documents"))
    loss = F.cross_entropy(logits.flatten(0, 1), tensors["targets"].flatten())
    loss.backward()
    gradient = {name: p.grad.to_dense().clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), gradient


@pytest.mark.parametrize("read", [read, read_documents], ids=["stream", "documents"])
@pytest.mark.parametrize("micro_batch_size", [8, 4, 2, 1])
def test_the_gradient_is_that_of_the_mean_over_all_tokens_for_every_micro_batch(
    micro_batch_size: int, read: ReadBatch
) -> None:
    model = make_model()
    assert (read(0, BATCH).tensors["tokens"] == 3).any(), "there are documents to tell apart"
    expected_loss, expected = reference(model, read)
    step, seen = make_step(model, make_settings(), micro_batch_size)
    loss, norm, skipped = step(0, read)
    assert not skipped
    assert step.micro_batches == BATCH // micro_batch_size
    assert difference(seen[0], expected) < 1e-6
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    assert float(norm) == pytest.approx(norm_of(expected), rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    code = """
import sys, torch
from gpt.processes.launch import joined_processes, start_accelerator
from gpt.params.project import load_params
from tests import ROOT
from tests.training.test_step import make_model, make_settings, make_step, read
launch = load_params(ROOT / "params.yaml").launch.model_copy(update={"num_processes": 2})
with joined_processes(launch):
    accelerator = start_accelerator(launch, "no")
    step, seen = make_step(make_model(), make_settings(grad_clip=0.05), 2, accelerator)
    loss, norm, _ = step(0, read)
    if accelerator.is_main_process:
        torch.save({"gradient": seen[0], "loss": loss, "norm": norm}, sys.argv[1])
assert not torch.distributed.is_initialized(), "an interpreter that ends in the group aborts"
"""
    (tmp_path / "two.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, str(tmp_path / "two.py"), str(tmp_path / "two.pt")], check=True, env=environment)
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    step, seen = make_step(make_model(), make_settings(grad_clip=0.05), 4)
    loss, norm, _ = step(0, read)
    assert difference(seen[0], two["gradient"]) < 1e-6
    assert float(two["loss"]) == pytest.approx(float(loss), rel=1e-6)
    assert float(two["norm"]) == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_three_processes_that_start_again_take_the_same_steps_to_the_last_bit(tmp_path: Path, strategy: str) -> None:
    code = """
import sys
import torch
from accelerate import Accelerator
from gpt.training.steps.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from gpt.training.steps.sharding import copy_to_cpu, shard, to_local_shard
from gpt.training.steps.step import Batch, ReadBatch, TrainStep, token_batch
from tests.training.test_step import T, VOCABULARY, make_model, make_settings

accelerator = Accelerator(cpu=True)

def batch(number):
    tokens = torch.randint(VOCABULARY, (6, T + 1), generator=torch.Generator().manual_seed(number))
    return lambda first, last: token_batch(tokens[first:last, :-1], tokens[first:last, 1:], 6)

def start(number):
    model, settings = make_model(n_embd=32), make_settings(batch_size=6, optimizer="adamw", grad_clip=1.0)
    if sys.argv[2] == "fsdp":
        shard(model, accelerator)
    optimizer = build_optimizer(model, settings)
    step = TrainStep(model, optimizer, settings, accelerator, micro_batch_size=2, seed=0)
    step.settle_sums(number, batch(number))
    return model, optimizer, step

def weights(model):
    return copy_to_cpu(model.state_dict(), keep=True)

model, optimizer, step = start(0)
for number in range(8):
    if number == 4:
        saved = weights(model), copy_to_cpu(optimizer_tensors(model, optimizer), keep=True)
    step(number, batch(number))
again, optimizer, step = start(4)
current = again.state_dict()
again.load_state_dict({name: to_local_shard(tensor, current[name]) for name, tensor in saved[0].items()})
load_optimizer_tensors(again, optimizer, saved[1])
for number in range(4, 8):
    step(number, batch(number))
first, second = weights(model), weights(again)
if accelerator.is_main_process:
    torch.save({"first": first, "second": second}, sys.argv[1])
accelerator.end_training()
"""
    (tmp_path / "three.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    arguments = [str(tmp_path / "three.py"), str(tmp_path / "three.pt"), strategy]
    subprocess.run([*command, *arguments], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    found = torch.load(tmp_path / "three.pt", weights_only=True)
    assert found["first"].keys() == found["second"].keys()
    assert all(torch.equal(tensor, found["second"][name]) for name, tensor in found["first"].items())


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(
        ValueError, match="a batch of 8 sequences does not divide into 1 processes and micro-batches of 3"
    ):
        make_step(make_model(), make_settings(), micro_batch_size=3)


def test_clipping_bounds_the_norm_and_reports_the_one_before() -> None:
    whole = reference(make_model())[1]
    step, seen = make_step(make_model(), make_settings(grad_clip=0.01))
    _, norm, _ = step(0, read)
    assert float(norm) == pytest.approx(norm_of(whole), rel=1e-5)
    assert norm_of(seen[0]) == pytest.approx(0.01, rel=1e-3)
    step, seen = make_step(make_model(), make_settings(grad_clip=1e6))
    step(0, read)
    assert difference(seen[0], whole) < 1e-6, "a small gradient stays as it is"


def test_the_rate_of_the_step_is_set_before_it_is_taken() -> None:
    step, _ = make_step(make_model(), make_settings(warmup_fraction=0.5, max_steps=100, learning_rate=1e-2))
    rates = []
    for number in (0, 24, 49):
        step(number, read)
        rates.append(step.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-4, 5e-3, 1e-2])


def test_dropout_depends_on_seed_step_and_sequence_and_on_nothing_else() -> None:
    def gradient(number: int, state: int) -> Gradient:
        step, seen = make_step(make_model(dropout=0.3), make_settings(), micro_batch_size=4)
        torch.manual_seed(state)
        step(number, read)
        return seen[0]

    assert difference(gradient(7, 0), gradient(7, 1)) == 0
    assert difference(gradient(7, 0), gradient(8, 0)) > 1e-4


def test_checkpointed_activations_give_the_same_gradient() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = make_model(dropout=0.3)
        model.checkpoint_activations = checkpointed
        step, seen = make_step(model, make_settings(), micro_batch_size=4)
        step(0, read)
        gradients.append(seen[0])
    assert difference(*gradients) == 0


def test_timing_passes_leaves_weights_gradients_and_random_numbers_alone() -> None:
    model = make_model(dropout=0.3)
    step, seen = make_step(model, make_settings(), micro_batch_size=4)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, later = step.time_pass(0, read)
    assert torch.equal(torch.rand(3), expected)
    assert first > 0 and later > 0
    assert not seen
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_bf16_passes_come_close_to_fp32_and_keep_fp32_gradients() -> None:
    _, expected = reference(make_model())
    step, seen = make_step(make_model(), make_settings(), 4, Accelerator(cpu=True, mixed_precision="bf16"))
    step(0, read)
    assert {part.dtype for part in seen[0].values()} == {torch.float32}
    assert 0 < difference(seen[0], expected) < 0.05 * max(float(part.abs().max()) for part in expected.values())


def test_fp16_gradients_are_unscaled_before_they_are_clipped(fp16_on_cpu: Callable[[float], Accelerator]) -> None:
    _, expected = reference(make_model())
    step, seen = make_step(make_model(), make_settings(grad_clip=1e6), 4, fp16_on_cpu(1024.0))
    _, norm, _ = step(0, read)
    assert float(norm) == pytest.approx(norm_of(expected), rel=0.02)
    assert difference(seen[0], expected) < 0.02 * max(float(part.abs().max()) for part in expected.values())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_fp16_step_that_overflows_is_skipped_and_the_next_one_is_taken(
    fp16_on_cpu: Callable[[float], Accelerator], optimizer: str
) -> None:
    model, accelerator = make_model(), fp16_on_cpu(2.0**30)
    step, _ = make_step(model, make_settings(optimizer=optimizer, grad_clip=1.0), 4, accelerator)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss, norm, skipped = step(0, read)
    assert loss.isfinite() and not norm.isfinite() and skipped
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for number in range(1, 40):
        step(number, read)
    assert accelerator.scaler is not None and accelerator.scaler.get_scale() < 2.0**30
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def to_nan(_module: torch.nn.Module, _inputs: Any, x: torch.Tensor) -> torch.Tensor:
    return x * math.nan


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_bad_step_leaves_weights_and_optimizer_as_they_were_and_the_next_one_is_taken(
    fp16_on_cpu: Callable[[float], Accelerator], optimizer: str, fp16: bool
) -> None:
    model = make_model()
    settings = make_settings(optimizer=optimizer, grad_clip=1.0)
    step, _ = make_step(model, settings, 4, fp16_on_cpu(1024.0) if fp16 else None)
    for number in range(3):
        step(number, read)

    def state() -> Gradient:
        bare: Any = getattr(step.optimizer, "optimizer", step.optimizer)
        return {name: value.clone() for name, value in (model.state_dict() | optimizer_tensors(model, bare)).items()}

    before = state()
    poison = model.final_norm.register_forward_hook(to_nan)
    loss, _, skipped = step(3, read)
    poison.remove()
    assert skipped and not loss.isfinite()
    assert all(torch.equal(value, before[name]) for name, value in state().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not step(3, read)[2]
    assert any(not torch.equal(value, before[name]) for name, value in state().items())
