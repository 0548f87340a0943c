"""`gpt finetune init`: a recipe for labelled data of one's own, and the folder of recipes where a project has none yet.

Settings are those of a committed recipe that learns the same kind of task: links to them lie in templates/. What a file calls its
fields is told by their names.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from gpt import git
from gpt.errors import UserError, located
from gpt.files import atomic_file
from gpt.finetuning.data.examples import read_example, shown
from gpt.finetuning.data.files import read_rows
from gpt.params.changes.editing import as_written, write_yaml
from gpt.params.finetuning import FOLDER, Data, Recipe, is_recipe_name
from gpt.params.project import explained, parse_settings
from gpt.params.sources import NOT_STATED
from gpt.projects.templates import WITHOUT_GIT, dvc_files, file_of, recipe_stages
from gpt.sources.adding import describe_source
from gpt.sources.fetch import fetch
from gpt.sources.manifests import write_manifest
from gpt.sources.pinning import find_pin, validated

Json = dict[str, Any]
FEWEST = 20
"Examples, for each split to have some."

# Of each form in the order of the search: its fields, what files call them, and a * at those that it cannot do without.
_FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"messages*": ("messages", "conversation", "conversations"), "tools": ("tools",)},
    "preference": {"prompt": ("prompt", "question"), "chosen*": ("chosen",), "rejected*": ("rejected",)},
    "alpaca": {"instruction*": ("instruction",), "input": ("input", "context"), "output*": ("output", "response")},
    "prompt_completion": {
        "prompt*": ("prompt", "question", "query"),
        "completion*": ("completion", "answer", "response"),
        "task": ("task",),
    },
    "text_label": {
        "text*": ("text", "sentence", "message", "review", "content", "comment", "title", "sms", "tweet"),
        "label*": ("label", "class", "category", "target", "sentiment", "intent", "topic", "spam"),
    },
}
_KINDS = {"text_label": "classify", "preference": "preference"}
_PURPOSES = {
    "classify": "Which class a text is of: a head on the base model's last token tells.",
    "instruct": "Answers to what is asked, as in the examples.",
    "preference": "The better of two answers, by DPO.",
}
_LISTED = re.compile(r"^(  - recipes: )(\[[^\]\n]*\])", re.MULTILINE)
_HEAD = "# {purpose} Made by `gpt finetune init`.\n# Meanings and ranges: gpt/params/finetuning.py.\n\n"


class Found(NamedTuple):
    form: str
    fields: dict[str, str]
    "What the file calls the fields of the form."


def create_recipe(name: str, where: str, base: str, method: str, fields: Mapping[str, str]) -> list[str]:
    """Write finetuning/NAME.yaml for the examples at `where`, and what DVC needs beside it; return what was done, in lines.

    `fields` are columns by the fields that they are, where their names do not tell. Raises `UserError`, with nothing written, for
    a name that is taken or wrong, examples that cannot be had or read, and too few of them.
    """
    path = FOLDER / f"{name}.yaml"
    if not is_recipe_name(name):
        raise UserError(
            f"{name}: must be letters, digits, '.', '_' and '-', begin with a letter or digit, and not be dvc"
        )
    if path.exists():
        raise UserError(f"{path}: is there already; give another name, or change that file")
    values, left_out = describe_source(where)
    pin = find_pin(validated(values, path, "data.sources.0"), values)
    licence = values.pop("licence")
    source = values | {pin.key: pin.value, "licence": licence}
    if pin.files is not None:
        write_manifest(source["name"], pin.files)
    with tempfile.TemporaryDirectory() as raw:
        fetch((validated(source, path, "data.sources.0"),), Path(raw))
        with located(where):
            found, count, first = _look(Path(raw) / source["name"], fields)
    text = recipe_text(found, source, base, method)
    with explained(path):
        Recipe.model_validate(parse_settings(path, text))
    written = {path: text, **_beside(name)}
    for file, content in written.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as partial:
            partial.write_text(content, encoding="utf-8")
    return _told(name, found, count, first, source, left_out, list(written))


def _look(folder: Path, given: Mapping[str, str]) -> tuple[Found, int, Json]:
    """Read all examples below a folder; return what they are, how many, and the first one."""
    found: Found | None = None
    count, first = 0, Json()
    for place, row in read_rows(folder):
        found = found or _recognise(row, given)
        with located(place):
            for example in read_example(row, _settings(found)):
                first = first or example
                count += 1
    if found is None or count < FEWEST:
        raise UserError(
            f"holds {count} examples; fine-tuning needs {FEWEST} at the least, to train on, to validate and to test"
        )
    return found, count, first


def _recognise(row: Mapping[str, Any], given: Mapping[str, str]) -> Found:
    """Return the form of a row of a file by the names of its fields; `given` are columns by field, known for certain."""
    columns = {str(column).lower(): str(column) for column in row}
    if unknown := [column for column in given.values() if column not in row]:
        raise UserError(f"--field: there is no {', '.join(unknown)}; a row has {', '.join(map(str, row))}")
    for form, fields in _FORMS.items():
        names = {field.rstrip("*"): known for field, known in fields.items()}
        if not set(given) <= set(names):
            continue
        guessed = {
            field: next((columns[name] for name in known if name in columns), None) for field, known in names.items()
        }
        chosen = {field: column for field, column in (guessed | dict(given)).items() if column is not None}
        if all(field.rstrip("*") in chosen for field in fields if field.endswith("*")):
            return Found(form, {field: column for field, column in chosen.items() if field != column})
    raise UserError(
        f"no examples that can be told by the names of their fields, {', '.join(map(str, row))}; say which are which, as in --field"
        " text=COLUMN --field label=COLUMN, or prompt and completion, messages, or prompt, chosen and rejected"
    )


def _settings(found: Found) -> Data:
    """Return settings to read examples with."""
    return Data.model_construct(form=found.form, fields=found.fields, labels={}, group="")


def recipe_text(found: Found, source: Json, base: str, method: str) -> str:
    """Return a recipe: the settings of a committed one, with what is of these examples in their place."""
    kind = _KINDS.get(found.form, "instruct")
    values = YAML().load(file_of("finetune-classify.yaml" if kind == "classify" else "finetune-instruct.yaml"))
    values.ca.comment = None  # the head, which tells of other data
    values["base"], values["block_size"] = base, 0
    data, task, train = values["data"], values["task"], values["train"]
    data["sources"] = as_written([source])
    data["form"], data["fields"], data["labels"] = found.form, as_written(found.fields), as_written({})
    data["deduplicate"], data["balance"] = "normalized", False
    data["validation_fraction"] = data["test_fraction"] = 0.1
    data["too_long"] = "crop" if kind == "classify" else "split" if found.form == "messages" else "drop"
    if kind != "classify":
        train["epochs"] = 3.0 if kind == "instruct" else 1.0
    if kind == "preference":
        said = task.ca.items["train_on"][2]
        said.value = "# of DPO: how dear it is to move away from the base model\n\n"
        del task["train_on"]
        task["kind"], task["beta"], task.ca.items["beta"] = kind, 0.1, [None, None, said, None]
        train["optimizer"], train["learning_rate"] = "adamw", 0.0001
        values["promote"]["min_gain"] = 0.0
    if method == "lora":
        values["method"] = as_written({"kind": "lora", "rank": 8, "alpha": 16.0, "dropout": 0.0})
        train["optimizer"], train["learning_rate"] = "adamw", 0.002
    return _HEAD.format(purpose=_PURPOSES[kind]) + write_yaml(values).lstrip("\n")


def _beside(name: str) -> dict[Path, str]:
    """Return the files of the folder of recipes that a new one changes or needs, by their paths."""
    stages = FOLDER / "dvc.yaml"
    if not stages.exists():
        files = {".gitignore": file_of("finetune-gitignore"), **dvc_files()}
        try:
            git.find_repository(Path.cwd())
        except git.NoRepository:
            files |= WITHOUT_GIT
        own = _LISTED.sub(rf"\g<1>[{name}]", recipe_stages())
        return {stages: own, **{FOLDER / path: content for path, content in files.items()}}
    text = stages.read_text(encoding="utf-8")
    listed = _LISTED.search(text)
    if listed is None:
        raise UserError(f"{stages}: has no line `  - recipes: [...]` to add {name} to; write one")
    names = [each.strip() for each in listed[2].strip("[]").split(",") if each.strip()]
    return {stages: _LISTED.sub(rf"\g<1>[{', '.join([*names, name])}]", text)} if name not in names else {}


def _told(
    name: str, found: Found, count: int, first: Json, source: Json, left_out: str, files: list[Path]
) -> list[str]:
    """Return what was made, what of it was found out, and what to do next."""
    fields = "".join(f", {field} is {column}" for field, column in found.fields.items())
    lines = [
        f"made      {', '.join(map(str, files))}",
        f"examples  {count:,} of the form {found.form}{fields}; the first: {shown(first)}",
        *([f"          {left_out}"] if left_out else []),
    ]
    if source["licence"] == NOT_STATED:
        lines.append(
            "licence   not known: write into its licence what allows you to use it; every version's page shows it"
        )
    return [*lines, f"next      python -m flows.finetune {name}"]
