import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file

from gpt import paths
from gpt.errors import Interrupted, UserError
from gpt.evaluation.likelihood import Likelihood, split_likelihood
from gpt.files import read_json, sha256_tree
from gpt.model.attention import number_documents
from gpt.model.storage import save_model
from gpt.model.transformer import GPTModel
from gpt.params.project import load_params
from gpt.processes.signals import Stop
from gpt.tokens.batches import Batches
from gpt.tokens.shards import TokenReader
from gpt.tracking.store import training_run
from gpt.training.checkpoints.saver import Saver
from gpt.training.checkpoints.stable import STABLE
from gpt.training.pretrain import Pretraining, pretrain
from gpt.training.steps.compilation import missing_for_compile
from gpt.training.trainer import Trainer
from tests import ROOT

WEIGHTS = paths.BASE_MODEL / "model.safetensors"
# All that a run may write to stderr when nothing is wrong with it but the machine.
OUR_LINES = re.compile(
    r"step \d+[/:]|WARNING: (other processes keep|params\.yaml: train\.precision = 'bf16' is emulated)"
)


def train_here() -> bytes:
    """Train the project in the current folder; return its weights file."""
    pretrain(load_params())
    return WEIGHTS.read_bytes()


def start(**environment: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "gpt", "pretrain"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(process: "subprocess.Popen[str]", step: int) -> None:
    deadline = time.monotonic() + 120
    while not list(Path().glob(f"checkpoints/*/step_{step:08d}")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def the_run() -> Run:
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = client.get_experiment_by_name("shakespeare-gpt")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_resume_after_sigkill_is_bit_identical(make_project: Callable[..., Path]) -> None:
    change = {"max_steps": 200, "checkpoint_interval": 7, "eval_interval": 50}
    make_project("whole", train=change)
    expected = train_here()
    plots = sha256_tree(Path("plots"))
    make_project("killed", train=change)
    for step in (14, 63):
        process = start()
        wait_for_checkpoint(process, step)
        process.kill()
        process.communicate()
    assert not WEIGHTS.exists()
    assert train_here() == expected
    assert sha256_tree(Path("plots")) == plots
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    run_id = training_run(client, "shakespeare-gpt", read_json(paths.RUN, "")["fingerprint"]).info.run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run_id, "train/loss")]
    assert sorted(steps) == list(range(4, 201, 4)), "every point is there once"


