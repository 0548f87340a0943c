"""What a name means that a user gives to `gpt compare`: DVC's experiments and git's revisions first, then MLflow's runs.

`workspace` is the folder at hand. What has a prefix of MLflow's (`models:/`, `@`, `runs:/`) is looked for there alone. MLflow
takes seconds: it is asked only about names that git does not know.
"""

import difflib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gpt import git
from gpt.errors import UserError
from gpt.files import as_object, lenient_yaml
from gpt.params.project import PARAMS_FILE
from gpt.registry.versions import CHAMPION, is_registry_uri, version_of_alias
from gpt.reports.side_by_side.revisions import WORKSPACE, find_experiments, find_names, of_commit, of_workspace
from gpt.reports.side_by_side.subject import Subject
from gpt.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LISTED = 8


def find_subjects(project: Path, names: Sequence[str]) -> list[Subject]:
    """Return the models of these names in their order.

    Raises `UserError` for fewer than two, for one that is named twice, and for a name that nothing bears.
    """
    if len(names) < 2:
        other = "HEAD" if names[0] == WORKSPACE else WORKSPACE
        raise UserError(
            f"{names[0]}: alone compares with nothing; name another, as in `gpt compare {names[0]} {other}`"
        )
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UserError(f"{twice[0]}: is named twice; name each model once")
    finder = _Finder(project)
    return [finder.find(name) for name in names]


class _Finder:
    """Looks each place up once, and only if a name asks for it."""

    def __init__(self, project: Path) -> None:
        self._project = project

    def find(self, name: str) -> Subject:
        if name == WORKSPACE:
            return of_workspace(self._project)
        if is_registry_uri(name) or name.startswith("runs:/"):
            if found := self._in_mlflow(name):
                return found
            raise UserError(f"{name}: no such run in {store.tracking_uri()}{self._guess(name)}")
        if name in self._experiments:
            return of_commit(self._project, self._experiments[name], name, "experiment, commit")
        if commit := self._commit(name):
            return of_commit(self._project, commit, name, "commit")
        try:
            found, why = self._in_mlflow(name), ""
        except UserError as error:  # git does not know it, and MLflow cannot be asked
            found, why = None, f" (MLflow was not asked: {error})"
        if found:
            return found
        raise UserError(
            f"{name}: no experiment of DVC, git revision or MLflow run is called so{why}{self._guess(name)}"
        )

    @cached_property
    def _experiments(self) -> dict[str, str]:
        return find_experiments(self._project)

    def _commit(self, name: str) -> str | None:
        try:
            return git.find_commit(self._project, name)
        except git.NoRepository:
            return None

    @cached_property
    def _client(self) -> "MlflowClient":
        return store.existing_client()

    def _in_mlflow(self, name: str) -> Subject | None:
        from gpt.reports.side_by_side.runs import find_run, of_registered, of_run

        client = self._client
        with store.store_errors():
            if is_registry_uri(name):
                return of_registered(client, name, self._registered_name())
            run = find_run(client, name)
            return of_run(client, run, name) if run else None

    def _registered_name(self) -> str:
        path = self._project / PARAMS_FILE
        params = lenient_yaml(path.read_bytes()) if path.is_file() else {}
        return str(as_object(params.get("register")).get("name", ""))

    def _guess(self, name: str) -> str:
        """Return what was meant perhaps, or what there is."""
        known = [*self._experiments, *find_names(self._project), *self._names_in_mlflow(), WORKSPACE]
        if near := difflib.get_close_matches(name, known, n=2):
            return f"; did you mean {' or '.join(near)}?"
        listed = list(dict.fromkeys(known))
        rest = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        return f"; there are {', '.join(listed[:_LISTED])}{rest} (`dvc queue status` shows what has not run yet)"

    def _names_in_mlflow(self) -> list[str]:
        """Return the names of runs, and of the project's champion if there is one; none where MLflow cannot be asked."""
        from gpt.reports.side_by_side.runs import all_runs

        try:
            with store.store_errors():
                runs = [run.info.run_name or run.info.run_id for run in all_runs(self._client)]
                own_name = self._registered_name()
                champion = own_name and version_of_alias(self._client, own_name, CHAMPION)
        except UserError:
            return []
        return [*runs, f"@{CHAMPION}"] if champion else runs
