"""`gpt init --upgrade`: what the installed gpt wants otherwise in a project's params.yaml and dvc.yaml.

Nothing is guessed: keys are added that the settings miss, renamed where they have moved, and taken out if they are unknown. Values
and comments of the project stay, and so do its own stages.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

import gpt
from gpt import git
from gpt.errors import UserError, located
from gpt.files import atomic_file, parse_yaml
from gpt.params.changes.lines import Entry, read_entries, set_value
from gpt.params.project import MOVED, PARAMS_FILE, Params
from gpt.projects.templates import load_template, stages

STAGES_FILE = Path("dvc.yaml")
_MADE = re.compile(r"^# Made by `gpt init --template (\S+)` of gpt (\S+)", re.MULTILINE)
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class Change:
    """A file as it is and as the installed gpt wants it."""

    path: Path
    old: str
    new: str

    def diff(self) -> str:
        """Return the difference as `git diff` shows it."""
        old, new = self.old.splitlines(keepends=True), self.new.splitlines(keepends=True)
        return "".join(difflib.unified_diff(old, new, f"a/{self.path}", f"b/{self.path}"))


def find_changes(project: Path) -> list[Change]:
    """Return what an upgrade would change; raise `UserError` if this is no project that `gpt init` made."""
    if (project / "gpt/projects").is_dir():
        raise UserError(
            f"{project}: holds the code of gpt itself, whose settings are the templates'; nothing is to upgrade"
        )
    changes = []
    for path, renew in ((PARAMS_FILE, renew_settings), (STAGES_FILE, renew_stages)):
        try:
            old = (project / path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path}: not found in {project} or above; run this in a project's folder") from None
        with located(str(path)):
            changes.append(Change(path, old, renew(old)))
    return [change for change in changes if change.new != change.old]


def apply(project: Path, changes: list[Change]) -> None:
    """Write the changes; raise `UserError` if git does not keep what they replace."""
    names = [str(change.path) for change in changes]
    try:
        uncommitted = git.list_files(project, "diff", "--name-only", "-z", "--relative", "HEAD", "--", *names)
    except git.NoRepository:
        uncommitted = []  # nobody keeps earlier versions here: what is replaced was shown
    if uncommitted:
        raise UserError(
            f"{', '.join(uncommitted)}: changed since the last commit; commit first, so that git keeps what is replaced"
        )
    for change in changes:
        with atomic_file(project / change.path) as partial:
            partial.write_text(change.new, encoding="utf-8")


def renew_settings(text: str) -> str:
    """Return a params.yaml with the keys of the installed version: its values where it has them, else the template's."""
    made = _MADE.search(text)
    template = load_template(made[1] if made else "tiny").settings
    for _ in range(_MOST_ROUNDS):
        missing, unknown = _faults(text)
        for old, new in MOVED.items():
            if old in unknown and new in missing:
                value = read_entries(text)[old].value
                text = _insert(_remove(text, old), template, new)
                text = set_value(text, new, value)
                missing.remove(new)
                unknown.remove(old)
        known = read_entries(template)
        added = [key for key in missing if key in known]
        for key in added:
            text = _insert(text, template, key)
        for key in unknown:
            text = _remove(text, key)
        if not added and not unknown:
            break
    if made:
        text = text.replace(made[0], f"# Made by `gpt init --template {made[1]}` of gpt {gpt.__version__}", 1)
    return text


def _faults(text: str) -> tuple[list[str], list[str]]:
    """Return the keys that the settings miss, and those that they do not know, but for what a source lacks or has too much."""
    entries = read_entries(text)
    try:
        Params.model_validate(parse_yaml(text))
    except ValidationError as error:
        faults = [(".".join(map(str, fault["loc"])), fault["type"]) for fault in error.errors(include_url=False)]
        missing = [key for key, kind in faults if kind == "missing"]
        return missing, [key for key, kind in faults if kind == "extra_forbidden" and key in entries]
    return [], []


def _insert(text: str, template: str, key: str) -> str:
    """Return the text with a key, or a whole section, as the template has it: behind the key that is before it there."""
    theirs, own = read_entries(template), read_entries(text)
    section = key.rpartition(".")[0]
    if section and section not in own:
        return _insert(text, template, section)
    block = template.splitlines(keepends=True)[_begin(template, theirs[key]) : _end_of(theirs, key)]
    siblings = [name for name in theirs if name.rpartition(".")[0] == section]
    before = [name for name in siblings[: siblings.index(key)] if name in own]
    place = _end_of(own, before[-1]) if before else own[section].end if section else 0
    if not section:  # sections stand apart
        block = ["\n", *block]
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:place], *block, *lines[place:]])


def _remove(text: str, key: str) -> str:
    """Return the text without a key, and without the comments above that are its own alone."""
    entries = read_entries(text)
    lines = text.splitlines(keepends=True)
    return "".join([*lines[: _begin(text, entries[key])], *lines[_end_of(entries, key) :]])


def _begin(text: str, entry: Entry) -> int:
    """Return the first line of the comments right above a key, which tell of it."""
    lines = text.splitlines()
    indent = len(lines[entry.first]) - len(lines[entry.first].lstrip())
    first = entry.first
    while first and lines[first - 1].startswith(f"{' ' * indent}#"):
        first -= 1
    return first


def _end_of(entries: Mapping[str, Entry], key: str) -> int:
    """Return the line behind a key, or behind the last key of a section."""
    return max(entry.end for name, entry in entries.items() if name == key or name.startswith(f"{key}."))


def renew_stages(text: str) -> str:
    """Return a dvc.yaml with the stages of the installed version; stages of the project's own, and other sections, follow them."""
    template = stages()
    own, theirs = read_entries(text), read_entries(template)
    lines = text.splitlines(keepends=True)
    if "stages" not in own:
        raise UserError("has no stages; `gpt init` makes a project with them")

    def block(key: str) -> str:
        return "".join(["\n", *lines[_begin(text, own[key]) : _end_of(own, key)]])

    stages_of_its_own = [key for key in own if re.fullmatch(r"stages\.[^.]+", key) and key not in theirs]
    sections = [key for key in own if "." not in key and key not in theirs]
    end = _end_of(theirs, "stages")
    renewed = template.splitlines(keepends=True)
    return "".join([*renewed[:end], *map(block, stages_of_its_own), *renewed[end:], *map(block, sections)])
