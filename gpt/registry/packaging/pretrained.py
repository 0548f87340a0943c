"""The project's pretrained model, models/base, as what is registered."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt import paths
from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from gpt.params.project import Params
from gpt.registry.frozen import write_frozen
from gpt.registry.lineage import collect, read_evaluation
from gpt.registry.overview import facts
from gpt.registry.overview.description import describe_version
from gpt.registry.overview.listing import CENTRED_TAG
from gpt.registry.packaging.registrable import Registrable, Serving
from gpt.registry.serving.requests import limits_for
from gpt.tracking.dataset import read_card
from gpt.tracking.pages.figures import name_figures

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, Schema

_SCRIPT = Path(__file__).parents[1] / "serving" / "pyfunc.py"


@dataclass(frozen=True)
class Pretrained(Registrable):
    params: Params
    project: Path

    @classmethod
    def of_project(cls, params: Params, project: Path) -> "Pretrained":
        """Raise `UserError` if model, evaluation or data are missing or do not belong together."""
        lineage, folder = collect(project), project / paths.BASE_MODEL
        load_model(folder)  # what does not load is not registered
        return cls(
            params.register_.name, params.base.name, lineage, folder, params.train.max_steps, params, project
        )  # fmt: skip

    @property
    def card(self) -> str | None:
        return read_card(self.project / paths.DATA_CARD, self.project / paths.TOKENS)

    @property
    def shown(self) -> tuple[Path, ...]:
        files = (paths.SAMPLES, paths.ATTENTION, paths.TOKENIZE_COUNTS, paths.PREPARE_COUNTS)
        return tuple(self.project / path for path in files if (self.project / path).is_file())

    @property
    def tags(self) -> dict[str, str]:
        evaluation = read_evaluation(self.project)
        tags = {
            f"{split}_bits_per_byte": repr(evaluation[split]["bits_per_byte"]) for split in ("validation", "test")
        }  # fmt: skip
        if isinstance(centred := evaluation.get("centred"), float):
            tags[CENTRED_TAG] = repr(centred)
        return tags

    @property
    def figures(self) -> dict[str, float]:
        return name_figures(read_evaluation(self.project))

    def serving(self) -> Serving:
        params = self.params
        limits = limits_for(params.model.block_size, params.evaluate.max_new_tokens)
        sampling = Sampling(
            params.evaluate.max_new_tokens,
            temperature=params.evaluate.temperature,
            top_k=params.evaluate.top_k,
            seed=params.base.seed,
        )
        return Serving(_SCRIPT, text_signature(sampling), limits, {"prompt": [params.evaluate.prompts[0]]})

    def describe(self, tags: Mapping[str, str], uri: str) -> str:
        return describe_version(facts.of_project(self.project, tags, name=self.name, uri=uri))

    def write_evaluation(self, folder: Path) -> None:
        write_frozen(self.project, self.params.evaluate, read_evaluation(self.project), folder)


def text_signature(sampling: Sampling) -> "ModelSignature":
    """Return the signature of a model that writes texts after prompts; `sampling` are its defaults."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    return ModelSignature(prompt_schema(), Schema([ColSpec(DataType.string, "completion")]), _parameters(sampling))


def prompt_schema() -> "Schema":
    """Return the schema of requests: a column of prompts."""
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    # Not `string`: MLflow itself would refuse an empty table, and a null without naming its row. The model checks.
    return Schema([ColSpec(AnyType(), "prompt")])


def _parameters(sampling: Sampling) -> "ParamSchema":
    from mlflow.types import DataType, ParamSchema, ParamSpec

    types = {int: DataType.long, float: DataType.double}
    return ParamSchema(
        [
            ParamSpec("stop", DataType.string, [], shape=(-1,))
            if name == "stop"
            else ParamSpec(name, types[type(default)], default)
            for name, default in dataclasses.asdict(sampling).items()
        ]
    )
