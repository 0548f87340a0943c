"""The GPT as an MLflow pyfunc: prompts in, completions out. MLflow copies this file into the model and runs it there.

What it imports from `gpt` travels with the model (see gpt/registry/imports.py): it loads without a checkout, and
nothing is unpickled.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from gpt.model.generation import Sampling, generate_texts
from gpt.model.storage import default_device, load_model

_NAMED = 10  # rows in an error


class CompletionModel(PythonModel):
    """Completes each row's `prompt`; a prompt, parameters and a seed give one completion, whatever the other rows."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model, self.encoding = load_model(Path(context.artifacts["model"]), default_device())

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]: MLflow's own returns nothing
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a `completion` for each `prompt`; MLflow fills `params` from the signature's defaults.

        Raises `MlflowException` (a server's 400) that names the rows whose prompt is no text.
        """
        values: dict[str, Any] = dict(params or {})
        values["stop"] = tuple(values.get("stop", ()))
        sampling = Sampling(**values)
        prompts = _prompts(model_input)
        seeds = [sampling.seed] * len(prompts)
        texts = generate_texts(self.model, self.encoding, prompts, sampling, seeds=seeds)
        return pd.DataFrame({"completion": pd.Series(texts, dtype="str")})


def _prompts(model_input: pd.DataFrame) -> list[str]:
    """Return the prompts of all rows; of {"prompt": [...]} MLflow makes one row that holds a list."""
    prompts: list[Any] = []
    for value in model_input["prompt"]:
        prompts += list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    wrong = [f"row {row} ({_describe(value)})" for row, value in enumerate(prompts) if not isinstance(value, str)]
    if wrong:
        named = ", ".join(wrong[:_NAMED]) + (f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else "")
        raise MlflowException.invalid_parameter_value(f'"prompt" must be text, counted from 0 it is none in {named}')
    return prompts


def _describe(value: Any) -> str:
    return "null" if value is None or value is pd.NA or value != value else type(value).__name__  # NaN is not itself


set_model(CompletionModel())
