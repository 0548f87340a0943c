"""A model that is about to be a version of the registry: all that registering it needs to know, whatever made it.

gpt/registry/package.py makes the version; what is different of a pretrained and of a fine-tuned model stands in two subclasses.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpt
from gpt.registry.imports import needed_modules, pinned_requirements
from gpt.registry.lineage import Lineage
from gpt.registry.record import FOLDER, compose
from gpt.registry.serving.requests import Limits
from gpt.registry.versions import MODEL_FOLDER

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

Json = dict[str, Any]


@dataclass(frozen=True)
class Serving:
    """How a version answers as an MLflow model."""

    script: Path
    "MLflow copies it into the model and runs it there; the modules of `gpt` that it imports travel with it."
    signature: "ModelSignature"
    limits: Limits
    example: Mapping[str, list[str]]
    "A request, by column."


@dataclass(frozen=True)
class Registrable(ABC):
    """A model and its lineage, checked to belong together."""

    name: str
    "In the registry."
    experiment: str
    "Of MLflow: its training's run is there, found by the lineage's fingerprint."
    lineage: Lineage
    folder: Path
    "The model folder, which the version keeps."
    last_step: int
    "Of its training."

    @property
    def card(self) -> str | None:
        """Return the page of the data that it learned from, if there is one."""
        return None

    @property
    def shown(self) -> tuple[Path, ...]:
        """Return files that lie beside the record, for descriptions and pages."""
        return ()

    @property
    @abstractmethod
    def tags(self) -> dict[str, str]:
        """Return the figures that a version is searched and listed by, as tags beside those of its lineage."""

    @property
    @abstractmethod
    def figures(self) -> dict[str, float]:
        """Return what it scored, by the names of MLflow's metrics."""

    @abstractmethod
    def serving(self) -> Serving:
        """Return how it answers."""

    @abstractmethod
    def describe(self, tags: Mapping[str, str], uri: str) -> str:
        """Return the version's description in Markdown."""

    @abstractmethod
    def write_evaluation(self, folder: Path) -> None:
        """Write what it was judged on to the new folder `folder`, which the version keeps (gpt/registry/frozen.py)."""

    def compose(self, parents: Json) -> Json:
        """Return the record of its lineage; `parents` is `find_parents`'s."""
        return compose(self.lineage, parents)


def write_package(output: Path, scratch: Path, model: "LoggedModel", run_id: str, what: Registrable) -> None:
    """Write the MLflow model: script, the part of `gpt` it needs, the model folder, requirements, signature."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model

    serving = what.serving()
    modules, others = needed_modules(serving.script)
    package = Path(gpt.__file__).parent
    for module in modules:
        target = scratch / "gpt" / module.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, target)
    folder = what.folder.absolute()
    if folder.name != Path(MODEL_FOLDER).name:  # MLflow keeps a folder under its own name, and follows no link
        folder = shutil.copytree(folder, scratch / Path(MODEL_FOLDER).name)
    mlflow.pyfunc.save_model(
        path=str(output),
        mlflow_model=Model(
            model_id=model.model_id, model_uuid=model.model_id, run_id=run_id, artifact_path=model.artifact_location
        ),
        python_model=str(serving.script),
        code_paths=[str(scratch / "gpt")],
        # As a URI: in a path MLflow would read a %20.
        artifacts={"model": folder.as_uri(), "lineage": (scratch / FOLDER).as_uri()},
        pip_requirements=pinned_requirements(others),
        signature=serving.signature,
        model_config=serving.limits._asdict(),
        input_example=pd.DataFrame(dict(serving.example)),
    )
