"""What git and DVC's cache know of a model: of a commit, of an experiment of DVC, which is a commit too, and of the folder at hand.

Settings, curves and main figures are in git; samples and all figures are in DVC's cache, if anyone made or fetched them here.
Nothing is downloaded.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt import git, paths
from gpt.errors import UserError
from gpt.evaluation.metrics import measured_by
from gpt.files import as_object, lenient_json, lenient_yaml
from gpt.params.project import PARAMS_FILE
from gpt.registry.reproduction.content import cache_of, object_of
from gpt.reports.late_stages import find_late
from gpt.reports.model_page.measured import of_files
from gpt.reports.side_by_side.subject import Subject, settings_of
from gpt.tracking.pages.figures import name_figures

WORKSPACE = "workspace"
"As `dvc exp show` calls the files in the folder."

_LOCK = Path("dvc.lock")
_STAGES = ("prepare", "tokenizer", "tokenize", "pretrain", "evaluate")
_EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")
_CACHED = (paths.EVALUATION, paths.SAMPLES)
_IN_GIT = (PARAMS_FILE, paths.TRAINING_PLOT, paths.VALIDATION_PLOT, paths.METRICS)
_DIGITS = 7

Json = dict[str, Any]
Read = Callable[[Path], bytes | None]


def find_experiments(project: Path) -> dict[str, str]:
    """Return the commit of each experiment of DVC by its name, the newest if several bear it; none outside a git repository."""
    try:
        git.find_repository(project)
    except git.NoRepository:
        return {}
    order = ("--sort=committerdate", "--format=%(objectname) %(refname)")
    listed = git.ask(project, "for-each-ref", *order, "refs/exps/").decode(errors="replace")
    pairs = (line.partition(" ") for line in listed.splitlines())
    return {match[1]: commit for commit, _, name in pairs if (match := _EXPERIMENT.fullmatch(name))}


def check_can_experiment(project: Path, *, in_a_copy: bool) -> None:
    """Raise `UserError` where DVC could run no experiment: without a commit to begin from, or with a path that it cannot copy."""
    if git.find_commit(project) is None:
        raise UserError(
            f'{project}: has no commit that an experiment could begin from; `git add -A && git commit -m "begin"`'
        )
    if in_a_copy and not str(project).isascii():
        raise UserError(
            f"{project}: DVC cannot copy a folder whose path is not ASCII, as --queue, --temp and --run-all do; move the"
            " project, or run experiments in this folder, without these options"
        )


def find_names(project: Path) -> list[str]:
    """Return the names of branches and tags; none outside a git repository."""
    try:
        git.find_repository(project)
    except git.NoRepository:
        return []
    form = "--format=%(refname:short)"
    return git.ask(project, "for-each-ref", form, "refs/heads", "refs/tags").decode(errors="replace").split()


def of_commit(project: Path, commit: str, name: str, kind: str) -> Subject:
    """Return what is known of a commit, called `name`; raise `UserError` if it has no params.yaml."""
    lock = _stages(git.read_file(project, commit, _LOCK))
    cached = _cache_reader(project, lock)

    def read(path: Path) -> bytes | None:
        return cached(path) if path in _CACHED else git.read_file(project, commit, path)

    hint = f"`dvc fetch --all-commits {' '.join(map(str, _CACHED))}` brings what a DVC remote has"
    return _subject(read, lock, name, f"{kind} {commit[:_DIGITS]}", f"not in DVC's cache here; {hint}")


def of_workspace(project: Path) -> Subject:
    """Return what is known of the model in the folder at hand; raise `UserError` if there is no params.yaml."""

    def read(path: Path) -> bytes | None:
        return (project / path).read_bytes() if (project / path).is_file() else None

    return _subject(read, _stages(read(_LOCK)), WORKSPACE, "the files in this folder", "not here; run `gpt evaluate`")


def _subject(read: Read, lock: Json, name: str, what: str, missing: str) -> Subject:
    files = {path: content for path in (*_IN_GIT, *_CACHED) if (content := read(path)) is not None}
    if PARAMS_FILE not in files:
        raise UserError(f"{name}: {what} has no {PARAMS_FILE}; choose one that has")
    params = lenient_yaml(files[PARAMS_FILE])
    measured = of_files(name, {path.name: content for path, content in files.items() if path != paths.METRICS})
    if not measured.evaluation and paths.METRICS in files:
        measured = replace(measured, evaluation=measured_by(lenient_json(files[paths.METRICS])))
    notes = list(_doubts(params, lock)) if measured.evaluation else []
    if measured.evaluation and "loss" not in measured.split("test"):  # an earlier release kept all in metrics/
        notes.append(f"main figures alone, and no samples: {' and '.join(map(str, _CACHED))} are {missing}")
    elif not measured.samples:
        notes.append(f"no samples: {paths.SAMPLES} is {missing}")
    return Subject(measured, what, name_figures(measured.evaluation), settings_of(params), tuple(notes))


def _doubts(params: Json, lock: Json) -> Iterator[str]:
    """Yield why its figures may be of other settings than those of its params.yaml."""
    if not lock:
        yield f"has no {_LOCK}: nothing says that its figures are of its {PARAMS_FILE}"
    if late := find_late(params, lock, stages=_STAGES):
        yield f"its figures are of before its {PARAMS_FILE}: {'; '.join(late)}; run `dvc repro`"


def _stages(lock: bytes | None) -> Json:
    return as_object(lenient_yaml(lock or b"").get("stages"))


def _cache_reader(project: Path, lock: Json) -> Read:
    """Return what reads an output of a lock's stages from DVC's cache; it gives None if the cache has not got it."""
    outs = [out for stage in lock.values() for out in as_object(stage).get("outs", ()) if isinstance(out, dict)]
    digests = {str(out.get("path")): str(out.get("md5", "")) for out in outs}
    cache = cache_of(project) if digests else project

    def read(path: Path) -> bytes | None:
        digest = digests.get(path.as_posix())
        kept = object_of(cache, digest) if digest else None
        return kept.read_bytes() if kept and kept.is_file() else None

    return read
