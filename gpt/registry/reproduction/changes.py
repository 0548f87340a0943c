"""What has changed in a project since a version was made: named, without running anything.

Two lists, as a person asks two things: what would make another model now, and what else is not as it was, as texts and tests.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt import code, git, paths
from gpt.errors import UserError
from gpt.files import parse_yaml
from gpt.params.project import PARAMS_FILE, load_params
from gpt.registry.initial.origin import describe_origin, named_by_params, origin_of
from gpt.registry.lineage import NONE, REQUIREMENTS_LOCK
from gpt.registry.packages import installed_packages, locked_packages
from gpt.registry.record import Record
from gpt.registry.reproduction.content import cache_of
from gpt.registry.reproduction.data import describe_damage, fetching_stages
from gpt.registry.reproduction.differences import describe_inputs, describe_packages, is_result
from gpt.secrets.hiding import redact_values
from gpt.sources.local import content_hash

_LAUNCH = "launch."  # last digits depend on where training runs, but not on how long it waits
_PATIENCE = ("launch.max_restarts", "launch.timeout_seconds")
_SOURCES = ("sources", "benchmarks")
_SHOWN_FILES = 12
# Told by themselves, or written by stages.
_TOLD = (PARAMS_FILE.as_posix(), REQUIREMENTS_LOCK.as_posix(), *git.GENERATED)

Json = dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """Lines for a person on what is not as in a version's record."""

    deciding: list[str]
    "Settings, sources, code and packages that the result depends on."
    around: list[str]
    "Settings and files of the repository that change no byte of it."

    def describe(self, uri: str) -> str:
        """Return what `gpt reproduce --compare` says."""
        head = "this differs from its record now:" if self.deciding else _SAME
        return "\n".join([f"{uri}: {head}", *self._lines()])

    def announce(self) -> str:
        """Return what `gpt reproduce` says before it begins, "" if nothing has changed."""
        head = ["changed since; what is made again does without, but for packages:"] if self.deciding else []
        return "\n".join([*head, *self._lines()])

    def _lines(self) -> Iterator[str]:
        yield from (f"  {line}" for line in self.deciding)
        if self.around:
            yield f"changed since, and {'beside that ' if self.deciding else ''}decides no byte of the model:"
            yield from (f"  {line}" for line in self.around)


_SAME = "settings, sources, code and packages are those of its record"


def find_changes(record: Record, project: Path) -> Changes:
    """Compare a project as it is now, and what is installed here, with a version's record. The code is that which runs here."""
    values = record.values
    settings = setting_differences(values, project)
    current = {stage: code.stage_identity(stage) for stage in values["inputs"] if stage in code.STAGES}
    then = {stage: values["inputs"][stage] | {"sources": ()} for stage in current}  # those are compared by themselves
    lock_changed, lock_added = _lock_changes(record, project)
    deciding = [
        *settings.deciding,
        *_sources(values, project),
        *_initial_weights(values, project),
        *describe_inputs(then, current),
        *describe_packages(values["environment"]["packages"], installed_packages()),
        *lock_changed,
    ]
    named = {line.partition(": ")[0] for line in deciding}
    files = [name for name in changed_files(record, project) if name not in named]
    more = [f"and {len(files) - _SHOWN_FILES} more files"] if files[_SHOWN_FILES:] else []
    return Changes(deciding, [*settings.around, *lock_added, *files[:_SHOWN_FILES], *more])


def setting_differences(record: Json, project: Path) -> Changes:
    """Compare the settings of a project with those of a record; a source that only one of them has is told by its name alone."""
    settings = (record["params"], _read_params(project))
    both = _names(settings[0]) & _names(settings[1])
    before, now = (dict(_flat(each, both)) for each in settings)
    decides = _deciding_settings(record["stages"])
    return Changes(
        *(
            code.describe_differences(
                {"settings": {name: value for name, value in before.items() if decides(name) is wanted}},
                {"settings": {name: value for name, value in now.items() if decides(name) is wanted}},
            )
            for wanted in (True, False)
        )
    )


