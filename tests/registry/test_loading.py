"""gpt.load: a version or a folder in Python, the texts and figures that the commands give, from any folder."""

import ast
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gpt
from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json
from gpt.loading import LanguageModel
from gpt.model.generation import generate_texts
from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from gpt.registry.package import RegisteredModel
from gpt.tracking import store
from tests import ROOT
from tests.registry.conftest import change_params

Registered = tuple[Path, RegisteredModel]


@pytest.fixture
def model(built: Path) -> LanguageModel:
    return gpt.load(built / paths.BASE_MODEL, device="cpu")


def held_out_documents(project: Path, split: str) -> list[str]:
    lines = [line for path in (project / paths.DOCUMENTS).glob(f"{split}_*.jsonl") for line in path.open()]
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture
def elsewhere(registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that lies in no project, without an address of a store; the current one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_importing_gpt_takes_nothing_heavy() -> None:
    code = "import gpt, sys; print(sorted({'torch', 'mlflow', 'pydantic', 'numpy'} & set(sys.modules)), dir(gpt).count('load'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said == "[] 1\n"
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = gpt.laod  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.7, "top_k": 5, "seed": 3}, {"top_p": 0.9}])
def test_a_text_is_the_one_that_the_commands_write(
    built: Path, model: LanguageModel, options: dict[str, float]
) -> None:
    network, encoding = load_model(built / paths.BASE_MODEL)
    prompts = ["to be", "queen and "]
    sampling = Sampling(12, **options)  # pyright: ignore[reportArgumentType]
    expected = generate_texts(network, encoding, prompts, sampling)
    assert any(expected)
    assert model.generate_batch(prompts, max_new_tokens=12, **options) == expected  # pyright: ignore[reportArgumentType]
    assert model.generate(prompts[0], max_new_tokens=12, **options) == expected[0]  # pyright: ignore[reportArgumentType]
    pieces = list(model.stream(prompts[0], max_new_tokens=12, **options))  # pyright: ignore[reportArgumentType]
    assert len(pieces) > 1
    assert "".join(pieces) == expected[0]


def test_a_stop_string_ends_a_text(model: LanguageModel) -> None:
    text = model.generate("to be", max_new_tokens=30, temperature=0)
    stop = text[5:8]
    assert model.generate("to be", max_new_tokens=30, temperature=0, stop=[stop]) == text[: text.find(stop)]


def test_bits_per_byte_are_those_of_the_evaluation(built: Path, model: LanguageModel) -> None:
    documents = held_out_documents(built, "test")
    measured = read_json(built / paths.EVALUATION, "")["test"]
    assert model.bits_per_byte(documents) == pytest.approx(measured["bits_per_byte"], rel=1e-5)
    assert model.likelihood(iter(documents)).tokens == measured["tokens"]
    one_by_one = sum(model.log_likelihood(text) for text in documents)
    assert -one_by_one / math.log(2) / measured["bytes"] == pytest.approx(measured["bits_per_byte"], rel=1e-5)


def test_a_log_likelihood_is_the_sum_over_the_tokens_and_the_end(model: LanguageModel) -> None:
    end, text = model.tokenizer.eot_token, "to be"
    tokens = torch.tensor([[end, *model.tokenizer.encode_ordinary(text), end]])
    with torch.no_grad():
        logits = model.network(tokens[:, :-1]).float()
    expected = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum().item()
    assert model.log_likelihood(text) == pytest.approx(expected, rel=1e-5)


def test_a_version_is_loaded_from_anywhere(registered: Registered, elsewhere: Path) -> None:
    project, version = registered
    model = gpt.load(f"models:/{version.name}@candidate", project=project)
    assert model.name == version.uri
    assert model.generate("to be", max_new_tokens=9, seed=1) == gpt.load(project / paths.BASE_MODEL).generate(
        "to be", max_new_tokens=9, seed=1
    )
    assert repr(model).startswith(f"LanguageModel('{version.uri}', ")
    assert list(elsewhere.iterdir()) == []


