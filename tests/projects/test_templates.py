"""Every template is the default run's params.yaml with other values: no key, order or comment of it can be forgotten."""

import re
from pathlib import Path

import pytest
from dvc.utils.serialize import load_yaml, modify_yaml
from prefect.flows import load_flow_from_entrypoint

from benchmarks.quality import read_recipe
from gpt.commands.projects import init
from gpt.errors import UserError
from gpt.params.changes.lines import comment_of, read_entries
from gpt.params.project import load_params
from gpt.projects.choices import LIMITS
from gpt.projects.templates import NAMES, base_settings, deployments, load_template, stages
from tests import ROOT

BASE = (ROOT / "params.yaml").read_text(encoding="utf-8")
LONG = 80  # DVC folds a line that is longer, where a space or a colon lets it


def test_templates_stand_on_the_default_run_itself() -> None:
    folder = ROOT / "gpt/projects/templates"
    for name, target in {
        "base.yaml": "params.yaml", "stages.yaml": "dvc.yaml", "prefect.yaml": "prefect.yaml", "dvc-config": ".dvc/config",
    }.items():  # fmt: skip
        assert (folder / name).is_symlink()
        assert (folder / name).resolve() == (ROOT / target).resolve()


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_every_key_in_its_order_and_says_what_it_costs(name: str) -> None:
    template = load_template(name)
    own, base = read_entries(template.settings), read_entries(base_settings())
    assert list(own) == list(base)
    assert template.settings.splitlines()[0].startswith(f"# {name}: ")
    assert sum(line.startswith("# Costs: ") for line in template.head.splitlines()) == 1
    for key, entry in base.items():
        if key not in template.values:
            assert own[key].value == entry.value, key
            assert comment_of(template.settings, key) == comment_of(base_settings(), key)
    assert [key for key, value in template.values.items() if own[key].value != value] == []


def test_they_have_the_values_of_the_default_run_and_its_comments_but_for_pages_of_its_repository() -> None:
    own, base = read_entries(base_settings()), read_entries(BASE)
    licences = re.compile(r", see docs/data\.md")
    assert {key: licences.sub("", repr(entry.value)) for key, entry in base.items()} == {
        key: repr(entry.value) for key, entry in own.items()
    }
    changed = [line for line in BASE.splitlines() if line not in base_settings().splitlines()]
    assert changed, "some name a page"
    assert all("docs/" in line or "gpt/params/" in line for line in changed)


def test_the_one_nearest_to_the_demo_differs_in_benchmarks_alone() -> None:
    assert load_template("tiny").values.keys() == {"fetch.benchmarks", "evaluate.benchmarks"}


@pytest.mark.parametrize("name", NAMES)
def test_dvc_changes_one_line_of_it_for_one_key(tmp_path: Path, name: str) -> None:
    path, text = tmp_path / "params.yaml", load_template(name).settings
    path.write_text(text, encoding="utf-8")
    with modify_yaml(str(path)) as values:
        values["train"]["max_steps"] = 12345
    before, after = text.splitlines(), path.read_text(encoding="utf-8").splitlines()
    changed = set(before) - set(after)
    assert {line for line in changed if len(line) <= LONG} == {line for line in before if "max_steps:" in line}


@pytest.mark.parametrize("name", ["classic", "short"])
def test_a_recipe_of_the_benchmarks_and_its_template_are_one(name: str, tmp_path: Path) -> None:
    """What benchmarks/RESULTS.md measures is what `gpt init` gives."""
    (tmp_path / "params.yaml").write_text(load_template(name).settings, encoding="utf-8")
    params, recipe = load_params(tmp_path / "params.yaml"), read_recipe(name, seed=1)
    without_effect = {"muon_learning_rate", "decay_fraction"} if params.train.optimizer == "adamw" else {"min_lr"}
    for section in ("model", "train"):
        own, theirs = params.section(section), recipe.section(section)
        assert {key for key in own if own[key] != theirs[key]} <= without_effect


def test_a_wrong_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--template gpt2: .* did you mean gpt2-124m\?"):
        load_template("gpt2")


def test_the_command_offers_what_there_is() -> None:
    (option,) = [each for each in init.params if each.name == "template"]
    assert tuple(LIMITS) == NAMES
    assert option.type.words == NAMES  # pyright: ignore[reportAttributeAccessIssue]


def test_stages_of_a_project_are_those_of_the_default_run_but_for_where_gpt_is(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(stages(), encoding="utf-8")
    own, base = load_yaml(tmp_path / "dvc.yaml")["stages"], load_yaml(ROOT / "dvc.yaml")["stages"]
    assert list(own) == list(base)
    for name, stage in base.items():
        command = own[name].pop("cmd")
        assert command.startswith('"\\${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/}gpt" ')
        assert command.split('" ', 1)[1] == stage.pop("cmd").split('" ', 1)[1]
        assert own[name] == stage


def test_deployments_of_a_project_are_flows_of_the_installed_package(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text(deployments(), encoding="utf-8")
    own, base = load_yaml(tmp_path / "prefect.yaml"), load_yaml(ROOT / "prefect.yaml")
    flows = [load_flow_from_entrypoint(each.pop("entrypoint")) for each in own["deployments"]]
    names = ["pretrain", "reproduce", "pretrain", "promote", "rollback", "sweep", "gc"]
    assert [flow.name for flow in flows] == names
    for each in base["deployments"]:
        del each["entrypoint"]
    assert own == base
