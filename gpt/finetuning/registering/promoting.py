"""Promotion of fine-tuned models: that of pretrained ones (gpt/registry/promotion.py), with another name and another gate."""

from typing import TYPE_CHECKING

from gpt.errors import UserError
from gpt.params.finetuning import load_recipe, recipe_file, registered_name
from gpt.params.project import Params
from gpt.registry.gate.reasons import OpenCase

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from gpt.finetuning.registering.case import FineTunedCase


def named(name: str, params: Params) -> Params:
    """Return settings under which promotion is about the registered model `name`."""
    return params.model_copy(update={"register_": params.register_.model_copy(update={"name": name})})


def recipe_of(name: str, params: Params) -> str | None:
    """Return the recipe whose versions are called `name`, None for pretrained models; raise `UserError` for other names."""
    own = params.register_.name
    if name == own:
        return None
    recipe = name.removeprefix(registered_name(own, ""))
    if recipe == name:
        raise UserError(
            f"{name}: not a model of this project: it has {own} (params.yaml: register.name), and of each recipe"
            f" {registered_name(own, 'RECIPE')}"
        )
    recipe_file(recipe)
    return recipe


def open_case_of(recipe: str, *, other_data: bool = False) -> OpenCase:
    """Return how versions of a recipe are judged, by its thresholds of now."""
    settings = load_recipe(recipe)

    def open_case(
        client: "MlflowClient", candidate: "ModelVersion", champion: "ModelVersion | None"
    ) -> "FineTunedCase":
        from gpt.finetuning.registering.case import FineTunedCase  # here, as it brings torch

        return FineTunedCase(client, candidate, champion, settings, other_data)

    return open_case
