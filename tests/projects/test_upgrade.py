"""An upgrade adds what settings miss, renames what has moved, and leaves values, comments and own stages as they are."""

from pathlib import Path

import pytest

from gpt import __version__, git
from gpt.commands.main import main
from gpt.errors import UserError
from gpt.params.changes.lines import comment_of, read_entries, set_value
from gpt.params.project import load_params
from gpt.projects.templates import load_template, stages
from gpt.projects.upgrade import renew_settings, renew_stages

MADE = "# Made by `gpt init --template classic` of gpt 0.0.1 for a text.\n"
NOW = MADE.replace("0.0.1", __version__) + load_template("classic").settings


def without(text: str, *keys: str) -> str:
    """Return the settings of an earlier version, which had no such keys."""
    for key in keys:
        entries, lines = read_entries(text), text.splitlines(keepends=True)
        end = max(entry.end for name, entry in entries.items() if name == key or name.startswith(f"{key}."))
        text = "".join([*lines[: entries[key].first], *lines[end:]])
    return text


def test_what_is_up_to_date_stays_byte_for_byte() -> None:
    assert renew_settings(NOW) == NOW
    assert renew_stages(stages()) == stages()


def test_a_missing_key_comes_where_the_template_has_it_with_its_comment() -> None:
    own = set_value(NOW, "train.max_steps", 77, "mine")
    old = without(own, "train.grad_clip", "prepare.shards", "model.n_layer")
    assert renew_settings(old) == own


def test_a_missing_section_comes_whole_with_its_comments() -> None:
    old = without(NOW, "prepare.decontaminate", "tokenize")
    renewed = renew_settings(old)
    assert {key: entry.value for key, entry in read_entries(renewed).items()} == {
        key: entry.value for key, entry in read_entries(NOW).items()
    }
    assert comment_of(renewed, "prepare.decontaminate.ngram") == comment_of(NOW, "prepare.decontaminate.ngram")


def test_values_come_from_the_template_that_made_the_project() -> None:
    renewed = renew_settings(without(NOW, "train.batch_size"))
    assert read_entries(renewed)["train.batch_size"].value == 12
    renewed = renew_settings(without(NOW, "train.batch_size").removeprefix(NOW.splitlines(keepends=True)[0]))
    assert read_entries(renewed)["train.batch_size"].value == 8, "tiny's, where nothing names a template"


def test_a_key_that_has_moved_keeps_its_value() -> None:
    old = without(NOW, "train.precision").replace("launch:\n", "launch:\n  precision: bf16\n")
    assert renew_settings(old) == set_value(NOW, "train.precision", "bf16")


def test_an_unknown_key_goes_and_free_names_stay(tmp_path: Path) -> None:
    own = set_value(NOW, "register.gate.max_regression_by_benchmark", {})
    own = own.replace("max_regression_by_benchmark: {}", "max_regression_by_benchmark:\n      piqa: 0.1")
    own = own.replace(
        "      test_bits_per_byte: 0.005", "      piqa.accuracy: 0.01  # mine\n      test_bits_per_byte: 0.005"
    )
    assert renew_settings(own.replace("train:\n", "train:\n  # old\n  turbo: true\n")) == own
    (tmp_path / "params.yaml").write_text(own, encoding="utf-8")
    assert load_params(tmp_path / "params.yaml").register_.gate.max_regression_by_benchmark == {"piqa": 0.1}


def test_stages_are_those_of_the_version_and_own_ones_follow() -> None:
    mine = "\n  # counts words\n  count:\n    cmd: wc data/raw/* > count.txt\n    deps:\n    - data/raw\n"
    vars_ = "\nvars:\n- mine.yaml\n"
    old = stages().replace("      - train.grad_clip\n", "")
    assert old != stages()
    before_plots = old.index("\nplots:")
    renewed = renew_stages(old[:before_plots] + mine + old[before_plots:] + vars_)
    before_plots = stages().index("\nplots:")
    assert renewed == stages()[:before_plots] + mine + stages()[before_plots:] + vars_


def test_nothing_changes_before_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    old = without(NOW, "train.grad_clip").replace(f"of gpt {__version__} for", "of gpt 0.0.1 for")
    Path("params.yaml").write_text(old, encoding="utf-8")
    Path("dvc.yaml").write_text(stages(), encoding="utf-8")
    git.ask(tmp_path, "init", "--quiet")
    git.ask(tmp_path, "add", ".")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    git.ask(tmp_path, *identity, "commit", "--quiet", "-m", "begin")

    assert main(["init", "--upgrade"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("+  ")] == [
        line.replace("  ", "+  ", 1) for line in NOW.splitlines() if line.startswith("  grad_clip")
    ]
    assert Path("params.yaml").read_text(encoding="utf-8") == old

    Path("params.yaml").write_text(old + "# my note\n", encoding="utf-8")
    assert main(["init", "--upgrade", "--apply"]) == 2
    assert "commit first" in capsys.readouterr().err
    assert Path("params.yaml").read_text(encoding="utf-8") == old + "# my note\n"

    Path("params.yaml").write_text(old, encoding="utf-8")
    assert main(["init", "--upgrade", "--apply"]) == 0
    load_params()
    capsys.readouterr()
    assert main(["init", "--upgrade"]) == 0
    assert "has all that it wants" in capsys.readouterr().out


def test_settings_that_are_no_yaml_are_told_with_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("a: [", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    from gpt.projects.upgrade import find_changes

    with pytest.raises(UserError, match=r"params.yaml: not valid YAML"):
        find_changes(tmp_path)
