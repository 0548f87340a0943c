"""`gpt compare`: experiments, revisions, the workspace, runs and versions, each found by its name in a repository and a store."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from flows.server import free_port
from gpt import paths
from gpt.commands.main import main
from gpt.evaluation.metrics import main_figures
from gpt.files import read_json, write_json
from gpt.params.project import load_params
from gpt.registry.package import register
from gpt.reports.side_by_side.compare import PAGE, PICTURE, RECORD
from gpt.tracking import store
from gpt.tracking.evaluation import log_evaluation
from gpt.tracking.pages.figures import name_figures
from tests.registry.conftest import built, change_params, make_model
from tests.reports.test_evaluation import Page
from tests.tracking.conftest import begin_tracking

__all__ = ["built"]
Evaluations = dict[str, dict[str, Any]]

EXPERIMENT = f"refs/exps/{'a' * 2}/{'b' * 38}/longer"
"As DVC names the commit of an experiment."


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def train(project: Path, steps: int, text: str) -> dict[str, Any]:
    """Leave what a run of the pipeline leaves: settings, model, curves, figures, samples, dvc.lock and DVC's cache of them."""
    change_params(project, {"train": {"max_steps": steps}})
    make_model(project, steps)
    paths.TRAINING_PLOT.parent.mkdir(exist_ok=True)
    rows = "".join(f"{step},{6 - step / 10}\n" for step in range(1, steps + 1))
    paths.TRAINING_PLOT.write_text(f"step,train_loss\n{rows}", encoding="utf-8")
    paths.VALIDATION_PLOT.write_text(
        f"step,validation_loss,validation_bits_per_byte\n2,5.5,7.5\n{steps},5.4,7.25\n", encoding="utf-8"
    )
    write_json(paths.SAMPLES, [{"prompt": "to be", "temperature": 0.0, "completion": text}])
    outs = []
    for path in (paths.EVALUATION, paths.SAMPLES):
        content = path.read_bytes()
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        kept = project / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        outs.append({"path": path.as_posix(), "md5": digest})
    settings = {"params.yaml": {"train.max_steps": steps}}
    lock = {"stages": {"pretrain": {"params": settings, "outs": []}, "evaluate": {"outs": outs}}}
    with Path("dvc.lock").open("w", encoding="utf-8") as file:
        YAML().dump(lock, file)
    return read_json(paths.EVALUATION, "")


