"""A project beside the installed package: a wheel in an environment of its own, and no `gpt/` in the project."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import git
from gpt.code import STAGES, stage_identity
from gpt.params.changes.lines import set_value
from tests import ROOT
from tests.projects.test_create import prose

pytestmark = pytest.mark.slow

SOURCES = (
    "gpt",
    "flows",
    "infra",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "params.yaml",
    "dvc.yaml",
    "prefect.yaml",
    ".dvc/config",
    *(f"finetuning/{name}" for name in ("spam.yaml", "chat.yaml", "dvc.yaml", ".gitignore")),
)
SMALL = {
    "train.max_steps": 20,
    "train.eval_interval": 10,
    "evaluate.max_new_tokens": 8,
    "register.gate.max_repetition": 1.0,  # of a model that has learned next to nothing
    "register.gate.max_bits_per_byte": 20.0,
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of an activated environment with our wheel; its other packages are those of the environment that tests run in."""
    folder = tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            without = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=without)
        else:
            shutil.copyfile(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(folder), "."]
    subprocess.run([*pip, *build], cwd=folder / "source", check=True)
    shutil.rmtree(folder / "source")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (own,) = (folder / "venv/lib").glob("python*/site-packages")
    (own / "others.pth").write_text(site.getsitepackages()[0] + "\n", encoding="utf-8")
    (wheel,) = folder.glob("*.whl")
    target = ["--python", str(folder / "venv/bin/python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *target], check=True)
    (folder / "gitconfig").write_text("[user]\n    name = Ada\n    email = ada@example.org\n", encoding="utf-8")
    without = ("PYTHONPATH", "VIRTUAL_ENV", "DVC_ROOT", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    return {name: value for name, value in os.environ.items() if name not in without} | {
        "VIRTUAL_ENV": str(folder / "venv"),
        "PATH": f"{folder / 'venv/bin'}{os.pathsep}{os.environ['PATH']}",
        "GPT_CACHE": str(folder / "cache"),
        "PREFECT_HOME": str(folder / "prefect"),
        "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
    }


def run(*command: str, cwd: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def site_packages(environment: dict[str, str]) -> Path:
    (own,) = Path(environment["VIRTUAL_ENV"], "lib").glob("python*/site-packages")
    return own


@pytest.fixture(scope="module")
def project(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of a small text, its model made and registered by the flow."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "wald.txt").write_text(prose(30_000), encoding="utf-8")
    run("gpt", "init", "wald", "--data", "wald.txt", "--template", "short", cwd=folder, environment=environment)
    project = folder / "wald"
    settings = (project / "params.yaml").read_text(encoding="utf-8")
    for key, value in SMALL.items():
        settings = set_value(settings, key, value)
    (project / "params.yaml").write_text(settings, encoding="utf-8")
    said = run("python", "-m", "flows.pretrain", cwd=project, environment=environment)
    assert "models:/wald/1 (alias challenger)" in said
    assert "python -m infra.ui" in said
    assert 'gpt generate "' in said
    return project


def test_the_code_that_counts_is_that_of_the_installed_package(project: Path, environment: dict[str, str]) -> None:
    assert not (project / "gpt").exists()
    assert run("python", "-c", "import gpt; print(gpt.__file__)", cwd=project, environment=environment).startswith(
        str(site_packages(environment))
    )
    for stage in STAGES:
        written = json.loads((project / f"data/inputs/{stage}.json").read_text(encoding="utf-8"))
        assert written["code"] == stage_identity(stage)["code"], "the same code has the same hashes, wherever it lies"


def test_nothing_runs_again_until_code_changes_that_computes(project: Path, environment: dict[str, str]) -> None:
    repro = ("python", "-m", "dvc", "repro")
    assert "Running stage 'pretrain'" not in run(*repro, cwd=project, environment=environment)
    module = site_packages(environment) / "gpt/training/steps/step.py"
    code = module.read_text(encoding="utf-8")
    try:
        module.write_text(code + "# a comment\n", encoding="utf-8")
        assert "Running stage 'pretrain'" not in run(*repro, cwd=project, environment=environment)
        module.write_text(code + "_ADDED = 1\n", encoding="utf-8")
        said = run(*repro, "--dry", cwd=project, environment=environment)
        run("gpt", "inputs", cwd=project, environment=environment)
        said = run(*repro, "--dry", cwd=project, environment=environment)
        assert re.findall(r"Running stage '(pretrain|tokenize|prepare)'", said) == ["pretrain"]
    finally:
        module.write_text(code, encoding="utf-8")
        run("gpt", "inputs", cwd=project, environment=environment)


def test_a_version_names_settings_by_the_commit_and_code_by_its_hash(
    project: Path, environment: dict[str, str]
) -> None:
    record = json.loads(run("gpt", "lineage", "models:/wald/1", "--json", cwd=project, environment=environment))
    assert record["code"]["commit"] == git.find_commit(project)
    assert record["code"]["dirty"], "params.yaml was edited after the commit, and the patch is kept"
    assert re.fullmatch(r"[0-9a-f]{64}", record["code"]["sha256"])


def test_it_is_promoted_and_writes_under_its_own_name(project: Path, environment: dict[str, str]) -> None:
    run("gpt", "promote", cwd=project, environment=environment)
    write = ("gpt", "generate", "Wald", "--model", "models:/wald@champion", "--max-new-tokens", "5")
    said = run(*write, cwd=project, environment=environment)
    assert said.startswith("Wald")
    assert "Everything that is needed is here." in run("gpt", "doctor", cwd=project, environment=environment)


def test_it_is_fine_tuned_on_examples_of_ones_own(project: Path, environment: dict[str, str]) -> None:
    rows = [{"question": f"wer ist {number}?", "answer": f"ich bin {number}"} for number in range(80)]
    (project / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = run("gpt", "finetune", "init", "talk", "--data", "talk.jsonl", cwd=project, environment=environment)
    assert "next      python -m flows.finetune talk" in said
    said = run("python", "-m", "flows.finetune", "talk", cwd=project, environment=environment)
    assert "models:/wald-talk/1" in said
    asked = ("gpt", "generate", "wer ist 7?", "--model", "finetuning/talk/model", "--max-new-tokens", "5")
    run(*asked, cwd=project, environment=environment)


def test_it_is_made_again_from_its_record(project: Path, environment: dict[str, str]) -> None:
    said = run("gpt", "reproduce", "models:/wald/1", cwd=project, environment=environment)
    assert "identical" in said