def test_an_alias_alone_is_of_the_project_around(
    registered: Registered, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, version = registered
    monkeypatch.chdir(project / "data")
    assert gpt.load("@candidate").name == version.uri
    assert Path.cwd() == project / "data"


def test_the_address_of_a_store_stands_for_a_project(
    registered: Registered, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, version = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}".replace(" ", "%20"))
    assert gpt.load(version.uri).name == version.uri


def test_what_cannot_be_loaded_is_one_message_that_says_what_to_do(
    registered: Registered, built: Path, elsewhere: Path
) -> None:
    project, version = registered
    shutil.copytree(built / paths.BASE_MODEL, elsewhere / "hub")
    config = json.loads((elsewhere / "hub" / "config.json").read_text())
    (elsewhere / "hub" / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    for arguments, message in [
        ({"model": "nowhere"}, r"nowhere/config.json: not found; name a folder"),
        ({"model": "hub"}, "hub: in the form of Hugging Face; `gpt import hub`"),
        ({"model": version.uri}, "lies in no project.*MLFLOW_TRACKING_URI"),
        ({"model": "@champion"}, "lies in no project"),
        ({"model": version.uri, "project": elsewhere}, "elsewhere: not a project"),
        ({"model": f"models:/{version.name}", "project": project}, "models:/NAME@ALIAS or models:/NAME/VERSION"),
        ({"model": f"models:/{version.name}/99", "project": project}, f"it has version 1 of {version.name}"),
        ({"model": "models:/other@champion", "project": project}, f"it has the models {version.name}"),
    ]:
        with pytest.raises(UserError, match=message):
            gpt.load(**arguments)  # pyright: ignore[reportArgumentType]


def test_wrong_arguments_are_named(model: LanguageModel) -> None:
    with pytest.raises(TypeError, match="prompt must be a text, not list"):
        model.generate(["to be"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="prompts must be a sequence of texts, not str"):
        model.generate_batch("to be")
    with pytest.raises(TypeError, match=r"texts\[1\] must be a text, not int"):
        model.bits_per_byte(["a", 3])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="stop must be a sequence of texts"):
        model.generate("to be", stop="x")
    with pytest.raises(ValueError, match="temperature = -1 is out of range"):
        model.stream("to be", temperature=-1)
    with pytest.raises(ValueError, match="no byte"):
        model.bits_per_byte([])
    assert model.log_likelihood("") < 0


def test_the_notebook_runs_from_its_folder(
    registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cell after cell in one process, as a notebook does; what stands last in a cell is shown, and none of it is committed."""
    project, version = registered
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(project, tmp_path / "project")
    (tmp_path / "project" / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    store.client().set_registered_model_alias(version.name, "champion", str(version.version))
    monkeypatch.chdir(tmp_path / "project" / "docs")
    cells = [each for each in read_json(ROOT / "docs/model.ipynb", "")["cells"] if each["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names, shown = {}, []
    for cell in cells:
        *statements, last = ast.parse("".join(cell["source"])).body
        exec(compile(ast.Module(statements, []), "model.ipynb", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "model.ipynb", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "model.ipynb", "exec"), names)
    printed = capsys.readouterr().out
    assert shown[0].name == version.uri
    assert shown[1] == (version.uri, shown[0].config)
    assert isinstance(shown[2], str)
    assert printed.count("\n'") == 2  # repr of each of three prompts
    assert list(shown[3].values()) == sorted(shown[3].values())
    assert "".join(shown[5]) == "To be, or not to"
    assert len(shown[6]) == 5


def test_a_project_whose_model_has_another_name_is_asked_for_its_own(project: Path) -> None:
    change_params(project, {"register": {"name": "other-gpt"}})
    with pytest.raises(UserError, match="no models yet"):
        gpt.load("@champion")
