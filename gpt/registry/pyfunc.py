"""The GPT as an MLflow pyfunc: prompts in, completions out. MLflow copies this file into the model and runs it there.

What it imports from `gpt` travels with the model (see gpt/registry/imports.py): it loads without a checkout, and
nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from gpt.model.generation import Sampling, generate_texts
from gpt.model.storage import default_device, load_model


class CompletionModel(PythonModel):
    """Completes each row's `prompt`; a prompt, parameters and a seed give one completion, whatever the other rows."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model, self.encoding = load_model(Path(context.artifacts["model"]), default_device())

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]: MLflow's own returns nothing
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a `completion` for each `prompt`; MLflow fills `params` from the signature's defaults."""
        values: dict[str, Any] = dict(params or {})
        values["stop"] = tuple(values.get("stop", ()))
        sampling = Sampling(**values)
        prompts = model_input.explode("prompt")["prompt"]  # of {"prompt": [...]} MLflow makes one row that holds a list
        seeds = [sampling.seed] * len(prompts)
        return pd.DataFrame(
            {"completion": generate_texts(self.model, self.encoding, list(prompts), sampling, seeds=seeds)}
        )


set_model(CompletionModel())
