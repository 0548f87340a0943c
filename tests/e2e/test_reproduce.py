"""`gpt reproduce`: a registered version is made again from its record, on made-up text, and compared byte for byte."""

import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE_SECONDS, Project, register
from tests.e2e.test_changes import append, installed, replace
from tests.remaking import VERSION, kill_tree, start, state, tags

pytestmark = pytest.mark.slow

TEXT, RAW = "text.jsonl", "data/raw/made-up/text.jsonl"
LONG = {"max_steps": 600, "eval_interval": 150, "checkpoint_interval": 50, "sample_interval": 600, "log_interval": 50}
RATE = "    return settings.min_lr + (peak - settings.min_lr) * left\n"
OTHER_RATE = "    return settings.min_lr + (peak - settings.min_lr) * left * (1.5 if step > 20 else 1)\n"
SAME = f"{VERSION}: settings, sources, code and packages are those of its record"


@pytest.fixture
def project(copy_registered: Callable[[str], Project]) -> Project:
    return copy_registered("copy")


def made_again(project: Project, version: int = 1) -> str:
    """Make a version again, which must come out the same; return what was said."""
    uri = f"models:/shakespeare-gpt/{version}"
    said = project.run("gpt", "reproduce", uri)
    assert f"{uri}: identical, weights " in said, said
    return said


def place(project: Project) -> Path:
    (folder,) = (project.folder / ".dvc/tmp/reproduce").glob("*/")
    return folder


