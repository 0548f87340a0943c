"""The GPT as an MLflow pyfunc: prompts in, completions out.

What a server answers to a bad request: requests.py and scoring.py beside it.
"""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from gpt.model.generation import generate_texts
from gpt.model.sampling import Sampling
from gpt.model.storage import default_device, load_model
from gpt.registry.serving.arrival import check_awaited, turn
from gpt.registry.serving.requests import check_parameters, check_prompts, check_size, read_limits
from gpt.registry.serving.scoring import guard_server, is_serving


class CompletionModel(PythonModel):
    """Completes each row's `prompt`; a prompt, parameters and a seed give one completion, whatever the other rows."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model, self.encoding = load_model(Path(context.artifacts["model"]), default_device())
        self.request_limits = read_limits(context.model_config)
        # A server answers in many threads. Side by side they would need many times the memory, and be no faster.
        self._one_at_a_time = threading.Lock()
        guard_server()

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]: MLflow's own returns nothing
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a `completion` for each `prompt`; MLflow fills `params` from the signature's defaults.

        Raises `MlflowException` (a server's 400) that names the parameter that is out of range, or the rows whose prompt is
        no text or too long.
        """
        try:
            sampling = Sampling(**check_parameters(params or {}, self.request_limits))
            prompts = check_prompts(_flatten(model_input["prompt"]), self.request_limits)
            if is_serving():
                check_size(len(prompts), sampling.max_new_tokens, self.request_limits)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        seeds = [sampling.seed] * len(prompts)
        with turn(self._one_at_a_time):
            texts = generate_texts(
                self.model, self.encoding, prompts, sampling, seeds=seeds, at_each_step=check_awaited
            )
        return pd.DataFrame({"completion": pd.Series(texts, dtype="str")})


def _flatten(column: Iterable[Any]) -> list[Any]:
    """Return the prompts of all rows; of {"prompt": [...]} MLflow makes one row that holds a list."""
    prompts: list[Any] = []
    for value in column:
        value = value.tolist() if isinstance(value, np.ndarray) else value
        prompts += value if isinstance(value, list | tuple) else [value]
    return prompts
