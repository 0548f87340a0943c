"""The templates of `gpt init`: the settings of the default run, and in a file each what another recipe has otherwise.

`templates/base.yaml` and `templates/stages.yaml` are links to the params.yaml and dvc.yaml of this repository, which a wheel holds
as files: a key that is added there is in every template at once, with its comment. A template's file begins with what it is and
costs, and holds values that differ, each with a comment where the base's does not fit any more.
"""

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gpt.errors import UserError
from gpt.params.changes.lines import comment_of, read_entries, set_value

_FOLDER = Path(__file__).parent / "templates"
# How dvc.yaml calls `gpt` in this repository, whose environment lies in it, and in a project that uses the installed package.
_OWN_ENVIRONMENT = r'"\${VIRTUAL_ENV:-\${DVC_ROOT:-.}/.venv}/bin/gpt"'
_INSTALLED = r'"\${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/}gpt"'
_OWN_OF_RECIPES = r'"\${VIRTUAL_ENV:-.venv}/bin/gpt"'
WITHOUT_GIT = {".dvc/config.local": "[core]\n    no_scm = true\n"}
"What a DVC repository needs beside where there is no git."
# What params.yaml says of files of this repository, which a project has not.
_PAGE = re.compile(r"(?:, see|: see|:) docs/[\w.]+\.md\b| \(docs/[\w.]+\.md\)")
_MEANINGS = "Meanings and ranges: a file of gpt/params/ for each group."
_INSTALLED_MEANINGS = "Meanings and ranges: the files of gpt/params/ in the installed package."
_FLOW_FILE = re.compile(r"entrypoint: ([\w/]+)\.py:(\w+)")
_STAGES_HEAD = """\
# The stages of a model. Each depends on exactly what can change its bytes: values of params.yaml, the files it reads, and what
# `inputs` writes down for it: the code of the installed gpt package that it runs (by its imports, without comments), the versions
# of the libraries whose output it keeps, and what it fetches. `launch` is nobody's dependency: it says where pretrain runs, not
# what it computes. `gpt` is that of the active virtual environment, else the one on PATH.
"""

# Files of the templates, each on top of those before it; the last one's head is the template's.
_LAYERS = {
    "tiny": ("tiny",),
    "classic": ("characters", "classic"),
    "short": ("characters", "short"),
    "gpt2-124m": ("gpu", "gpt2-124m"),
    "1b": ("gpu", "1b"),
}
NAMES = tuple(_LAYERS)
# Texts of the hub, whose commit is found when a project is made of them.
_TEXTS = {
    "gpt2-124m": "hf://HuggingFaceFW/fineweb-edu/sample/10BT/",
    "1b": "hf://HuggingFaceFW/fineweb-edu/sample/100BT/",
}


@dataclass(frozen=True)
class Template:
    """A recipe: `head` says in lines of comment what it is and costs, `settings` is a whole params.yaml with its head."""

    name: str
    head: str
    settings: str
    values: dict[str, Any]
    "What it has otherwise than the default run, by key."

    @property
    def purpose(self) -> str:
        """Its first line, for a list of all."""
        return self.head.splitlines()[0].removeprefix("# ")

    @property
    def text(self) -> str | None:
        """Where its own text is at the hub; None if its settings have a source that is pinned."""
        return _TEXTS.get(self.name)

    def __getitem__(self, key: str) -> Any:
        """Return the value that params.yaml has for a key as it comes from the template."""
        return read_entries(self.settings)[key].value


@cache
def load_template(name: str) -> Template:
    """Return a template by its name; raise `UserError` for one that is none, with the nearest that there is."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.3)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--template {name}: there is none of this name; {meant}There are {', '.join(NAMES)}")
    settings, values, head = base_settings(), dict[str, Any](), ""
    for layer in _LAYERS[name]:
        overlay = file_of(f"{layer}.yaml")
        head = overlay.removesuffix(_without_head(overlay))
        for key, entry in read_entries(overlay).items():
            if not entry.is_section:
                settings = set_value(settings, key, entry.value, comment_of(overlay, key) or None)
                values[key] = entry.value
    return Template(name, head, head + settings, values)


@cache
def base_settings() -> str:
    """Return the params.yaml of the default run, without what it says of files that only its repository has."""
    text = file_of("base.yaml")
    assert _MEANINGS in text, "params.yaml tells in another way than is replaced here where its keys are explained"
    return _PAGE.sub("", text.replace(_MEANINGS, _INSTALLED_MEANINGS))


@cache
def stages() -> str:
    """Return the dvc.yaml of a project that uses the installed package."""
    body = _without_head(file_of("stages.yaml"))
    assert _OWN_ENVIRONMENT in body, "dvc.yaml calls gpt in another way than is replaced here"
    return _STAGES_HEAD + body.replace(_OWN_ENVIRONMENT, _INSTALLED)


@cache
def recipe_stages() -> str:
    """Return the finetuning/dvc.yaml of such a project, with the recipes of this repository."""
    text = file_of("finetune-stages.yaml")
    assert _OWN_OF_RECIPES in text, "finetuning/dvc.yaml calls gpt in another way than is replaced here"
    return text.replace(_OWN_OF_RECIPES, _INSTALLED)


def dvc_files() -> dict[str, str]:
    """Return what makes a folder a DVC repository, by path in it."""
    return {".dvc/config": file_of("dvc-config"), ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n"}


@cache
def deployments() -> str:
    """Return the prefect.yaml of a project that uses the installed package: its flows are modules there, no files here."""
    text = file_of("prefect.yaml").replace("make schedule", "python -m infra.schedule")
    assert _FLOW_FILE.search(text), "prefect.yaml names flows in another way than is replaced here"
    return _FLOW_FILE.sub(lambda found: f"entrypoint: {found[1].replace('/', '.')}.{found[2]}", text)


def file_of(name: str) -> str:
    """Return a file of the folder of templates."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def _without_head(text: str) -> str:
    """Return a file without the lines of comment that it begins with."""
    lines = text.splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[first:])
