"""Five sources in three phases: what a run reads is what the arithmetic says, whatever runs it and whenever it is killed."""

import hashlib
import random
import signal
import time
from pathlib import Path

import pytest
from accelerate import Accelerator

from gpt import paths
from gpt.files import sha256_file
from gpt.params.project import load_params
from gpt.processes.signals import Stop
from gpt.sources.benchmarks import build_benchmarks
from gpt.sources.fetch import fetch
from gpt.tokens.batches import Batches
from gpt.tokens.shards import TokenReader
from gpt.training.checkpoints.fingerprint import fingerprint
from gpt.training.pretrain import Pretraining
from gpt.training.trainer import Trainer
from tests.conftest import prepare_data, small_change, write_params
from tests.training.conftest import TRAIN
from tests.training.test_process_counts import RECORDER, batches, start_with
from tests.training.test_trainer import WEIGHTS

STEPS, BATCH_SIZE = 90, 8
SOURCES = ("v", "w", "x", "y", "z")
MIXTURE = [
    {"from_step": 0, "shares": {"v": 0.5, "w": 0.25, "x": 0.125, "y": 0.1, "z": 0.025}},
    {"from_step": 30, "shares": {"v": 0.2, "w": 0.2, "x": 0.2, "y": 0.2, "z": 0.2}},
    {"from_step": 60, "shares": {"x": 0.62, "z": 0.38}},
]
LAUNCHES: list[dict[str, object]] = [
    {"num_processes": processes, "micro_batch_size": size, "strategy": "ddp"}
    for processes, size in ((1, 8), (2, 2), (4, 1))
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of five sources that say different things, and of different lengths."""
    folder = tmp_path_factory.mktemp("five")
    for number, name in enumerate(SOURCES):
        words = random.Random(number).choices(["to", "be", "or", "not", "queen", name * 3], k=600 * (number + 1))
        lines = (" ".join(words[start : start + 20]) for start in range(0, len(words), 20))
        (folder / f"{name}.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines), encoding="utf-8")
    write_params(folder, settings(folder))
    fetch(load_params(folder / "params.yaml").fetch.sources, folder / paths.RAW)
    build_benchmarks((), folder / paths.BENCHMARKS)
    prepare_data(folder)
    return folder


def settings(folder: Path, **launch: object) -> dict[str, dict[str, object]]:
    change = small_change(folder / "v.jsonl")
    files = [(name, folder / f"{name}.jsonl") for name in SOURCES]
    change["fetch"]["sources"] = [
        {"name": name, "kind": "local", "path": str(path), "sha256": sha256_file(path), "licence": "none"}
        for name, path in files
    ]
    saved = {"checkpoint_interval": 4, "eval_interval": STEPS, "sample_interval": 0}
    change["train"] |= TRAIN | saved | {"max_steps": STEPS, "batch_size": BATCH_SIZE, "mixture": MIXTURE}
    change["model"]["dropout"] = 0.0
    change["launch"] |= launch
    return change


@pytest.fixture
def project(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    for part in ("data", "models"):
        (tmp_path / part).symlink_to(data / part)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arithmetic() -> set[str]:
    """Return the lines that the recorder writes, from the index of the tokens and params.yaml alone."""
    params = load_params()
    reader = TokenReader(paths.TOKENS, "train")
    batches = Batches(reader, params.model.block_size, BATCH_SIZE, params.base.seed, params.train.mixture)
    return {
        f"{step} {row} {hashlib.sha256(tokens.numpy().tobytes()).hexdigest()}"
        for step in range(STEPS)
        for row, tokens in enumerate(batches.read(step, 0, BATCH_SIZE)[0])
    }


def recorded(begin: int) -> list[int]:
    """Return the steps of the batches that were read since the record had so many characters."""
    record = Path("batches.txt")
    text = record.read_text(encoding="utf-8")[begin:] if record.exists() else ""
    return [int(line.split()[0]) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_a_phase_after_the_last_step_is_none_of_a_run_that_went_back_either(
    data: Path, project: Path, tmp_path: Path
) -> None:
    """Its fingerprint does not name that phase, and beyond its last step lie the batches that it went past."""
    read, ids = [], []
    later = {"from_step": STEPS, "shares": {"z": 1.0}}
    for mixture in (MIXTURE, [*MIXTURE, later]):
        change = settings(data)
        change["train"]["mixture"] = mixture
        write_params(project, change)
        accelerator, job = Accelerator(cpu=True), Pretraining(load_params())
        job.open(accelerator, Stop())
        trainer = Trainer(job, accelerator, tmp_path)
        trainer.state.step, trainer.state.skipped_batches = STEPS - 1, 6
        read.append(trainer.read_batch(0, BATCH_SIZE).tensors["tokens"])
        ids.append(fingerprint(load_params()).id)
    assert read[0].equal(read[1]) and ids[0] == ids[1]


@pytest.mark.slow
def test_killed_at_any_step_and_gone_on_with_by_other_processes_a_run_reads_what_the_arithmetic_says(
    data: Path, project: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"seed of the kills: {seed}")
    instants = random.Random(seed)
    kills = (
        instants.randint(5, 25),
        instants.randint(29, 31),
        instants.randint(35, 75),
    )  # around a change of phases too
    begin = 0
    for launch, step in zip(LAUNCHES, kills, strict=False):
        write_params(project, settings(data, **launch))
        process, deadline = start_with(project, RECORDER), time.monotonic() + 300
        while not any(read >= step for read in recorded(begin)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was on its way"
        assert (recorded(begin)[0] == 0) == (begin == 0), "it goes on from a checkpoint"
        begin = Path("batches.txt").stat().st_size
    write_params(project, settings(data, **LAUNCHES[0]))
    output, errors = start_with(project, RECORDER).communicate(timeout=300)
    assert WEIGHTS.exists(), output + errors
    assert "resuming after step" in output
    assert batches(project) == arithmetic()
    assert len(batches(project)) == BATCH_SIZE * STEPS


@pytest.mark.slow
@pytest.mark.parametrize("launch", LAUNCHES, ids=["1", "2", "4"])
def test_one_two_and_four_processes_read_the_same(data: Path, project: Path, launch: dict[str, object]) -> None:
    write_params(project, settings(data, **launch))
    output, errors = start_with(project, RECORDER).communicate(timeout=300)
    assert WEIGHTS.exists(), output + errors
    assert batches(project) == arithmetic()