@pytest.mark.slow
def test_sigterm_saves_the_state_and_the_next_start_goes_on(make_project: Callable[..., Path]) -> None:
    change = {"max_steps": 3000, "checkpoint_interval": 5, "eval_interval": 3000}
    make_project(train=change)
    process = start()
    wait_for_checkpoint(process, 5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in errors
    assert "Traceback" not in errors
    stopped_at = int(errors.rsplit("after step ", 1)[1].split(";")[0])
    (newest,) = [path.name for path in sorted(Path("checkpoints").glob("*/step_*"))[-1:]]
    assert newest == f"step_{stopped_at:08d}"
    assert the_run().info.status == "KILLED"
    process = start()
    output = ""
    assert process.stdout is not None
    while "resuming" not in output:
        output = process.stdout.readline()
    assert f"resuming after step {stopped_at} of 3000" in output
    process.kill()
    process.communicate()


def test_a_stop_while_evaluating_cuts_it_short_and_the_next_start_does_it_again(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt.evaluation.windows.TOKENS_PER_BATCH", 512)  # several batches of this small split
    make_project("whole")
    expected = train_here()
    plots = sha256_tree(Path("plots"))
    make_project("stopped")
    asked = 0

    def stop_in_the_middle(*arguments: Any, give_up: Callable[[], bool], **options: Any) -> Likelihood:
        def give_up_later() -> bool:
            nonlocal asked
            asked += 1
            if asked == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return give_up()

        return split_likelihood(*arguments, give_up=give_up_later, **options)

    with monkeypatch.context() as patch:
        patch.setattr("gpt.training.validation.split_likelihood", stop_in_the_middle)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 15;"):
            train_here()
    assert asked == 2, "there was more to evaluate"
    assert train_here() == expected
    assert sha256_tree(Path("plots")) == plots


def test_a_stop_while_outputs_are_written_loses_nothing(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project("whole")
    expected = train_here()
    make_project("stopped")

    def stop_and_save(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save_model(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("gpt.training.pretrain.save_model", stop_and_save)
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 30;"):
            train_here()
    assert the_run().info.status == "KILLED"
    assert train_here() == expected
    assert the_run().info.status == "FINISHED"
    assert [path.name for path in Path("checkpoints").iterdir()] == [STABLE], "the state before the decay alone"


def test_every_split_into_micro_batches_gives_the_same_weights(make_project: Callable[..., Path]) -> None:
    weights = []
    for size in (8, 4, 1):
        make_project(f"micro_{size}", model={"dropout": 0.0}, launch={"micro_batch_size": size})
        train_here()
        weights.append(load_file(WEIGHTS))
    assert largest_difference(weights[0], weights[1]) < 1e-5
    assert largest_difference(weights[0], weights[2]) < 1e-5


@pytest.mark.slow
def test_two_processes_train_what_one_does(make_project: Callable[..., Path]) -> None:
    make_project("one", model={"dropout": 0.0})
    train_here()
    one, plot = load_file(WEIGHTS), paths.TRAINING_PLOT.read_text(encoding="utf-8").splitlines()
    make_project("two", model={"dropout": 0.0}, launch={"num_processes": 2, "micro_batch_size": 2})
    process = start()
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, output + errors
    assert read_json(paths.RUN, "")["num_processes"] == 2
    assert largest_difference(one, load_file(WEIGHTS)) < 1e-5
    for line, other in zip(plot[1:], paths.TRAINING_PLOT.read_text(encoding="utf-8").splitlines()[1:], strict=True):
        assert [float(cell) for cell in line.split(",")] == pytest.approx(
            [float(cell) for cell in other.split(",")], rel=1e-4
        )


def test_a_finished_run_leaves_no_checkpoint_and_trains_again_to_the_same_bytes(
    make_project: Callable[..., Path],
) -> None:
    make_project()
    first = train_here()
    assert [path.name for path in Path("checkpoints").iterdir()] == [STABLE], "the state before the decay alone"
    WEIGHTS.unlink()
    assert train_here() == first


def test_divergence_stops_with_advice_and_saves_nothing_that_is_not_finite(
    make_project: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    make_project(train={"learning_rate": 1.0e30, "grad_clip": 0.0, "warmup_fraction": 0.0, "max_rollbacks": 2})
    with pytest.raises(UserError, match=r"training diverged.*lower train\.learning_rate"):
        train_here()
    assert caplog.text.count("going back to step 0 and past") == 2
    saved = list(Path("checkpoints").glob("*/step_*/*.safetensors"))
    assert saved
    for path in saved:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    assert not WEIGHTS.exists()
    assert the_run().info.status == "FAILED"


def test_a_last_step_that_destroys_the_weights_is_no_result(make_project: Callable[..., Path]) -> None:
    make_project(train={"learning_rate": 1.0e39, "grad_clip": 0.0, "warmup_fraction": 0.0, "max_steps": 1})
    with pytest.raises(UserError, match="training diverged: weights are not finite after the last step"):
        train_here()
    assert not WEIGHTS.exists()


class Killed(BaseException):
    """What no code of ours catches: as a kill, which runs nothing after it."""


class Poison:
    """Makes the loss of some global batches NaN; sends SIGTERM the first time that others are read, or ends as a kill would."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        bad: Iterable[int],
        stop_at: Iterable[int] = (),
        kill_at: int | None = None,
    ) -> None:
        self.read: list[int] = []
        read, forward, to_stop = Batches.read, GPTModel.forward, set(stop_at)

        def noting_read(batches: Batches, number: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
            self.read.append(number)
            if number == kill_at and self.read.count(number) == 1:
                raise Killed
            if number in to_stop:
                to_stop.remove(number)
                os.kill(os.getpid(), signal.SIGTERM)
            return read(batches, number, first, last)

        def poisoned_forward(model: GPTModel, *arguments: Any, **options: Any) -> Any:
            result = forward(model, *arguments, **options)
            is_poisoned = model.training and self.read[-1] in bad
            return tuple(part * math.nan for part in result) if is_poisoned else result

        monkeypatch.setattr(Batches, "read", noting_read)
        monkeypatch.setattr(GPTModel, "forward", poisoned_forward)


def train_poisoned(monkeypatch: pytest.MonkeyPatch, bad: Iterable[int]) -> tuple[bytes, list[int]]:
    """Train the project in the current folder; return its weights file and the global batches in the order they were read."""
    with monkeypatch.context() as patch:
        poison = Poison(patch, bad)
        return train_here(), poison.read


def test_a_bad_batch_is_skipped_counted_and_told(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_project()
    Poison(monkeypatch, bad={6, 18})
    train_here()
    assert "step 8: skipped 1 of the last 4 steps, " in caplog.text
    assert "step 20: skipped 1 of the last 4 steps, " in caplog.text
    assert the_run().data.metrics["train/skipped_steps"] == 2
    assert "nan" not in paths.TRAINING_PLOT.read_text(encoding="utf-8")
    assert all(tensor.isfinite().all() for tensor in load_file(WEIGHTS).values())


def test_many_bad_batches_make_it_go_back_and_past_them_alike_when_it_is_stopped_meanwhile(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change = {"max_skips": 3, "max_steps": 40}
    make_project("whole", train=change)
    expected, read = train_poisoned(monkeypatch, bad=range(12, 16))
    # Skipped from step 12 on, which the log finds after step 16; the checkpoint before is of step 10.
    assert read == [*range(16), *range(16, 46)]
    assert (
        "step 16: more than 3 steps in a row skipped; going back to step 10 and past 6 batches (1 of 3 times)"
        in caplog.text
    )
    plots = sha256_tree(Path("plots"))
    assert the_run().data.metrics["train/rollbacks"] == 1
    make_project("stopped", train=change)
    with monkeypatch.context() as patch:
        Poison(patch, bad=range(12, 16), stop_at=(11, 14, 17, 30))
        for step in (12, 15, 12, 25):
            with pytest.raises(Interrupted, match=f"after step {step};"):
                train_here()
        assert train_here() == expected
    assert sha256_tree(Path("plots")) == plots


def test_going_back_tells_if_a_source_is_then_seen_too_often(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_project()
    reader, params = TokenReader(paths.TOKENS, "train"), load_params()
    (use,) = Batches(reader, params.model.block_size, params.train.batch_size, 0).uses(params.train.max_steps)
    make_project("just enough", train={"max_skips": 3, "max_epochs": use.epochs})
    train_poisoned(monkeypatch, bad=range(12, 16))
    asked = (params.train.max_steps + 6) * params.train.batch_size * params.model.block_size
    assert f"with the batches that training went past, the train split has {reader.tokens:,} tokens" in caplog.text
    assert f"and all steps ask for {asked:,}: " in caplog.text


def test_auto_compiles_or_not_as_the_run_began_whatever_it_would_measure_at_a_resume(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project("whole", launch={"compile": "auto"})
    expected = train_here()
    make_project("stopped", launch={"compile": "auto"})
    with monkeypatch.context() as patch:
        Poison(patch, bad=(), stop_at=(6,))
        with pytest.raises(Interrupted, match="after step 7;"):
            train_here()
    (state,) = Path("checkpoints").glob("*/step_00000007/state.json")
    assert read_json(state, "")["state"]["compile"] == "eager"

    def measured(*_: Any) -> bool:
        raise AssertionError("a resume measures nothing")

    monkeypatch.setattr("gpt.training.steps.compilation.worth_compiling", measured)
    assert train_here() == expected
    assert the_run().data.tags["compile"] == "eager (as when this run began)"


def test_a_run_that_goes_back_keeps_its_name_and_how_it_is_computed(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(train={"max_skips": 3, "checkpoint_interval": 20}, launch={"compile": "auto"})
    with monkeypatch.context() as patch:
        Poison(patch, bad=range(12, 16), stop_at=(25,))
        with pytest.raises(Interrupted):
            train_here()
    newest = max(Path("checkpoints").glob("*/step_*/state.json"))
    state = read_json(newest, "")["state"]
    assert (state["rollbacks"], state["compile"]) == (1, "eager")
    assert state["run"] == the_run().data.tags["gpt.run"]


def test_before_the_first_scheduled_checkpoint_it_goes_back_to_the_start_though_a_stop_has_saved(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    change = {"max_skips": 3, "checkpoint_interval": 20}
    make_project("whole", train=change)
    expected, read = train_poisoned(monkeypatch, bad=range(12, 16))
    assert read == [*range(16), *range(16, 46)]
    make_project("stopped", train=change)
    with monkeypatch.context() as patch:
        Poison(patch, bad=range(12, 16), stop_at=(6,))
        with pytest.raises(Interrupted, match="after step 7;"):
            train_here()
        assert train_here() == expected


def test_a_save_waits_for_the_end_of_a_row_of_bad_steps(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(train={"checkpoint_keep_last": 9})
    Poison(monkeypatch, bad=range(8, 11), stop_at=(12,))
    with pytest.raises(Interrupted, match="after step 13;"):
        train_here()
    assert [path.name for path in sorted(Path("checkpoints").glob("*/step_*"))] == [
        f"step_{step:08d}" for step in (5, 12, 13)
    ]


def test_a_row_that_ended_before_it_was_found_is_gone_back_behind_too(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_project(train={"max_skips": 3, "log_interval": 8})
    Poison(monkeypatch, bad=range(9, 13))
    train_here()
    assert "step 16: more than 3 steps in a row skipped; going back to step 5 and past 11 batches" in caplog.text


@pytest.mark.parametrize("is_last", [False, True])
def test_a_validation_loss_that_is_not_finite_is_neither_written_down_nor_a_result(
    make_project: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_last: bool,
) -> None:
    make_project()
    measured = 0

    def measure(*arguments: Any, **options: Any) -> Likelihood:
        nonlocal measured
        measured += 1
        found = split_likelihood(*arguments, **options)
        return replace(found, nats=math.inf) if measured == 1 + is_last else found

    monkeypatch.setattr("gpt.training.validation.split_likelihood", measure)
    if is_last:
        with pytest.raises(UserError, match="diverged: the validation loss is not finite after the last step"):
            train_here()
        assert not WEIGHTS.exists()
    else:
        train_here()
        assert [line.split(",")[0] for line in paths.VALIDATION_PLOT.read_text(encoding="utf-8").split()] == [
            "step",
            "30",
        ]
    assert f"step {30 if is_last else 15}: the validation loss is not finite" in caplog.text


def test_training_does_not_depend_on_a_tracking_server(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project("with")
    expected = train_here()
    make_project("without")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert train_here() == expected
    assert list(Path("spool").glob("*.jsonl"))


def test_tokens_of_another_tokenizer_are_refused(make_project: Callable[..., Path]) -> None:
    folder = make_project()
    index = folder / paths.TOKENS / "index.json"
    index.write_text(
        index.read_text(encoding="utf-8").replace('"tokenizer_id": "', '"tokenizer_id": "0'), encoding="utf-8"
    )
    with pytest.raises(UserError, match="another tokenizer"):
        train_here()


def test_a_shard_that_changed_is_refused_with_both_hashes(make_project: Callable[..., Path]) -> None:
    make_project()
    shard = next(paths.TOKENS.glob("train_*.bin"))
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"SHA-256 is [0-9a-f]{64}, the index says [0-9a-f]{64}"):
        train_here()


def test_a_launcher_with_another_number_of_processes_is_refused(make_project: Callable[..., Path]) -> None:
    make_project(launch={"num_processes": 2, "micro_batch_size": 4})
    with pytest.raises(UserError, match="launch asks for 2 processes, but 1 run"):
        train_here()


def test_measurements_go_to_mlflow_and_results_to_plots(make_project: Callable[..., Path]) -> None:
    make_project(launch={"compile": "auto"})
    train_here()
    run = the_run()
    assert run.data.metrics["system/tokens_per_second"] > 0
    assert 0 < run.data.metrics.get("system/mfu", 0.5) <= 1, "n/a where the peak was measured in a bad moment"
    assert run.data.metrics["system/peak_memory_megabytes"] > 10
    assert run.data.params["train.precision"] == "fp32"
    assert run.data.tags["compile"].startswith("eager (")
    header = paths.TRAINING_PLOT.read_text(encoding="utf-8").splitlines()[0]
    assert header == "step,train_loss,learning_rate,gradient_norm"


def test_checkpointed_activations_train_to_the_same_bytes(make_project: Callable[..., Path]) -> None:
    make_project("kept")
    expected = train_here()
    make_project("computed_again", launch={"activation_checkpointing": True})
    assert train_here() == expected


def test_attention_stops_at_document_boundaries_only_if_it_shall(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered: list[int] = []

    def noting(tokens: torch.Tensor, end_of_text: int) -> torch.Tensor:
        numbered.append(end_of_text)
        return number_documents(tokens, end_of_text)

    monkeypatch.setattr("gpt.training.pretrain.number_documents", noting)
    make_project("across", train={"attention_across_documents": True})
    across = train_here()
    assert numbered == [], "what nobody asked for costs nothing"
    make_project("apart", train={"attention_across_documents": False})
    apart = train_here()
    assert numbered == 30 * [TokenReader(paths.TOKENS, "train").end_of_text], "in training's steps, not in validation"
    assert apart != across


@pytest.mark.slow
def test_bf16_learns_what_fp32_learns(make_project: Callable[..., Path]) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        make_project(precision, train={"precision": precision})
        process = start()  # one precision a process
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        # No library's warning is among what the user sees.
        assert not [line for line in errors.splitlines() if line and not OUR_LINES.match(line)], errors
        losses.append(float(paths.TRAINING_PLOT.read_text(encoding="utf-8").splitlines()[-1].split(",")[1]))
        assert {tensor.dtype for tensor in load_file(WEIGHTS).values()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_fp16_without_a_gpu_is_refused_before_any_work(make_project: Callable[..., Path]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    make_project(train={"precision": "fp16"})
    with pytest.raises(UserError, match="'fp16' needs a GPU"):
        train_here()
    assert not Path("checkpoints").exists()


def test_an_fp16_run_goes_on_with_the_scale_it_had(
    make_project: Callable[..., Path], tmp_path: Path, fp16_on_cpu: Callable[[float], Accelerator]
) -> None:
    make_project()
    accelerator = fp16_on_cpu(2.0**40)  # the first steps overflow, are skipped and lower it
    with Saver(tmp_path, keep_last=1, keep_every=0) as saver:
        job = Pretraining(load_params())
        job.open(accelerator, Stop())
        trainer = Trainer(job, accelerator, tmp_path, saver)
        for _ in range(6):
            trainer._train_step()
        trainer._checkpointer.save(is_scheduled=True)
    assert accelerator.scaler is not None
    scale = accelerator.scaler.get_scale()
    assert scale < 2.0**40
    accelerator.scaler = torch.amp.GradScaler("cpu")  # pyright: ignore[reportAttributeAccessIssue]
    resumed = Trainer(job, accelerator, tmp_path)
    resumed.resume()
    assert resumed.state.step == 6
    assert accelerator.scaler is not None and accelerator.scaler.get_scale() == scale


@pytest.mark.slow
@pytest.mark.skipif(missing_for_compile() is not None, reason="torch.compile finds no compiler")
def test_compiled_blocks_train_to_the_same_model(make_project: Callable[..., Path]) -> None:
    make_project("eager", model={"dropout": 0.0})
    train_here()
    eager = load_file(WEIGHTS)
    make_project("compiled", model={"dropout": 0.0}, launch={"compile": True})
    train_here()
    compiled = load_file(WEIGHTS)
    assert compiled.keys() == eager.keys()
    assert largest_difference(eager, compiled) < 1e-3
    assert the_run().data.tags["compile"].startswith("compiled (")
