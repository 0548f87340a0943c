"""`gpt finetune register`: a recipe's model as what is registered, under register.name-RECIPE."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt import paths
from gpt.finetuning.methods.saving import HEAD, load_answering, load_classifier
from gpt.finetuning.places import Places
from gpt.finetuning.registering.judged_on import write_judged_on
from gpt.finetuning.registering.lineage import collect, find_base, read_evaluation
from gpt.model.sampling import Sampling
from gpt.params.finetuning import Classify, Recipe, load_recipe, registered_name
from gpt.params.project import Params
from gpt.registry.overview import facts
from gpt.registry.overview.description import describe_version
from gpt.registry.overview.listing import FIGURE_TAG
from gpt.registry.package import RegisteredModel, register_model
from gpt.registry.packaging.pretrained import prompt_schema, text_signature
from gpt.registry.packaging.registrable import Registrable, Serving
from gpt.registry.record import describe_source
from gpt.registry.serving.requests import limits_for
from gpt.secrets.hiding import redact_values
from gpt.tracking import store
from gpt.tracking.pages.figures import main_figure, name_finetuned
from gpt.tracking.pages.markdown import aligned, block, fenced, finetuned_rows

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_SCRIPT = Path(__file__).with_name("pyfunc.py")
_EXAMPLE = "Hello!"
Json = dict[str, Any]


def register_recipe(name: str, params: Params) -> RegisteredModel:
    """Register the evaluated model of a recipe as the candidate. Raises `UserError` as `Registrable`s do."""
    return register_model(FineTuned.of_recipe(name, params), paths.kept(paths.SPOOL))


def describe(name: str, evaluation: Json) -> list[str]:
    """Return the parts of the description of a recipe's run in MLflow, once its model was judged: Markdown."""
    samples = "\n".join(
        f"{sample['asked'][-1]['content']}\n→ {sample['answer']}" for sample in evaluation.get("samples", [])[:3]
    )
    return [
        f"**{main_figure(evaluation)}** on {evaluation['examples']:,} test examples, fine-tuned from"
        f" {evaluation['base']['init_from']} by {evaluation['method']} (recipe `{name}`).",
        block("", aligned(finetuned_rows(evaluation))),
        f"Answers:\n\n{fenced(samples, 'text')}" if samples else "",
        "All figures: `evaluation/evaluation.json`.",
    ]


@dataclass(frozen=True)
class FineTuned(Registrable):
    recipe: Recipe
    places: Places
    evaluation: Json

    @classmethod
    def of_recipe(cls, name: str, params: Params) -> "FineTuned":
        """Raise `UserError` if model, evaluation or examples are missing or do not belong together."""
        recipe, places = load_recipe(name), Places(name)
        lineage, evaluation = collect(recipe, places), read_evaluation(places)
        load = load_classifier if isinstance(recipe.task, Classify) else load_answering
        load(places.model)  # what does not load is not registered
        client = store.client()
        with store.store_errors():
            lineage = replace(lineage, initial=find_base(client, lineage.initial, params.register_.name))
        called = registered_name(params.register_.name, name)
        return cls(called, called, lineage, places.model, _last_step(places), recipe, places, evaluation)

    @property
    def tags(self) -> dict[str, str]:
        tags = {"recipe": self.places.name, "task": self.recipe.task.kind, FIGURE_TAG: main_figure(self.evaluation)}
        bits = self.evaluation.get("bits_per_byte")
        return tags | ({"test_bits_per_byte": repr(bits)} if isinstance(bits, float) else {})

    @property
    def figures(self) -> dict[str, float]:
        return name_finetuned(self.evaluation)

    def compose(self, parents: Json) -> Json:
        values = self.recipe.model_dump(mode="json")
        record = super().compose(parents)
        record["training"]["seed"] = self.recipe.seed
        record["sources"] = redact_values([describe_source(source, "examples") for source in values["data"]["sources"]])
        record["recipe"] = {
            "name": self.places.name,
            "sha256": self.lineage.params_sha256,
            "values": redact_values(values),
        }
        record["figures"] = self.figures
        return record

    def serving(self) -> Serving:
        judge = self.recipe.judge
        limits = limits_for(self.evaluation["model"]["block_size"], judge.max_new_tokens)
        if (self.folder / HEAD).is_file():
            return Serving(_SCRIPT, _class_signature(), limits, {"prompt": [_EXAMPLE]})
        sampling = Sampling(judge.max_new_tokens, temperature=judge.temperature, seed=self.recipe.seed)
        return Serving(_SCRIPT, text_signature(sampling), limits, {"prompt": [_EXAMPLE]})

    def describe(self, tags: Mapping[str, str], uri: str) -> str:
        return describe_version(facts.of_files(self.name, uri, tags, self.lineage.files))

    def write_evaluation(self, folder: Path) -> None:
        write_judged_on(self.places, folder)


def _last_step(places: Places) -> int:
    rows = places.training_plot.read_text(encoding="utf-8").splitlines()[1:]
    return max((int(row.partition(",")[0]) for row in rows), default=0)


def _class_signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Map

    outputs = [ColSpec(DataType.string, "label"), ColSpec(DataType.double, "probability")]
    return ModelSignature(prompt_schema(), Schema([*outputs, ColSpec(Map(DataType.double), "probabilities")]))
