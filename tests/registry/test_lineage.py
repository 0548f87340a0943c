import hashlib
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gpt import paths
from gpt.commands.main import main
from gpt.errors import UserError
from gpt.files import read_json, write_json
from gpt.params.project import Params, load_params
from gpt.registry.git import read_code
from gpt.registry.lineage import PATCH, collect, params_hash
from gpt.registry.package import register
from gpt.tracking import store


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(project: Path) -> Path:
    """The project as a git repository with one commit, its code in gpt/ and its generated files tracked as DVC does."""
    (project / "gpt").mkdir()
    (project / "gpt/model.py").write_text("layers = 2\n")
    (project / ".gitignore").write_text("/data/*/\n/models\n/mlflow.db*\n/mlartifacts\n__pycache__/\n")
    (project / "dvc.lock").write_text("stages: {}\n")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "begin")
    return project


def test_clean_checkout_is_its_commit(repository: Path) -> None:
    code = read_code(repository)
    assert code.commit == git(repository, "rev-parse", "HEAD")
    assert not code.dirty


def test_generated_and_ignored_files_make_nothing_dirty(repository: Path) -> None:
    (repository / "dvc.lock").write_text("stages: {a: b}\n")
    assert git(repository, "ls-files", str(paths.METRICS)), "it is tracked"
    (repository / paths.METRICS).write_text("{}")
    (repository / "gpt/__pycache__").mkdir()
    (repository / "gpt/__pycache__/model.pyc").write_bytes(b"x")
    (repository / "notes.txt").write_text("untracked, and no code")
    assert not read_code(repository).dirty


def test_patch_makes_the_commit_what_lies_in_the_folder(repository: Path, tmp_path: Path) -> None:
    (repository / "gpt/model.py").write_text("layers = 3\n")
    (repository / "gpt/new file.py").write_text("heads = 4\n")
    (repository / "gpt/table.bin").write_bytes(bytes(range(256)))
    (repository / "params.yaml").write_text((repository / "params.yaml").read_text() + "# a remark\n")
    git(repository, "add", "gpt/table.bin")
    before = git(repository, "status", "--porcelain")
    code = read_code(repository)
    assert code.dirty
    assert git(repository, "status", "--porcelain") == before, "the user's index is left alone"
    clone = tmp_path / "clone"
    git(tmp_path, "clone", str(repository), str(clone))
    subprocess.run(["git", "apply", "--binary"], cwd=clone, input=code.patch, check=True)
    for name in ("gpt/model.py", "gpt/new file.py", "gpt/table.bin", "params.yaml"):
        assert (clone / name).read_bytes() == (repository / name).read_bytes()


def test_dirty_version_says_so_and_keeps_its_patch_and_gives_way_to_a_clean_one(
    repository: Path, params: Params
) -> None:
    client = store.client()
    (repository / "gpt/model.py").write_text("layers = 3\n")
    dirty = register(params, repository)
    tags = client.get_model_version(dirty.name, "1").tags
    assert tags["git_dirty"] == "true"
    path = tags["lineage"].partition(f"{dirty.run_id}/")[2]
    patch = Path(client.download_artifacts(dirty.run_id, f"{path}/{PATCH}")).read_bytes()
    assert patch == read_code(repository).patch
    git(repository, "commit", "-am", "three layers")
    clean = register(params, repository)
    assert (clean.version, clean.new) == (2, True)
    assert client.get_model_version(clean.name, "2").tags["git_commit"] == git(repository, "rev-parse", "HEAD")
    (repository / "gpt/model.py").write_text("layers = 4\n")
    assert register(params, repository).version == 2, "the clean one is still the better record of this model"


def test_without_a_repository_or_a_commit_the_commit_is_none(project: Path) -> None:
    assert collect(project).tags()["git_commit"] == "none"
    git(project, "init")
    (project / "gpt").mkdir()
    (project / "gpt/model.py").write_text("layers = 2\n")
    code = read_code(project)
    assert (code.commit, code.dirty) == ("none", True)


def test_a_repository_that_git_refuses_is_an_error_not_a_none(repository: Path) -> None:
    (repository / ".git/config").write_text("[broken\n")
    with pytest.raises(UserError, match=r"git cannot read this repository \(bad config line 1"):
        read_code(repository)


def test_params_hash_ignores_launch_order_and_comments(project: Path) -> None:
    file = project / "params.yaml"
    before = params_hash(load_params(file))
    yaml = YAML(typ="safe")
    values = yaml.load(file.read_text())
    values["launch"]["micro_batch_size"] = 4
    yaml.dump(dict(reversed(values.items())), file)
    assert params_hash(load_params(file)) == before
    values["train"]["max_steps"] += 1
    yaml.dump(values, file)
    assert params_hash(load_params(file)) != before


def test_params_hash_ignores_licences(project: Path) -> None:
    params = load_params(project / "params.yaml")
    (source,) = params.fetch.sources
    fetch = params.fetch.model_copy(update={"sources": (source.model_copy(update={"licence": "CC0-1.0"}),)})
    assert params_hash(params.model_copy(update={"fetch": fetch})) == params_hash(params)
    fetch = params.fetch.model_copy(update={"sources": (source.model_copy(update={"sha256": "0" * 64}),)})
    assert params_hash(params.model_copy(update={"fetch": fetch})) != params_hash(params)


def write_lock(project: Path, **train: object) -> None:
    """A dvc.lock as DVC writes it for this project's evaluation and params."""
    evaluation = (project / paths.EVALUATION).read_bytes()
    out = {"path": "reports/evaluate.json", "hash": "md5", "md5": hashlib.md5(evaluation).hexdigest()}
    settings = YAML(typ="safe").load((project / "params.yaml").read_text())
    made_with = {"base.seed": settings["base"]["seed"], "train": settings["train"] | train}
    stages = {
        "pretrain": {"cmd": "gpt pretrain", "params": {"params.yaml": made_with}},
        "evaluate": {"cmd": "gpt evaluate", "outs": [{"path": "reports/evaluate", "md5": "0.dir"}, out]},
    }
    YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, project / "dvc.lock")


def test_lock_of_this_evaluation_matches_and_another_does_not(project: Path) -> None:
    write_lock(project)
    assert collect(project).dvc_lock_matches
    (project / paths.EVALUATION).write_text((project / paths.EVALUATION).read_text() + "\n")
    assert not collect(project).dvc_lock_matches


def test_params_that_are_not_those_of_the_lock_are_refused(project: Path) -> None:
    write_lock(project, max_steps=31)
    with pytest.raises(UserError, match="train is not what the model was made with"):
        collect(project)


def test_a_broken_lock_is_an_error(project: Path) -> None:
    (project / "dvc.lock").write_text("stages: [\n")
    with pytest.raises(UserError, match=r"dvc.lock: not valid YAML"):
        collect(project)


def test_a_version_and_its_lineage_say_what_was_contaminated(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / paths.DOCUMENTS / "report.json"
    report = read_json(path, "")
    report["counts"]["contamination"] = {"piqa": {"items": 9, "touched": 2, "unprotected": 1}}
    write_json(path, report)
    model = register(params, project)
    tags = store.client().get_model_version(model.name, str(model.version)).tags
    assert tags["contaminated_items"] == "piqa 2/9; benchmarks cut, held_out cut"
    assert main(["lineage", model.uri]) == 0
    assert "contaminated: piqa 2/9; benchmarks cut, held_out cut" in capsys.readouterr().out
    path.unlink()
    assert collect(project).contaminated_items == "none"
