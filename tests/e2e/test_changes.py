"""What a change costs: which stages `dvc repro` runs after it, and whether an unfinished training would go on.

docs/recovery.md shows the table; `pytest -m "slow or long" tests/e2e/test_changes.py -s` prints what was seen.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gpt.files import sha256_file
from tests.e2e.conftest import Project

pytestmark = pytest.mark.slow

REPRO = ("dvc", "--wait-for-lock", "repro")
FINGERPRINT = (
    "import sys; from gpt.params.project import load_params; from gpt.training.checkpoints.fingerprint import fingerprint;"
    "print(fingerprint(load_params()).id)"
)
AFTER_FETCH = ["prepare", "tokenizer", "tokenize", "data_card"]
AFTER_TOKENS = ["pretrain", "evaluate", "report"]


def append(name: str, text: str) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        path = project.folder / name
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")

    return change


def replace(name: str, old: str, new: str) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        path = project.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def setting(section: str, **values: Any) -> Callable[[Project], None]:
    return lambda project: project.change(**{section: values})


def installed(distribution: str, version: str) -> Callable[[Project], None]:
    """Let another version of a distribution seem to be installed: its metadata come first on the path."""

    def change(project: Project) -> None:
        folder = project.folder / f"{distribution}-{version}.dist-info"
        folder.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (folder / "METADATA").write_text(metadata, encoding="utf-8")

    return change


def licence(project: Project) -> None:
    (source,) = project.params()["fetch"]["sources"]
    project.change(fetch={"sources": [dict(source) | {"licence": "public domain"}]})


def benchmark(project: Project) -> None:
    item = (
        '{"id": "made/validation/1", "benchmark": "made", "split": "validation", "answer": 0, "texts": ["one and two"],'
        ' "choices": [{"context": "one", "continuation": " two"}]}\n'
    )
    path = project.folder.parent / "made.jsonl"
    path.write_text(item, encoding="utf-8")
    source = {"name": "made", "kind": "local", "path": str(path), "sha256": sha256_file(path), "licence": "none"}
    project.change(fetch={"benchmarks": [source]})


def named_benchmark(project: Project) -> None:
    benchmark(project)
    project.change(evaluate={"benchmarks": ["made"]})


def initial_weights(project: Project) -> None:
    """Start from a copy of what was trained."""
    shutil.copytree(project.folder / "models/base", project.folder / "models/copied", dirs_exist_ok=True)
    project.change(train={"init_from": "models/copied"})


class Change(NamedTuple):
    what: str
    make: Callable[[Project], None]
    runs: list[str]
    goes_on: bool


OTHER_DATA = ("tokenize.shuffle_seed", "train.init_from")
"After these there are tokens, or weights, to train on only when they have run."
MADE_UP = {"from_step": 0, "shares": {"made-up": 1.0}}
COMMENT = "\n# a comment\n"
CHANGES = [
    Change("comment in model/convert/huggingface.py", append("gpt/model/convert/huggingface.py", COMMENT), [], True),
    Change("comment in training/trainer.py", append("gpt/training/trainer.py", COMMENT), [], True),
    Change("comment in corpus/cleaning.py", append("gpt/corpus/cleaning.py", COMMENT), [], True),
    Change("comment in tokens/tokenize.py", append("gpt/tokens/tokenize.py", COMMENT), [], True),
    Change("comment in reports/page.py", append("gpt/reports/page.py", COMMENT), [], True),
    Change("comment in tracking/journal.py", append("gpt/tracking/journal.py", COMMENT), [], True),
    Change("docstring in model/attention.py", replace("gpt/model/attention.py", '"""', '"""Anew: '), [], True),
    Change(
        "code in model/convert/huggingface.py",
        append("gpt/model/convert/huggingface.py", "\nX = 1\n"),
        ["fetch_weights"],
        True,
    ),
    Change("code in tracking/journal.py", append("gpt/tracking/journal.py", "\nX = 1\n"), [], True),
    Change("code in tokens/display.py", append("gpt/tokens/display.py", "\nX = 1\n"), [], True),
    Change("torch's local version", installed("torch", "2.13.0+other"), [], True),
    Change("launch.micro_batch_size", setting("launch", micro_batch_size=4), [], True),
    Change("launch.trackers", setting("launch", trackers=["tensorboard"]), [], True),
    Change("train.sample_interval", setting("train", sample_interval=29), [], True),
    Change("train.checkpoint_keep_stable", setting("train", checkpoint_keep_stable=0), [], True),
    Change("a source's licence", licence, ["data_card", "report"], True),
    Change("style of the pages", append("gpt/reports/page.py", "\nX = 1\n"), ["data_card", "report"], True),
    Change("ftfy upgraded", installed("ftfy", "99.0"), ["prepare"], True),
    Change(
        "tiktoken upgraded",
        installed("tiktoken", "99.0"),
        ["fetch_weights", "tokenizer", "tokenize", "evaluate"],
        True,
    ),
    Change("a benchmark added to fetch", benchmark, ["fetch_benchmarks", "data_card"], True),
    Change("and named in evaluate", named_benchmark, ["fetch_benchmarks", *AFTER_FETCH, "evaluate", "report"], True),
    Change("evaluate.prompts", setting("evaluate", prompts=["to be"]), ["evaluate", "report"], True),
    Change("code in training/steps/step.py", append("gpt/training/steps/step.py", "\nX = 1\n"), ["pretrain"], False),
    Change("train.learning_rate", setting("train", learning_rate=0.02), AFTER_TOKENS, False),
    Change("train.max_steps", setting("train", max_steps=60), AFTER_TOKENS, False),
    Change("train.init_from", initial_weights, ["fetch_weights", *AFTER_TOKENS], False),
    Change("train.mixture", setting("train", mixture=[MADE_UP]), AFTER_TOKENS, False),
    Change("train.max_epochs", setting("train", max_epochs=1000.0), [], True),
    Change(
        "tokenize.shuffle_seed", setting("tokenize", shuffle_seed=2), ["tokenize", "data_card", *AFTER_TOKENS], False
    ),
]


def fingerprint(project: Project) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINT], cwd=project.folder, env=project.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Those that cost nothing are one run together, so that few of the others decide how long it takes.
@pytest.mark.parametrize("one_of", [8, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"])
def test_a_change_runs_the_stages_whose_bytes_it_can_change_and_no_other(
    copy_registered: Callable[[str], Project], capsys: pytest.CaptureFixture[str], one_of: int
) -> None:
    project = copy_registered("copy")
    before, seen = fingerprint(project), []
    free = [change for change in CHANGES if not change.runs and change.goes_on]
    tried = free + [change for change in CHANGES if change not in free][::one_of]
    # Those that cost nothing are made together: what costs nothing then is each of them.
    for changes in [free, *([change] for change in tried if change not in free)]:
        kept = {
            path: path.read_bytes()
            for path in [project.folder / "params.yaml", *(project.folder / "gpt").rglob("*.py")]
        }
        for change in changes:
            change.make(project)
        goes_on = changes[0].what not in OTHER_DATA and fingerprint(project) == before
        runs = [name for name in project.stages_run(project.run(*REPRO)) if name != "inputs"]
        seen += [(change.what, runs, goes_on) for change in changes]
        for path, content in kept.items():
            if path.read_bytes() != content:
                path.write_bytes(content)
        for folder in project.folder.glob("*.dist-info"):
            (folder / "METADATA").unlink()
            folder.rmdir()
    back = [name for name in project.stages_run(project.run(*REPRO)) if name != "inputs"]
    assert back == [], "all taken back, it is all in DVC's cache"
    with capsys.disabled():
        for what, runs, goes_on in seen:
            print(f"| {what} | {', '.join(runs) or 'none'} | {'goes on' if goes_on else 'begins anew'} |")
    assert sorted(seen) == sorted((change.what, change.runs, change.goes_on) for change in tried)


def test_a_changed_local_file_is_noticed(make_project: Callable[..., Project], tmp_path: Path) -> None:
    project = make_project()
    project.run(*REPRO, "fetch")
    text = tmp_path / "text.jsonl"
    with text.open("a", encoding="utf-8") as file:
        file.write('{"text": "another"}\n')
    output = project.run(*REPRO, exit_code=255)
    assert project.stages_run(output) == ["inputs", "fetch"]
    assert "fetch.sources made-up: sha256 is" in output
    assert f"({text})" in output
    assert "`gpt data hash made-up` writes it into params.yaml" in output
    project.run("gpt", "data", "hash", "made-up")
    project.run(*REPRO, "fetch")
    assert (project.folder / "data/raw/made-up/text.jsonl").read_bytes() == text.read_bytes()
