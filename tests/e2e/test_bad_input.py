"""Whatever is wrong: one clear error, exit code 2, no traceback, and what earlier runs wrote stays as it was.

Wrong settings run as `python -m gpt` in a process of their own. Damaged inputs run through the same `main` in this
process, because several stages import torch, which takes seconds a process.
"""

import hashlib
import json
import logging
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.commands.main import main
from gpt.files import sha256_file, write_json
from gpt.params.tokens import Tokenizer
from gpt.tokens.tokenizer import build_tokenizer
from tests import ROOT
from tests.conftest import Change, small_change, write_params

OUTPUTS = ("data", "models", "metrics", "plots", "reports")
Damage = Callable[[], Any]


@pytest.fixture
def project(
    trained_project: Path, copy_project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A project in which every stage has run; the current folder."""
    folder = copy_project(trained_project)
    (folder / "reports" / "evaluate").mkdir(parents=True)
    (folder / "reports" / "evaluate" / "index.html").write_text("of an earlier run")
    (folder / "reports" / "evaluate.json").write_text('{"of": "an earlier run"}')
    (folder / "metrics").mkdir()
    (folder / "metrics" / "evaluate.json").write_text('{"of": "an earlier run"}')
    monkeypatch.setenv("GPT_CACHE", str(tmp_path / "cache"))
    yield folder
    logging.captureWarnings(False)  # `main` turned it on


def state(folder: Path) -> dict[str, str]:
    """Return every path below the outputs with its hash, temporary and hidden ones too.

    But for the folder in which a data stage keeps what it has done for the next run.
    """
    found = {}
    for output in OUTPUTS:
        top = folder / output
        for path in (top, *top.rglob("*")) if top.exists() else ():
            if re.search(r"/\.\w+\.(work|encoded)", str(path)):
                continue
            found[str(path.relative_to(folder))] = sha256_file(path) if path.is_file() else "folder"
    return found


def check(code: int, errors: str, output: str, keyword: str) -> None:
    lines = errors.splitlines()
    assert code == 2, errors
    assert lines, "an error says something"
    assert all(line.startswith("error: ") for line in lines), errors
    assert "Traceback" not in errors + output
    assert re.search(keyword, errors), errors


def run_apart(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gpt", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


# Wrong settings


def change(**sections: dict[str, object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        merged: Change = small_change(folder / "text.jsonl")
        for section, keys in sections.items():
            merged[section] = merged.get(section, {}) | keys
        write_params(folder, merged)

    return apply


def edit(pattern: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "params.yaml"
        text, count = re.subn(pattern, new, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 1
        path.write_text(text, encoding="utf-8")

    return apply


def write(data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "params.yaml").write_bytes(data)


def make_params_a_folder(folder: Path) -> None:
    (folder / "params.yaml").unlink()
    (folder / "params.yaml").mkdir()


SOURCE = {"name": "a", "kind": "local", "path": "text.jsonl", "sha256": "0" * 64, "licence": "none"}
WRONG_PARAMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unknown key": (change(train={"lerning_rate": 1e-3}), r"params\.yaml: train\.lerning_rate = 0\.001 is not a known"),
    "unknown section": (lambda folder: (folder / "params.yaml").open("a").write("\nfinetune: {}\n"), "finetune"),
    "missing key": (edit(r"^  n_layer: .*\n", ""), r"params\.yaml: model\.n_layer is missing"),
    "negative size": (change(model={"n_embd": -64}), r"params\.yaml: model\.n_embd = -64: .*greater than"),
    "zero steps": (change(train={"max_steps": 0}), r"train: max_steps = 0: a model from scratch"),
    "a word for a number": (change(model={"n_layer": "four"}), r"model\.n_layer = 'four'"),
    "a fraction for a count": (change(train={"batch_size": 8.5}), r"train\.batch_size = 8\.5"),
    "a number for a choice": (change(model={"bias": 1}), r"model\.bias = 1"),
    "not a number": (edit(r"^  learning_rate: \S+", "  learning_rate: .nan"), r"train\.learning_rate = nan"),
    "heads that do not divide": (
        change(model={"n_head": 3}),
        r"model: n_embd \(16\) must be divisible by n_head \(3\)",
    ),
    "dropout of all": (change(model={"dropout": 1.0}), r"model\.dropout = 1\.0"),
    "a rate that rises": (change(train={"min_lr": 0.1}), r"train: min_lr \(0\.1\) must not exceed learning_rate"),
    "nothing to train on": (change(prepare={"test_fraction": 0.9}), r"prepare: .*sum < 1"),
    "unknown tokenizer": (change(tokenizer={"kind": "words"}), r"tokenizer\.kind = 'words'"),
    "a vocabulary below the bytes": (change(tokenizer={"vocab_size": 100}), r"tokenizer\.vocab_size = 100"),
    "GPT-2 of another size": (change(tokenizer={"kind": "gpt2"}), "vocab_size of kind gpt2 is 50257"),
    "processes that do not divide": (change(launch={"num_processes": 3}), r"train\.batch_size \(8\) must be divisible"),
    "micro-batch that does not divide": (change(launch={"micro_batch_size": 5}), r"train\.batch_size \(8\) must be"),
    "unknown strategy": (change(launch={"strategy": "zero"}), r"launch\.strategy = 'zero'"),
    "no sources": (change(fetch={"sources": []}), r"fetch\.sources = \[\]"),
    "unknown kind of source": (
        change(fetch={"sources": [SOURCE | {"kind": "ftp"}]}),
        r"fetch\.sources\.0\.kind = 'ftp'",
    ),
    "a hash that is none": (change(fetch={"sources": [SOURCE | {"sha256": "abc"}]}), r"fetch\.sources\.0\.sha256"),
    "a source's name that is a path": (change(fetch={"sources": [SOURCE | {"name": "../a"}]}), r"sources\.0\.name"),
    "a key given twice": (edit("^  n_layer:", "  n_layer: 2\n  n_layer:"), "not valid YAML.*duplicate key"),
    "broken YAML": (write(b"base: {name: [\n"), r"params\.yaml: not valid YAML"),
    "not UTF-8": (write(b"base: \xff\xfe\n"), r"params\.yaml: not valid YAML"),
    "an empty file": (write(b""), r"params\.yaml: the file = None"),
    "no file": (lambda folder: (folder / "params.yaml").unlink(), r"params\.yaml: not found"),
    "a folder in its place": (make_params_a_folder, r"params\.yaml: is a folder"),
}
# One process each: the stages that import nothing large before they have looked at params.yaml.
STAGES = ("fetch", "prepare", "tokenizer", "tokenize", "evaluate")


@pytest.mark.parametrize(
    ("stage", "spoil", "keyword"),
    [(STAGES[number % len(STAGES)], *case) for number, case in enumerate(WRONG_PARAMS.values())],
    ids=WRONG_PARAMS,
)
def test_a_wrong_setting_is_one_clear_error(
    project: Path, stage: str, spoil: Callable[[Path], Any], keyword: str
) -> None:
    before = state(project)
    spoil(project)
    result = run_apart(project, stage)
    check(result.returncode, result.stderr, result.stdout, keyword)
    assert len(result.stderr.splitlines()) == 1
    assert state(project) == before


def test_every_wrong_setting_is_named_at_once(project: Path) -> None:
    change(train={"max_steps": -1}, model={"n_layers": 3, "dropout": 2})(project)
    result = run_apart(project, "prepare")
    check(result.returncode, result.stderr, result.stdout, r"train\.max_steps")
    assert len(result.stderr.splitlines()) == 3


# Damaged inputs


def remove(path: Path | str) -> Damage:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def cut(path: Path) -> Damage:
    return lambda: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> Damage:
    def apply() -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return apply


def raw(name: str, data: bytes) -> Damage:
    """Let fetch have brought this file."""

    def apply() -> None:
        shutil.rmtree(paths.RAW)
        (paths.RAW / "made-up").mkdir(parents=True)
        (paths.RAW / "made-up" / name).write_bytes(data)
        write_json(paths.RAW / "sources.json", [{"name": "made-up", "files": {name: {}}}])

    return apply


def params(**sections: dict[str, object]) -> Damage:
    return lambda: change(**sections)(Path.cwd())


def source(**values: object) -> Damage:
    return params(fetch={"sources": [{"name": "a", "licence": "none", "sha256": "0" * 64} | values]})


def unreachable() -> None:
    with socket.socket() as listener:  # a port that nobody listens on
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    source(kind="url", url=f"http://127.0.0.1:{port}/a.txt", members=[])()


def no_archive() -> None:
    Path("a.zip").write_bytes(b"no zip")
    url, digest = Path("a.zip").resolve().as_uri(), hashlib.sha256(b"no zip").hexdigest()
    source(kind="url", url=url, sha256=digest, members=["*.txt"])()


def other_tokenizer(folder: Path) -> Damage:
    def apply() -> None:
        shutil.rmtree(folder)
        build_tokenizer(Tokenizer(kind="char", vocab_size=400, train_bytes=10**9, special_tokens=()), ["äöü"], folder)

    return apply


def change_config(**values: object) -> Damage:
    path = paths.BASE_MODEL / "config.json"
    return lambda: write_json(path, json.loads(path.read_text()) | values)


def replace_by_file(path: str) -> Damage:
    def apply() -> None:
        if Path(path).exists():
            shutil.rmtree(path)
        Path(path).write_text("in the way")

    return apply


def replace_by_folder(path: Path) -> Damage:
    def apply() -> None:
        path.unlink()
        path.mkdir()

    return apply


DAMAGED: dict[str, tuple[str, Damage, str]] = {
    "fetch: wrong hash": ("fetch", source(kind="local", path="text.jsonl"), "sha256 is 0{64}, but what came has "),
    "fetch: no such file": ("fetch", source(kind="local", path="gone"), "gone not found"),
    "fetch: unreachable": ("fetch", unreachable, r"cannot read http://127\.0\.0\.1"),
    "fetch: no archive": ("fetch", no_archive, "not a readable zip or tar archive"),
    "fetch: unwritable": ("fetch", replace_by_file("data"), "data"),
    "prepare: nothing fetched": ("prepare", remove(paths.RAW), r"sources\.json: not found; run `gpt fetch`"),
    "prepare: a raw file is gone": (
        "prepare",
        remove("data/raw/made-up/text.jsonl"),
        r"text\.jsonl: cannot be read \(No such",
    ),
    "prepare: empty corpus": ("prepare", raw("a.txt", b" \n"), "holds no document with text"),
    "prepare: binary": ("prepare", raw("a.txt", bytes(range(256))), r"made-up/a\.txt: not UTF-8 text \(byte 128\)"),
    "prepare: NUL": ("prepare", raw("a.txt", b"a\0b"), r"made-up/a\.txt: document 1: holds NUL"),
    "prepare: bad JSONL": ("prepare", raw("a.jsonl", b'{"text": "a"}\n{"text'), r"a\.jsonl: line 2: not valid JSON"),
    "prepare: another field": ("prepare", raw("a.jsonl", b'{"body": "a"}\n'), r"a\.jsonl: line 1: has no text field"),
    "prepare: no Parquet": ("prepare", raw("a.parquet", b"PAR1 not"), r"a\.parquet: the Parquet file breaks off"),
    "prepare: one document": ("prepare", raw("a.txt", b"a"), r"there is one document.*prepare\.read\.separator"),
    "prepare: unwritable counts": ("prepare", replace_by_folder(paths.PREPARE_COUNTS), r"prepare\.json"),
    "tokenizer: no documents": ("tokenizer", remove(paths.DOCUMENTS), r"documents\.json: not found; run `gpt prepare`"),
    "tokenizer: damaged": ("tokenizer", cut(paths.DOCUMENTS / "train_00000.jsonl"), r"train_00000\.jsonl: SHA-256 is "),
    "tokenizer: too little text": (
        "tokenizer",
        params(tokenizer={"kind": "bpe", "vocab_size": 50_000}),
        r"params\.yaml: tokenizer\.vocab_size = 50000",
    ),
    "tokenizer: unwritable": ("tokenizer", replace_by_file("models"), "models"),
    "tokenize: no tokenizer": ("tokenize", remove(paths.TOKENIZER), r"tokenizer\.json: not found; run `gpt tokenizer`"),
    "tokenize: damaged tokenizer": ("tokenize", flip(paths.TOKENIZER / "ranks.tiktoken"), r"ranks\.tiktoken: damaged"),
    "tokenize: no documents": ("tokenize", remove(paths.DOCUMENTS), r"documents\.json: not found; run `gpt prepare`"),
    "tokenize: changed documents": (
        "tokenize",
        flip(paths.DOCUMENTS / "test_00000.jsonl"),
        r"test_00000\.jsonl: SHA-256 is ",
    ),
    "pretrain: strategy": (
        "pretrain",
        params(launch={"strategy": "fsdp"}, train={"precision": "fp16"}),
        r"with launch.strategy = 'fsdp'",
    ),
    "pretrain: machines": ("pretrain", params(launch={"num_machines": 2, "micro_batch_size": 4}), "GPT_RENDEZVOUS"),
    "pretrain: no tokens": ("pretrain", remove(paths.TOKENS), r"index\.json: not found; run `gpt tokenize`"),
    "pretrain: no tokenizer": ("pretrain", remove(paths.TOKENIZER), r"tokenizer\.json: not found"),
    "pretrain: truncated shard": ("pretrain", cut(paths.TOKENS / "train_00000.bin"), r"train_00000\.bin: "),
    "pretrain: changed shard": ("pretrain", flip(paths.TOKENS / "validation_00000.bin"), r"validation_00000\.bin: SHA"),
    "pretrain: another tokenizer": ("pretrain", other_tokenizer(paths.TOKENIZER), "made by another tokenizer"),
    "pretrain: too few tokens": ("pretrain", params(model={"block_size": 100_000}), r"model\.block_size = 100000"),
    "evaluate: no model": ("evaluate", remove(paths.BASE_MODEL), r"config\.json: not found; run `gpt pretrain`"),
    "evaluate: cut weights": ("evaluate", cut(paths.BASE_MODEL / "model.safetensors"), r"model\.safetensors: damaged"),
    "evaluate: another width": ("evaluate", change_config(n_embd=32), r"model\.safetensors: damaged or not of this"),
    "evaluate: a broken config": ("evaluate", cut(paths.BASE_MODEL / "config.json"), r"config\.json: not valid JSON"),
    "evaluate: vocabulary": ("evaluate", other_tokenizer(paths.BASE_MODEL / "tokenizer"), "has vocab_size 258"),
    "evaluate: no documents": ("evaluate", remove(paths.DOCUMENTS), r"documents\.json: not found; run `gpt prepare`"),
    "evaluate: cut documents": ("evaluate", cut(paths.DOCUMENTS / "test_00000.jsonl"), r"test_00000\.jsonl: "),
    "evaluate: changed documents": ("evaluate", flip(paths.DOCUMENTS / "test_00000.jsonl"), r"test_00000\.jsonl: "),
    "evaluate: a benchmark that prepare did not see": (
        "evaluate",
        params(evaluate={"benchmarks": ["lambada"]}),
        r"report\.json: does not say what training documents have of lambada; run `dvc repro prepare`",
    ),
    "report: no figures": ("report", remove(paths.EVALUATION), r"evaluate\.json: not found; run `gpt evaluate`"),
    "report: other figures": ("report", lambda: None, r"evaluate\.json: has no validation"),  # of an earlier run
    "data-card: no report": ("data-card", remove(paths.DOCUMENTS), r"report\.json: not found; run `gpt prepare`"),
    "evaluate: unwritable metrics": ("evaluate", replace_by_file("metrics"), "metrics"),
    "generate: no model": ("generate", remove(paths.BASE_MODEL), r"config\.json: not found"),
    "generate: cut weights": ("generate", cut(paths.BASE_MODEL / "model.safetensors"), "damaged"),
}


@pytest.mark.parametrize(("stage", "damage", "keyword"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_input_is_one_clear_error(
    project: Path, capsys: pytest.CaptureFixture[str], stage: str, damage: Damage, keyword: str
) -> None:
    damage()
    before = state(project)
    code = main([stage, "To be"] if stage == "generate" else [stage])
    output, errors = capsys.readouterr()
    check(code, errors, output, keyword)
    assert state(project) == before


@contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """No file can grow beyond this: the kernel refuses the write as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stage", ["fetch", "prepare", "tokenizer", "tokenize", "evaluate"])
def test_a_full_disk_is_one_clear_error(project: Path, capsys: pytest.CaptureFixture[str], stage: str) -> None:
    before = state(project)
    with full_disk(room_bytes=100):
        code = main([stage])
    output, errors = capsys.readouterr()
    check(code, errors, output, "File too large.*make room")
    assert state(project) == before
    assert main([stage]) == 0  # and with room it goes on
    assert not list((project / "data").glob(".*.work"))


def test_help_imports_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gpt", "--help"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "click" in imported
    assert not imported & {"torch", "numpy", "pydantic", "mlflow", "prefect", "tiktoken", "fsspec", "ruamel", "dvc"}
    assert "pretrain" in result.stdout