@pytest.fixture(scope="session")
def made(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluations]:
    """Three models with different figures: of the commit HEAD, of the experiment `longer` and of the workspace. To copy."""
    folder = tmp_path_factory.mktemp("made") / "project"
    shutil.copytree(built, folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").touch()
    (folder / ".gitignore").write_text("/data/*/\n/models\n/reports\n/.dvc/cache\n/mlflow.db*\n/mlartifacts\n/spool\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        git("init", "-q")
        found = {"HEAD": train(folder, 5, " of the commit")}
        git("add", "-A")
        git("commit", "-qm", "begin")
        found["longer"] = train(folder, 8, " of the experiment")
        git("add", "-A")
        git("update-ref", EXPERIMENT, git("commit-tree", git("write-tree"), "-p", "HEAD", "-m", "an experiment"))
        found["workspace"] = train(folder, 3, " of the workspace")
    return folder, found


@pytest.fixture
def project(made: tuple[Path, Evaluations], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for one test alone; the current folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(made[0], tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def evaluations(made: tuple[Path, Evaluations], project: Path) -> Evaluations:
    """All figures of the three models."""
    return made[1]


def compare(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, Any]:
    """Return what `gpt compare --json` prints."""
    capsys.readouterr()
    assert main(["compare", *names, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_experiment_commit_and_workspace_stand_side_by_side_with_settings_figures_curves_and_samples(
    evaluations: Evaluations, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "longer", "HEAD", "workspace"]) == 0
    said = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in said if line}
    assert rows["longer"][0] == "experiment,"
    assert rows["HEAD"][0] == "commit"
    assert rows["train.max_steps"] == ["8", "5", "3"]
    bits = [f"{evaluations[name]['test']['bits_per_byte']:.4f}" for name in ("longer", "HEAD", "workspace")]
    assert len(set(bits)) == 3
    assert rows["test_bits_per_byte"] == ["lower", *bits, "longer"], "more steps predict better"
    assert said[-1] == "comparison: reports/compare/index.html"
    assert not [line for line in said if line.startswith(("longer: ", "HEAD: ", "workspace: "))], "nothing is missing"

    text = (paths.COMPARE / PAGE).read_text(encoding="utf-8")
    page = Page(text)
    assert page.row("train.max_steps") == ["8", "5", "3"]
    assert page.row("test_bits_per_byte")[1:] == [*bits, "longer"]
    assert page.row("temperature 0") == ["to be of the experiment", "to be of the commit", "to be of the workspace"]
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:|//)""", text), "it needs nothing else"
    curves = page.sections["Curves"]
    for name in ("longer", "HEAD", "workspace", "training loss (nats per token)", "bits per byte (validation)"):
        assert name in curves
    assert (paths.COMPARE / PICTURE).read_text(encoding="utf-8").startswith("<?xml")
    assert read_json(paths.COMPARE / RECORD, "") == compare(capsys, "longer", "HEAD", "workspace")


def test_figures_of_a_run_are_those_that_mlflow_shows_and_of_a_version_those_that_it_keeps(
    evaluations: Evaluations, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = load_params()
    tags = {"fingerprint": read_json(paths.RUN, "")["fingerprint"], "dvc.experiment": "gone"}
    dataset = {"name": "made-up", "digest": "0", "source": "{}", "profile": "{}", "tags": {}}
    with begin_tracking(params, None, tags, dataset) as tracker:
        for step in (1, 2, 3):
            tracker.log_metrics("train", step, {"train/loss": 6 - step / 10})
        tracker.log_metrics("validation", 3, {"validation/loss": 5.4, "validation/bits_per_byte": 7.25})
    log_evaluation(params, evaluations["workspace"])
    registered = register(params, project)
    client = MlflowClient(store.tracking_uri())
    run = client.get_run(registered.run_id)
    run_name = run.info.run_name or ""
    found = compare(capsys, run_name, registered.uri, f"@{registered.alias}", "workspace", "gone")
    assert found["settings"] == {}, "four names of one model"
    shown = {key: value for key, value in run.data.metrics.items() if "/" not in key}
    assert shown == name_figures(evaluations["workspace"])
    for name, value in shown.items():
        assert set(found["figures"][name]["values"].values()) == {value}
        assert found["figures"][name]["best"] is None
    assert [model["is"].split()[0] for model in found["models"]] == ["MLflow", "version", "version", "the", "MLflow"]
    assert [model["notes"] for model in found["models"]] == [[]] * 5
    by_id = compare(capsys, registered.run_id, "workspace")
    assert by_id["models"][0]["name"] == registered.run_id[:8]
    by_digits = compare(capsys, registered.run_id[:8], "workspace")
    assert by_digits == by_id, "as they are shown"


def test_without_dvcs_cache_main_figures_come_from_git_and_what_is_missing_is_told(
    evaluations: Evaluations, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(project / ".dvc/cache")
    found = compare(capsys, "HEAD", "workspace")
    figures = name_figures(main_figures(evaluations["HEAD"]))
    assert {
        name: each["values"]["HEAD"] for name, each in found["figures"].items() if each["values"]["HEAD"]
    } == figures
    (note,) = found["models"][0]["notes"]
    assert note.startswith(
        "main figures alone, and no samples: reports/evaluate.json and reports/samples.json are not in DVC's cache"
    )
    assert "dvc fetch --all-commits reports/evaluate.json reports/samples.json" in note
    assert found["models"][1]["notes"] == []


def test_a_commit_of_an_earlier_release_that_kept_all_figures_in_metrics_is_read(
    evaluations: Evaluations, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(paths.EVALUATION, paths.METRICS)
    write_json(paths.METRICS, read_json(paths.METRICS, "") | {"benchmarks": {}})
    lock = YAML(typ="safe").load(Path("dvc.lock").read_text(encoding="utf-8"))
    lock["stages"]["evaluate"]["outs"].pop(0)
    with Path("dvc.lock").open("w", encoding="utf-8") as file:
        YAML().dump(lock, file)
    git("add", "-A")
    git("commit", "-qm", "as it was")
    found = compare(capsys, "HEAD", "longer")
    assert found["figures"]["test_loss"]["values"]["HEAD"] == evaluations["workspace"]["test"]["loss"]
    assert found["models"][0]["notes"] == []


def test_figures_of_before_the_settings_are_told(
    evaluations: Evaluations, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_params(project, {"train": {"max_steps": 4}})
    (note,) = compare(capsys, "HEAD", "workspace")["models"][1]["notes"]
    assert (
        "its figures are of before its params.yaml: pretrain has not run with train.max_steps = 4 (ran with 3)" in note
    )
    Path("dvc.lock").unlink()
    (note,) = compare(capsys, "HEAD", "workspace")["models"][1]["notes"]
    assert "has no dvc.lock" in note


def test_a_model_that_was_neither_trained_nor_evaluated_is_shown_as_that(
    evaluations: Evaluations, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (paths.EVALUATION, paths.METRICS, paths.SAMPLES, paths.TRAINING_PLOT, paths.VALIDATION_PLOT):
        path.unlink()
    found = compare(capsys, "HEAD", "workspace")
    assert found["models"][1]["notes"][-2:] == ["no figures: it was not evaluated", "no curves"]
    assert found["figures"]["test_bits_per_byte"]["values"]["workspace"] is None


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "one": (("HEAD",), r"HEAD: alone compares with nothing; name another, as in `gpt compare HEAD workspace`"),
    "twice": (("HEAD", "HEAD"), "HEAD: is named twice"),
    "nearly": (("HEAD", "longr"), r"longr: no experiment of DVC, git revision or MLflow run .* did you mean longer\?"),
    "nothing like it": (("HEAD", "zzz"), r"zzz: .*; there are longer, main, "),
    "no run": (("HEAD", "runs:/longr"), r"runs:/longr: no such run in sqlite"),
    "no version": (("HEAD", "models:/none/1"), r"models:/none/1: not in sqlite"),
    "an option": (("HEAD", "--output=x"), r"--output"),
    "a file": (("HEAD", "HEAD:params.yaml"), r"HEAD:params\.yaml: no experiment of DVC"),
}


@pytest.mark.parametrize(("names", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_compared_is_one_error_and_the_last_comparison_stays(
    evaluations: Evaluations, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], message: str
) -> None:
    paths.COMPARE.mkdir(parents=True)
    (paths.COMPARE / PAGE).write_text("the last one")
    assert main(["compare", *names]) == 2
    error = capsys.readouterr().err
    assert re.match(f"error: .*{message}", error), error
    assert error.count("\n") == 1
    assert (paths.COMPARE / PAGE).read_text() == "the last one"


def test_the_champion_is_offered_where_there_is_one(
    evaluations: Evaluations, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> str:
        assert main(["compare", "HEAD", "champio"]) == 2
        return capsys.readouterr().err

    assert "@champion" not in refused()
    name, client = load_params().register_.name, MlflowClient(store.tracking_uri())
    client.create_registered_model(name)
    client.create_model_version(name, source=str(project / paths.BASE_MODEL))
    assert "@champion" not in refused()
    client.set_registered_model_alias(name, "champion", "1")
    assert "did you mean @champion?" in refused()


def test_a_secret_in_a_setting_of_a_commit_is_shown_nowhere(
    evaluations: Evaluations, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    change_params(project, {"prepare": {"read": {"text_field": "x"}}})
    changed = (
        Path("params.yaml").read_text(encoding="utf-8").replace("text_field: x", "text_field: https://me:s3cr3t@host/a")
    )
    Path("params.yaml").write_text(changed, encoding="utf-8")
    git("commit", "-qam", "a mistake")
    Path("params.yaml").write_text(text, encoding="utf-8")
    assert main(["compare", "HEAD", "workspace"]) == 0
    said = capsys.readouterr().out
    assert "https://me:***@host/a" in said
    written = "".join(path.read_text(encoding="utf-8") for path in paths.COMPARE.iterdir())
    assert "s3cr3t" not in said + written


def test_without_mlflow_revisions_compare_and_an_unknown_name_says_that_it_was_not_asked(
    evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert compare(capsys, "HEAD", "longer")["models"][0]["notes"] == []
    assert main(["compare", "HEAD", "longr"]) == 2
    assert re.search(
        r"longr: .*\(MLflow was not asked: .*cannot be reached.*\); did you mean longer\?", capsys.readouterr().err
    )
