"""The model as MLflow loads and serves it: what is no text is named by its row, an empty batch has an empty answer."""

from collections.abc import Callable
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import init

from tests.registry.test_package import Registered, package_folder

Table = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def model(registered: Registered) -> PyFuncModel:
    return mlflow.pyfunc.load_model(str(package_folder(registered[0])))


def table(*prompts: object) -> pd.DataFrame:
    return pd.DataFrame({"prompt": list(prompts)})


@pytest.mark.parametrize(
    ("prompts", "named"),
    [
        (table("to be", None), "row 1 (null)"),
        (table("to be", float("nan"), "queen"), "row 1 (null)"),
        (table(float("nan")), "row 0 (null)"),
        (table(None), "row 0 (null)"),
        (table(pd.NaT), "row 0 (null)"),
        (pd.DataFrame({"prompt": pd.array(["a", pd.NA], dtype="string")}), "row 1 (null)"),
        (table("to be", 7), "row 1 (int)"),
        (table(7, 8), "row 0 (int), row 1 (int)"),
        (table(b"to be"), "row 0 (bytes)"),
        (table({"role": "user"}), "row 0 (dict)"),
        (table(*["to be"] * 57, None, *["to be"] * 42), "row 57 (null)"),
        (table(*[None] * 100), "row 9 (null) and 90 more"),
        (pd.DataFrame({"prompt": ["a", None]}, index=[7, 7]), "row 1 (null)"),
        ({"prompt": ["to be", None]}, "row 1 (null)"),
        ({"prompt": None}, "row 0 (null)"),
        ([{"prompt": "to be"}, {"prompt": None}], "row 1 (null)"),
        (pd.DataFrame({"text": ["to be"]}), "missing inputs ['prompt']"),
        (["to be"], "missing inputs ['prompt']"),
        ([], "missing inputs ['prompt']"),
    ],
)
def test_what_is_no_text_is_named_by_its_row(model: PyFuncModel, prompts: Any, named: str) -> None:
    with pytest.raises(MlflowException) as refusal:
        model.predict(prompts)
    assert named in str(refusal.value)
    assert refusal.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    "prompts", [table(), {"prompt": []}, [{"prompt": []}], pd.DataFrame({"prompt": pd.Series([], dtype="str")})]
)
def test_an_empty_batch_has_an_empty_answer(model: PyFuncModel, prompts: Any) -> None:
    answer = model.predict(prompts)
    assert list(answer.columns) == ["completion"]
    assert answer.empty


def test_prompts_of_any_form_and_length_are_completed(model: PyFuncModel) -> None:
    one = model.predict(table("to be"))["completion"].tolist()
    assert len(one) == 1
    forms = [{"prompt": "to be"}, {"prompt": ["to be"]}, [{"prompt": "to be"}], {"prompt": np.array(["to be"])}]
    forms += [pd.DataFrame({"prompt": pd.Categorical(["to be"])}), pd.DataFrame({"prompt": ["to be"], "note": [1]})]
    for prompts in forms:
        assert model.predict(prompts)["completion"].tolist() == one
    assert len(model.predict(table("", "to be " * 5000, "naïve \U0001f98a", "\0"))) == 4


def test_a_server_answers_400_with_the_row_and_an_empty_batch_with_none(model: PyFuncModel) -> None:
    with TestClient(init(model)) as server:
        refused = server.post("/invocations", json={"dataframe_records": [{"prompt": "to be"}, {"prompt": None}]})
        assert refused.status_code == 400
        assert "row 1 (null)" in refused.json()["message"]
        for batch in (
            {"dataframe_split": {"columns": ["prompt"], "data": []}},
            {"inputs": {"prompt": []}},
        ):
            answer = server.post("/invocations", json=batch)
            assert (answer.status_code, answer.json()) == (200, {"predictions": []}), answer.text
        answer = server.post("/invocations", json={"inputs": {"prompt": ["to be", "queen"]}})
        assert len(answer.json()["predictions"]) == 2
