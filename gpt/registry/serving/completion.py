"""The GPT as an MLflow pyfunc: prompts in, completions out.

What a server answers to a bad request: requests.py and scoring.py beside it.
"""

import threading
from collections.abc import Iterable, Sequence
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
    """Completes each row's `prompt`; a prompt, parameters and a seed give one completion, whatever the other rows.

    What a model of another kind does with prompts, it says in `load`, `read_parameters` and `answer`.
    """

    takes_parameters = True

    def load_context(self, context: PythonModelContext) -> None:
        self.load(Path(context.artifacts["model"]))
        self.request_limits = read_limits(context.model_config)
        # A server answers in many threads. Side by side they would need many times the memory, and be no faster.
        self._one_at_a_time = threading.Lock()
        guard_server()

    def load(self, folder: Path) -> None:
        """Load the model folder of the version."""
        self.model, self.encoding = load_model(folder, default_device())

    def read_parameters(self, params: dict[str, Any]) -> Sampling:
        """Return how to answer; raise `ValueError` for a parameter that is none or out of range."""
        return Sampling(**check_parameters(params, self.request_limits))

    def answer(self, prompts: Sequence[str], sampling: Sampling) -> pd.DataFrame:
        """Return a row for each prompt."""
        seeds = [sampling.seed] * len(prompts)
        texts = generate_texts(self.model, self.encoding, prompts, sampling, seeds=seeds, at_each_step=check_awaited)
        return completions(texts)

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]: MLflow's own returns nothing
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return what `answer` says to each `prompt`; MLflow fills `params` from the signature's defaults.

        Raises `MlflowException` (a server's 400) that names the parameter that is out of range, or the rows whose prompt is
        no text or too long.
        """
        try:
            sampling = self.read_parameters(params or {})
            prompts = check_prompts(_flatten(model_input["prompt"]), self.request_limits)
            if is_serving():
                check_size(len(prompts), sampling.max_new_tokens, self.request_limits)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        with turn(self._one_at_a_time):
            return self.answer(prompts, sampling)


def completions(texts: Sequence[str]) -> pd.DataFrame:
    """Return texts as the table that a model answers with."""
    return pd.DataFrame({"completion": pd.Series(texts, dtype="str")})


def _flatten(column: Iterable[Any]) -> list[Any]:
    """Return the prompts of all rows; of {"prompt": [...]} MLflow makes one row that holds a list."""
    prompts: list[Any] = []
    for value in column:
        value = value.tolist() if isinstance(value, np.ndarray) else value
        prompts += value if isinstance(value, list | tuple) else [value]
    return prompts
