"""Fine-tuning as a whole: killed at any instant it ends with the same bytes, in one process or two."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json, sha256_file
from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.finetune import finetune, make_data
from gpt.finetuning.judging.answers import plain_answers
from gpt.finetuning.judging.evaluate import evaluate
from gpt.finetuning.methods.saving import load_classifier
from gpt.finetuning.places import Places
from gpt.model.generation import generate_tokens
from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from gpt.params.finetuning import FOLDER, load_recipe
from gpt.params.project import load_params
from gpt.reports.finetuned import write_report
from gpt.tokens.encoding import CHAT_TEMPLATE
from tests import ROOT
from tests.conftest import merge
from tests.finetuning.conftest import NAME
from tests.remaking import kill_tree

PLACES = Places(NAME)
TWO: dict[str, Any] = {"num_processes": 2, "micro_batch_size": 2}
KINDS = [
    ("instruct", "full"), ("instruct", "lora"), ("instruct", "last_blocks"),
    ("classify", "full"), ("classify", "lora"), ("classify", "head"), ("classify", "last_blocks"),
    ("preference", "full"), ("preference", "lora"), ("preference", "last_blocks"),
]  # fmt: skip


def model_files() -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(PLACES.model.glob("*.safetensors"))}


def start() -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VIRTUAL_ENV": sys.prefix}
    command = [sys.executable, "-m", "gpt", "finetune", "train", NAME]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: "subprocess.Popen[str]", step: int) -> bool:
    """Wait until a checkpoint of that step or a later one is there; return False if the process ended before."""
    while process.poll() is None:
        if any(int(path.name.removeprefix("step_")) >= step for path in paths.CHECKPOINTS.glob("*/step_????????")):
            return True
        time.sleep(0.005)
    return False


@pytest.mark.parametrize(
    ("task", "method"),
    [kind if kind[0] != "preference" else pytest.param(*kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_each_kind_learns_and_leaves_a_model_that_the_rest_of_the_project_reads(
    make_recipe: Callable[..., Path], task: str, method: str
) -> None:
    make_recipe(task, method, train={"epochs": 3.0})
    finetune(NAME, load_params())
    model, encoding = load_model(PLACES.model)
    assert model.config.vocab_size == encoding.n_vocab
    rows = PLACES.validation_plot.read_text(encoding="utf-8").splitlines()
    first, last = (float(row.split(",")[1]) for row in (rows[1], rows[-1]))
    assert last < first
    assert (PLACES.model / "adapter.safetensors").exists() == (method == "lora")
    assert (PLACES.model / "tokenizer" / CHAT_TEMPLATE).exists() == (task != "classify")
    assert not list(paths.CHECKPOINTS.glob("*/step_*"))
    if task == "classify":
        _, _, labels = load_classifier(PLACES.model)
        assert labels == ["glad", "sad"]
    evaluation = evaluate(NAME)
    assert evaluation["weights_sha256"] == sha256_file(PLACES.model / "model.safetensors")
    assert set(read_json(PLACES.metrics, "")["test"]) >= {"forgotten_bits_per_byte"}


def test_what_the_method_leaves_alone_stays_as_it_was(make_recipe: Callable[..., Path]) -> None:
    make_recipe("classify", "head", model={"tie_embeddings": False})
    finetune(NAME, load_params())
    before, after = (load_file(folder / "model.safetensors") for folder in (PLACES.base, PLACES.model))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert load_file(PLACES.model / "head.safetensors")["weight"].abs().sum() > 0


@pytest.mark.parametrize("task", ["instruct", "classify", "preference"])
def test_micro_batches_change_only_the_last_digits(make_recipe: Callable[..., Path], task: str) -> None:
    weights = []
    for size in (8, 2):
        make_recipe(task, "full", folder=f"of {size}", launch={"micro_batch_size": size}, train={"dropout": 0.0})
        finetune(NAME, load_params())
        weights.append(load_file(PLACES.model / "model.safetensors"))
    assert all(torch.allclose(tensor, weights[1][name], atol=1e-4) for name, tensor in weights[0].items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "method", "launch"),
    [("instruct", "full", {}), ("instruct", "lora", TWO), ("classify", "head", TWO), ("preference", "full", {})],
)
def test_killed_runs_end_with_the_same_bytes(
    make_recipe: Callable[..., Path], task: str, method: str, launch: dict[str, Any]
) -> None:
    killed_runs(make_recipe, task, method, launch, kills=2)


@pytest.mark.long
@pytest.mark.parametrize("launch", [{}, TWO], ids=["one", "two"])
@pytest.mark.parametrize(
    ("task", "method"),
    [
        *(("instruct", "full"), ("instruct", "lora"), ("instruct", "last_blocks")),
        *(("classify", "full"), ("classify", "lora"), ("classify", "head"), ("preference", "full")),
    ],
)
def test_runs_that_were_killed_twelve_times_end_with_the_same_bytes(
    make_recipe: Callable[..., Path], task: str, method: str, launch: dict[str, Any]
) -> None:
    killed_runs(make_recipe, task, method, launch, kills=12)


def killed_runs(make_recipe: Callable[..., Path], task: str, method: str, launch: dict[str, Any], kills: int) -> None:
    """Train once left alone and once killed at random instants; both must leave the same bytes."""
    train = {"epochs": 4.0 * kills, "checkpoint_interval": 3}
    make_recipe(task, method, folder="whole", launch=launch, train=train)
    whole = start()
    _, errors = whole.communicate(timeout=180)
    assert whole.returncode == 0, errors
    expected = model_files()
    make_recipe(task, method, folder="killed", launch=launch, train=train)
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the kills: {seed}")
    instants = random.Random(seed)
    step = 0
    for _ in range(kills):
        process = start()
        step += instants.randint(1, 8)
        if wait_for_step(process, step):
            time.sleep(instants.random() * 0.1)
            kill_tree(process)
    last = start()
    _, errors = last.communicate(timeout=180)
    assert last.returncode == 0, errors
    assert model_files() == expected


def test_data_and_tokens_are_the_same_bytes_again(make_recipe: Callable[..., Path]) -> None:
    make_recipe("instruct")
    before = {path: sha256_file(path) for path in PLACES.data.rglob("*") if path.is_file()}
    make_data(NAME, load_params())
    assert {path: sha256_file(path) for path in PLACES.data.rglob("*") if path.is_file()} == before
    train = Encoded.load(PLACES.data / "train.safetensors")
    assert len(train) == read_json(PLACES.data / "report.json", "")["splits"]["train"]["examples"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "models/none"}, "finetuning/small.yaml: base = models/none: no such folder"),
        ({"base": "scratch"}, "fine-tuning begins with a trained model"),
        ({"train": {"min_lr": 1.0}}, "min_lr (1.0) must not exceed learning_rate"),
        ({"train": {"schedule": "wsd", "decay_fraction": 1.0}}, "must not exceed 1"),
        ({"base": "finetuning/small/model"}, "this recipe itself writes there"),
        ({"data": {"test_fraction": 0.0}}, "the test split has no example"),
        ({"data": {"form": "alpaca"}}, "examples.jsonl, line 1: has no field 'instruction' that is text"),
        ({"block_size": 4}, "an example has more than 4 tokens"),
        ({"task": {"kind": "classify", "head_learning_rate": 0.1}}, "cannot learn from data.form = messages"),
        ({"method": {"kind": "head"}}, "trains a classifier's head, and task.kind = instruct has none"),
        ({"method": {"kind": "last_blocks", "blocks": 0}}, "method.blocks = 0"),
        ({"train": {"batch_size": 8, "epochs": -1.0}}, "train.epochs = -1.0"),
    ],
)
def test_what_cannot_be_made_is_one_error_that_says_where(
    make_recipe: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    make_recipe("instruct")
    values = yaml.safe_load(PLACES.recipe.read_text(encoding="utf-8"))
    for whole in ("task", "method"):
        values[whole] = change.pop(whole, values[whole])
    merge(values, change)
    PLACES.recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    before = {path: sha256_file(path) for path in PLACES.data.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        make_data(NAME, load_params())
    assert message in str(error.value)
    assert {path: sha256_file(path) for path in PLACES.data.rglob("*") if path.is_file()} == before, "nothing is lost"


def test_a_recipe_that_is_not_there_is_told_with_those_that_are(make_recipe: Callable[..., Path]) -> None:
    make_recipe()
    with pytest.raises(UserError, match=r"finetuning/other.yaml: no such recipe; there are small"):
        make_data("other", load_params())


def test_committed_recipes_are_valid_and_name_their_licences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for path in FOLDER.glob("*.yaml"):
        if path.name != "dvc.yaml":
            assert all(source.licence for source in load_recipe(path.stem).data.sources)


def test_answers_of_tasks_are_scored_beside_the_base_models(make_recipe: Callable[..., Path]) -> None:
    rows = [
        {"prompt": f"{number} and {more}?", "completion": "yes", "task": task}
        for number in range(30)
        for task, more in (("one", 1), ("two", 2))
    ]
    train = {"epochs": 20.0, "learning_rate": 0.01, "dropout": 0.0}
    data, judge = {"form": "prompt_completion"}, {"max_new_tokens": 8}
    make_recipe("instruct", rows=rows, data=data, train=train, judge=judge)
    finetune(NAME, load_params())
    tasks = evaluate(NAME)["tasks"]
    assert {task: each["base_exact_match"] for task, each in tasks.items()} == {"one": 0.0, "two": 0.0}
    assert all(each["exact_match"] > 0.9 for each in tasks.values())
    assert "0.0 % (base model)" in write_report(NAME).read_text(encoding="utf-8")


def test_a_base_model_answers_with_what_it_writes_up_to_the_end_of_a_line(make_recipe: Callable[..., Path]) -> None:
    make_recipe("instruct")
    base, encoding = load_model(PLACES.base)
    messages = [{"role": "user", "content": "who is 1?"}]
    (said,) = plain_answers(base, encoding, [messages], 12)
    prompt = [encoding.eot_token, *encoding.encode_ordinary("who is 1?\n")]
    written = [step[0] for step in generate_tokens(base, [prompt], Sampling(12, temperature=0.0))]
    text = encoding.decode(written)
    assert said.text == text.partition("\n")[0]
    assert said.ended == ("\n" in text)