def cached(project: Project, digest: str) -> Path:
    """Where the project's DVC cache keeps a hash."""
    return project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def test_stopped_and_killed_on_the_way_it_goes_on_to_the_same_bytes_and_leaves_the_project_as_it_was(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(train=LONG)
    register(project)
    before = state(project)
    stopped = start(project, "step 150: validation")
    stopped.terminate()
    said, _ = stopped.communicate(timeout=PATIENCE_SECONDS)
    assert stopped.returncode == 128 + signal.SIGTERM, said
    assert "run `gpt reproduce` again to go on" in said
    kill_tree(start(project, "step 300: validation"))
    killed = start(project, "step 450: validation")
    killed.kill()  # and what it has started is left behind
    killed.communicate()
    second = start(project, "goes on in")
    assert "is being reproduced already" in project.run("gpt", "reproduce", VERSION, exit_code=2)
    output, _ = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, output
    assert "Stage 'prepare' didn't change, skipping" in output
    assert "step 300: validation" not in output, "training goes on from its checkpoint"
    assert f"{VERSION}: identical, weights {tags(project)['weights_sha256']}" in output
    assert tags(project)["reproduced"].endswith(f"identical, weights {tags(project)['weights_sha256']}")
    assert state(project) == before
    assert not list((project.folder / ".dvc/tmp/reproduce").glob("*/"))


def test_what_changed_since_is_named_and_a_version_is_made_without_it(project: Project) -> None:
    assert project.run("gpt", "reproduce", VERSION, "--compare").splitlines()[-1] == SAME
    append("docs/architecture.md", "More.\n")(project)
    append("tests/conftest.py", "\n")(project)
    said = project.run("gpt", "reproduce", VERSION, "--compare")
    assert said.splitlines() == [
        SAME,
        "changed since, and decides no byte of the model:",
        "  docs/architecture.md",
        "  tests/conftest.py",
    ]
    text = project.folder.parent / TEXT
    text.write_bytes(text.read_bytes().replace(b"queen", b"qveen", 1))
    project.change(train={"learning_rate": 0.02})
    replace("gpt/training/steps/optimizer.py", RATE, OTHER_RATE)(project)
    installed("ftfy", "99.0")(project)
    said = project.run("gpt", "reproduce", VERSION, "--compare", exit_code=1)
    assert f"../{TEXT} had sha256" in said
    assert "params.yaml: train.learning_rate was 0.01, is 0.02" in said
    assert "gpt/training/steps/optimizer.py: computes otherwise" in said
    assert "package ftfy: was 6." in said and "is 99.0" in said
    assert len(said.splitlines()) == 9, (
        "version of ftfy, which prepare computes with, texts and tests, and nothing else"
    )
    said = project.run("gpt", "reproduce", VERSION, "--keep")
    assert "gpt/training/steps/optimizer.py: computes otherwise" in said
    assert f"{VERSION}: identical" in said
    assert (place(project) / "code/models/base/model.safetensors").read_bytes() == project.weights()


@pytest.mark.long
def test_data_that_the_cache_lacks_come_from_the_remote_and_without_one_are_fetched_anew(project: Project) -> None:
    text, aside = project.folder.parent / TEXT, project.folder.parent / "aside.jsonl"
    project.run("dvc", "remote", "add", "--local", "-d", "storage", "../a storage")
    project.run("dvc", "push")
    shutil.rmtree(project.folder / ".dvc/cache")
    text.rename(aside)
    assert "data/raw: from DVC's remote" in made_again(project)

    project.run("dvc", "remote", "remove", "--local", "storage")
    shutil.rmtree(project.folder / ".dvc/cache")
    aside.rename(text)
    said = made_again(project)
    assert "data/raw: from DVC's" not in said
    assert "Running stage 'fetch'" in said


@pytest.mark.long
def test_a_byte_that_is_another_one_in_dvcs_cache_is_noticed_named_and_brought_anew(project: Project) -> None:
    # Where project and cache share files by links, whoever changes one has changed the other.
    text = project.folder.parent / TEXT
    (entry,) = [path for path in (project.folder / ".dvc/cache").rglob("*") if path.is_file() and _is(path, text)]
    damage(entry)
    damage(project.folder / RAW)
    said = made_again(project)
    assert f"  {RAW}: md5 was " in said, "in the project"
    assert f"{RAW}: DVC's cache holds other bytes than were recorded (md5 was " in said
    assert "Running stage 'fetch'" in said
    assert _is(entry, text), "the cache is whole again"


@pytest.mark.long
def test_a_source_whose_bytes_of_then_nobody_has_is_what_differs_first(project: Project) -> None:
    text = project.folder.parent / TEXT
    cached(project, project.locked_outputs()["data/raw"]).unlink()
    damage(text)
    said = project.run("gpt", "reproduce", VERSION, exit_code=1)
    assert f"{VERSION}: differs, first in: sources" in said
    assert "fetch.sources made-up: sha256 is" in said
    text.unlink()
    said = project.run("gpt", "reproduce", VERSION, exit_code=2)
    assert f"{TEXT} not found" in said
    assert "Traceback" not in said


def _is(path: Path, other: Path) -> bool:
    return path.read_bytes() == other.read_bytes()


def damage(path: Path) -> None:
    """Change a byte, and leave size and mode as they are."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"queen", b"qveen", 1))
    path.chmod(mode)


@pytest.mark.long
def test_other_code_is_told_by_the_step_from_which_the_loss_departs(project: Project) -> None:
    kill_tree(start(project, "Running stage 'prepare'"))
    code = Project(place(project) / "code", project.environment)
    replace("gpt/training/steps/optimizer.py", RATE, OTHER_RATE)(code)
    said = project.run("gpt", "reproduce", VERSION, exit_code=1)
    assert f"{VERSION}: differs, first in: weights" in said
    assert "the runs part between step 20 and step 24: train_loss was" in said
    assert "gpt/training/steps/optimizer.py: computes otherwise" in said
    assert "differs, first in: weights" in tags(project)["reproduced"]
    made_again(project)  # the next attempt begins anew
    assert len([name for name in tags(project) if name.startswith("reproduced.")]) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("section", "key", "value", "first"),
    [
        ("train", "learning_rate", 0.02, "weights"),
        ("evaluate", "max_new_tokens", 9, "reports/samples.json; the weights are identical"),
    ],
)
def test_another_setting_of_the_run_itself_is_named(
    project: Project, section: str, key: str, value: object, first: str
) -> None:
    kill_tree(start(project, "Running stage 'prepare'"))
    before = project.params()[section][key]
    Project(place(project) / "code", project.environment).change(**{section: {key: value}})
    said = project.run("gpt", "reproduce", VERSION, exit_code=1)
    assert f"{VERSION}: differs, first in: {first}" in said
    assert f"    params.yaml: {section}.{key} was {before}, is {value}" in said


TEN: list[dict[str, dict[str, object]]] = [
    {"base": {"seed": 7}, "train": {"max_steps": 20}},
    {"model": {"n_layer": 2, "dropout": 0.1}},
    {"model": {"position": "learned", "norm": "layernorm", "activation": "gelu"}},
    {"train": {"optimizer": "adamw", "learning_rate": 0.001, "schedule": "cosine"}},
    {"train": {"precision": "bf16"}},
    {"base": {"seed": 3}, "launch": {"num_processes": 2, "micro_batch_size": 4}},
    {"tokenize": {"shuffle_seed": 2}},
    {"tokenizer": {"kind": "bpe", "vocab_size": 280}},
    {"prepare": {"split_seed": 3}},
    {"model": {"block_size": 8}, "prepare": {"shards": 2}, "evaluate": {"temperature": 0.0}},
]


@pytest.mark.long
def test_ten_versions_of_different_settings_are_made_again_identical(
    copy_registered: Callable[[str], Project],
) -> None:
    def make_and_remake(half: int) -> int:
        """Register the changes of a half, one after the other as a user does, and then make each again."""
        project = copy_registered(f"half {half}")
        original = (project.folder / "params.yaml").read_bytes()
        changes = TEN[half::2]
        for version, change in enumerate(changes, start=2):
            (project.folder / "params.yaml").write_bytes(original)
            project.change(**change)
            register(project, version)
        weights = {tags(project, str(version))["weights_sha256"] for version in range(1, len(changes) + 2)}
        assert len(weights) == len(changes) + 1, "each is another model"
        return sum("identical" in made_again(project, version) for version in range(2, len(changes) + 2))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(make_and_remake, range(2))) == len(TEN)
