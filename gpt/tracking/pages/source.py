"""Where a run comes from, in the tags that MLflow's pages show as its source: command, commit, user, experiment of DVC."""

import getpass
import os
from contextlib import suppress
from pathlib import Path

from gpt import git
from gpt.errors import UserError
from gpt.tracking.pages.names import COMMIT_TAG, EXPERIMENT_TAG

SWEEP_TRIAL, SWEEP_PARENT = "GPT_SWEEP_TRIAL", "GPT_SWEEP_PARENT"
"In the environment of a sweep's trial: which one it is, and MLflow's id of the run that stands for the sweep."
TRIAL_TAG, PARENT_TAG = "gpt.sweep.trial", "mlflow.parentRunId"
_OF_SWEEPS = {SWEEP_TRIAL: TRIAL_TAG, SWEEP_PARENT: PARENT_TAG}


def source_tags(command: str, project: Path) -> dict[str, str]:
    """Return the tags of a run that a command of the project starts; what is not known here is left out."""
    tags = {"mlflow.source.name": command, "mlflow.source.type": "LOCAL"} | _code(project)
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags[EXPERIMENT_TAG] = experiment
    tags |= {tag: value for variable, tag in _OF_SWEEPS.items() if (value := os.environ.get(variable))}
    with suppress(KeyError, OSError):  # a container with a number that nobody has
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _code(project: Path) -> dict[str, str]:
    try:
        commit = git.find_commit(project)
        if commit is None:
            return {}
        unchanged = [f":(exclude){path}" for path in git.GENERATED]
        changes = git.ask(project, "status", "--porcelain", "--untracked-files=no", "--", ".", *unchanged)
        branch = git.ask(project, "branch", "--show-current").decode(errors="replace").strip()
    except UserError:  # no repository, or none that git reads: the run is told without
        return {}
    tags = {COMMIT_TAG: commit, "git_dirty": str(bool(changes)).lower()}
    return tags | ({"mlflow.source.git.branch": branch} if branch else {})