def changed_files(record: Record, project: Path) -> list[str]:
    """Return the files of the project that are not those of a version's commit and patch, as far as git knows them.

    Without settings and locks, and what stages write; [] if the commit is not here.
    """
    commit = record.values["code"]["commit"]
    try:
        if commit == NONE or git.find_commit(project, commit) is None:
            return []
        top = git.find_repository(project)
        with tempfile.TemporaryDirectory() as folder:
            index = Path(folder, "index")
            git.ask(project, "read-tree", commit, index=index)
            if record.patch:
                git.ask(top, "apply", "--cached", "--binary", "--whitespace=nowarn", index=index, stdin=record.patch)
            left_out = [f":(exclude){path}" for path in _TOLD]
            said = git.ask(
                project, "diff", "--name-only", "-z", "--relative", "--no-ext-diff", "--", ".", *left_out, index=index
            )
    except UserError:  # no repository, or no such commit: making it again says so
        return []
    return [name for name in said.decode("utf-8", "replace").split("\0") if name]


def _deciding_settings(stages: Json) -> Callable[[str], bool]:
    """Return a function that says whether a setting decides the result: those that a stage depends on, of what is no page."""
    keys = {key for stage in stages.values() if any(map(is_result, stage["outs"])) for key in stage["params"]}
    prefixes = tuple(f"{key}." for key in keys)

    def decides(name: str) -> bool:
        if name.startswith(_LAUNCH):
            return name not in _PATIENCE
        if name.startswith("fetch."):
            return not name.endswith(".licence")
        return name in keys or name.startswith(prefixes) if keys else not name.startswith("register.")

    return decides


def _flat(settings: Json, sources: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield `train.learning_rate` and its value for all settings, those of `sources` by name: fetch.sources.NAME.sha256."""
    fetch = settings.get("fetch", {})
    named = {
        key: {source["name"]: source for source in fetch.get(key, ()) if source["name"] in sources} for key in _SOURCES
    }
    yield from _leaves({key: value for key, value in settings.items() if key != "fetch"}, "")
    yield from _leaves(named, "fetch.")


def _leaves(values: Json, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _read_params(project: Path) -> Json:
    return redact_values(parse_yaml((project / PARAMS_FILE).read_text(encoding="utf-8")))


def _names(params: Json) -> set[str]:
    return {source["name"] for key in _SOURCES for source in params.get("fetch", {}).get(key, ())}


def _sources(record: Json, project: Path) -> Iterator[str]:
    """Yield what became of a version's own files and of what was fetched; what lies elsewhere is not fetched to be told."""
    before, now = _names(record["params"]), _names(_read_params(project))
    yield from (f"source {name}: is not in {PARAMS_FILE} any more" for name in sorted(before - now))
    yield from (f"source {name}: is new in {PARAMS_FILE}" for name in sorted(now - before))
    for source in record["sources"]:
        path = project / Path(source["address"]).expanduser()
        if source["kind"] == "local" and (found := content_hash(path)) != source["sha256"]:
            yield f"source {source['name']}: {path} had sha256 {source['sha256']}, " + (
                f"and has {found}" if found else "and is gone"
            )
    stages = record["stages"]
    for name in fetching_stages(stages):
        yield from describe_damage(project, cache_of(project), stages[name]["outs"])


def _initial_weights(record: Json, project: Path) -> Iterator[str]:
    """Yield what `train.init_from` names now, if that is not what a version started from; another name is told as a setting."""
    start = record.get("parents", {}).get("started_from") or {}
    before = origin_of(start)
    if before is None or _read_params(project)["train"].get("init_from") != start["init_from"]:
        return
    try:
        now = describe_origin(named_by_params(load_params(project / PARAMS_FILE), project / paths.INITIAL))
    except UserError as error:
        yield str(error)
        return
    if not before.items() <= now.items():
        is_version = before["kind"] == now["kind"] == "version"
        what = f"was version {before['version']}, is {now['version']}" if is_version else "holds other files now"
        yield f"{PARAMS_FILE}: train.init_from = {start['init_from']}: {what}"


def _lock_changes(record: Record, project: Path) -> tuple[list[str], list[str]]:
    """Return the packages that requirements.lock has in another version than the version's own lock, and those that are new in it.

    New ones decide nothing: what was made did without them.
    """
    path = project / REQUIREMENTS_LOCK
    if REQUIREMENTS_LOCK.name not in record.files or not path.exists():
        return [], []
    before, now = (locked_packages(content) for content in (record.files[REQUIREMENTS_LOCK.name], path.read_bytes()))
    lines = {
        name: f"{REQUIREMENTS_LOCK}: {name} was {before.get(name, 'not in it')}, is {now.get(name, 'not in it')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }
    return [lines[name] for name in lines if name in before], [lines[name] for name in lines if name not in before]
