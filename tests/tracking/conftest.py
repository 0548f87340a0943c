"""Projects that train and that register, as in tests/training and tests/registry."""

from typing import Any

from gpt import paths
from gpt.params.project import Params
from gpt.tracking.pages.description import describe_training
from gpt.tracking.tracker import Tracker, flat_params
from tests.registry.conftest import built, project
from tests.training.conftest import fresh_accelerate, make_project, params

__all__ = ["begin_tracking", "built", "fresh_accelerate", "make_project", "params", "project"]


def begin_tracking(
    params: Params, run: str | None, tags: dict[str, Any], dataset: dict[str, Any], card: str | None = None
) -> Tracker:
    """Begin a run, or go on with it, as `gpt pretrain` does."""
    return Tracker(
        paths.SPOOL,
        run,
        experiment=params.base.name,
        command="gpt pretrain",
        settings=flat_params(params),
        note=describe_training(params),
        tags=tags,
        dataset=dataset,
        card=card,
    )
