import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt import paths
from gpt.evaluation.likelihood import measuring
from gpt.files import read_json
from gpt.finetuning.finetune import find_job, finetune
from gpt.finetuning.jobs.prefer import REFERENCE, Preferring, pairs
from gpt.finetuning.judging.evaluate import evaluate
from gpt.finetuning.methods.models import PreferenceModel
from gpt.params.project import load_params
from gpt.processes.signals import Stop
from tests.finetuning.conftest import NAME


def open_job() -> tuple[Preferring, PreferenceModel]:
    from accelerate import Accelerator

    job = find_job(NAME, load_params())
    assert isinstance(job, Preferring)
    job.identity()
    job.open(Accelerator(cpu=True), Stop())
    model = job.new_model()
    assert isinstance(model, PreferenceModel)
    return job, model


def test_log_likelihoods_are_sums_over_the_answers_alone(make_recipe: Callable[..., Path]) -> None:
    make_recipe("preference")
    job, model = open_job()
    data = job._train
    with measuring(model):
        found = model.log_likelihoods(**pairs(data, [0, 3]))
        for row, number in enumerate((0, 1, 6, 7)):
            sequence = data[number]
            ids = torch.from_numpy(sequence.ids.astype(np.int64))
            likelihoods = model.logits(model.hidden(ids[None, :-1]))[0].log_softmax(1)
            each = likelihoods[torch.arange(len(ids) - 1), ids[1:]]
            assert float(found[row]) == pytest.approx(float(each[torch.from_numpy(sequence.mask[1:])].sum()), rel=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_first_loss_is_ln_2_and_better_answers_gain(make_recipe: Callable[..., Path], method: str) -> None:
    make_recipe("preference", method, train={"epochs": 6.0, "learning_rate": 0.01, "dropout": 0.0})
    job, model = open_job()
    batch = job.read(0, 0, 8)
    loss, _ = model(**batch.tensors, scale=1 / batch.count)
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-6)
    finetune(NAME, load_params())
    evaluation = evaluate(NAME)
    assert evaluation["preferred"] >= 0.95
    assert evaluation["margin"] > 0
    assert evaluation["loss"] < math.log(2)
    assert read_json(Path("finetuning/small/metrics.json"), "")["test"]["preferred"] == evaluation["preferred"]


def test_the_base_model_is_asked_once_for_a_run(
    make_recipe: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    make_recipe("preference")

    def first_batch() -> torch.Tensor:
        return open_job()[0].read(0, 0, 8).tensors["reference"]

    computed = first_batch()
    (kept,) = paths.CHECKPOINTS.glob(f"*/{REFERENCE}")
    whole = kept.read_bytes()
    save_file({split: values + 1 for split, values in load_file(kept).items()}, kept)
    assert torch.equal(first_batch(), computed + 1), "what was kept is used"
    kept.write_bytes(whole[: len(whole) // 2])
    assert torch.equal(first_batch(), computed)
    assert f"{kept}: damaged" in caplog.text
    assert kept.read_bytes() == whole
    finetune(NAME, load_params())
    assert not kept.exists()
