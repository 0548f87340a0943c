from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt import paths
from gpt.files import read_json, write_json
from gpt.params.project import load_params
from gpt.training.checkpoints.fingerprint import Fingerprint, describe_differences, fingerprint, load_fingerprint


def change_index(**values: Any) -> None:
    index = read_json(paths.TOKENS / "index.json", "")
    write_json(paths.TOKENS / "index.json", index | values)


def test_it_changes_with_what_the_result_depends_on_and_nothing_else(make_project: Callable[..., Path]) -> None:
    def of(name: str, before: Callable[[], None] = lambda: None, **change: dict[str, object]) -> str:
        make_project(name, **change)
        before()
        return fingerprint(load_params()).id

    base = of("a")
    assert of("b") == base
    assert of("c", launch={"micro_batch_size": 2, "compile": True}) == base
    saves: dict[str, object] = {
        "checkpoint_interval": 7,
        "checkpoint_keep_last": 5,
        "checkpoint_keep_every": 14,
        "checkpoint_keep_stable": 3,
        "max_epochs": 50.0,
        "sample_interval": 9,
        "benchmark_interval": 3,
    }
    assert of("d", train=saves) == base
    assert of("e", evaluate={"temperature": 0.1}, register={"name": "other"}, base={"name": "other"}) == base
    different = [
        of("f", lambda: change_index(end_of_text=1)),
        of("h", train={"learning_rate": 1.0e-4}),
        of("i", model={"n_embd": 32}),
        of("j", base={"seed": 1}),
    ]
    assert len({base, *different}) == 5


def test_a_builds_local_suffix_is_no_other_version(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gpt.code import installed_version

    make_project()
    before = fingerprint(load_params())
    for version, is_same in (("2.13.0+other", True), ("99.0", False)):
        folder = tmp_path / version / f"torch-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n", encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder.parent)
            installed_version.cache_clear()
            now = fingerprint(load_params())
        assert (now.id == before.id) is is_same
    installed_version.cache_clear()
    (line,) = describe_differences(before, now)
    assert line.startswith("version of torch: was ") and line.endswith(", is 99.0")


def test_what_differs_is_said_with_both_values(tmp_path: Path) -> None:
    parts = {
        "settings": {"train.learning_rate": 0.01, "train.max_steps": 10},
        "inputs": {"data/tokens": "a"},
        "code": {"gpt/a.py": "1", "gpt/b.py": "2"},
        "versions": {"torch": "1"},
    }
    before = Fingerprint("x", parts)
    changed = Fingerprint(
        "x",
        {
            "settings": {"train.learning_rate": 0.02, "train.max_steps": 10, "train.new": True},
            "inputs": {"data/tokens": "b"},
            "code": {"gpt/a.py": "3", "gpt/c.py": "4"},
            "versions": {"torch": "2"},
        },
    )
    assert describe_differences(before, changed) == [
        "params.yaml: train.learning_rate was 0.01, is 0.02",
        "params.yaml: train.new was not there, is true",
        "data/tokens: other content",
        "gpt/a.py: computes otherwise",
        "gpt/b.py: gone",
        "gpt/c.py: new",
        "version of torch: was 1, is 2",
    ]
    before.save(tmp_path)
    changed.save(tmp_path)
    assert load_fingerprint(tmp_path) == before, "it is the folder's, written once"
    (tmp_path / "fingerprint.json").write_text("{", encoding="utf-8")
    assert load_fingerprint(tmp_path) is None


def test_first_steps_are_the_same_whatever_begins_later() -> None:
    def run(**settings: Any) -> Fingerprint:
        common = {
            "warmup_fraction": 0.0,
            "warmup_steps": 6,
            "max_steps": 300,
            "decay_fraction": 0.5,
            "learning_rate": 0.01,
        }
        phases = [{"from_step": 0, "shares": {"a": 1.0}}, {"from_step": 200, "shares": {"b": 1.0}}]
        values = common | {"mixture": phases} | settings
        return Fingerprint("a run", {"settings": {f"train.{key}": value for key, value in values.items()}})

    one = run()
    assert run(max_steps=600, decay_fraction=0.2, min_lr=0.1).until(150) == one.until(150)
    assert run(warmup_steps=0, warmup_fraction=0.02).until(150) == one.until(150), "6 steps either way"
    assert run(warmup_steps=0, warmup_fraction=0.02, max_steps=600).until(150) != one.until(150)
    assert run(learning_rate=0.02).until(150) != one.until(150)
    first = [{"from_step": 0, "shares": {"a": 1.0}}]
    assert run(mixture=first).until(200) == one.until(200), "the second phase decides steps from 200 on"
    assert run(mixture=first).until(201) != one.until(201)
    assert Fingerprint("of another release", {"settings": {}}).until(150) != one.until(150)
