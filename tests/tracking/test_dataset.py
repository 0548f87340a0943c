import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset
from mlflow.utils.validation import _validate_dataset  # pyright: ignore[reportPrivateUsage]

from gpt import paths
from gpt.files import read_json, write_json
from gpt.params.project import Params, load_params
from gpt.reports.data_card import write_card
from gpt.tokens.shards import data_id
from gpt.tracking.dataset import describe_contamination, describe_dataset, read_card
from gpt.tracking.store import training_run
from tests.tracking.conftest import begin_tracking

MANY = [f"source-{number}" for number in range(1000)]


@pytest.fixture
def project(prepared_project: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with tokens and a store, the current folder."""
    for part in ("data", "params.yaml"):
        copy = shutil.copytree if (prepared_project / part).is_dir() else shutil.copyfile
        copy(prepared_project / part, tmp_path / part)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def params(project: Path) -> Params:
    return load_params()


def describe() -> dict[str, str]:
    (source,) = load_params().fetch.sources
    fetched = {name: source.model_copy(update={"name": name, "licence": "CC0-1.0"}) for name in ("made-up", *MANY)}
    return describe_dataset("small", paths.DOCUMENTS, paths.TOKENS, fetched)


def test_a_dataset_says_what_the_data_are_and_fits_into_mlflow(project: Path) -> None:
    described = describe()
    digest = data_id(paths.TOKENS)
    assert (described["name"], described["digest"], described["tags"]) == (
        "small",
        digest[:36],
        {"data_sha256": digest},
    )
    (source,) = json.loads(described["source"])["sources"]
    assert source == {"name": "made-up", "sha256": load_params().fetch.sources[0].identity, "licence": "CC0-1.0"}
    profile = json.loads(described["profile"])
    counts = read_json(paths.PREPARE_COUNTS, "")
    for split, entry in profile["splits"].items():
        assert entry["documents_sha256"] == counts[split]["sha256"]
        assert entry["tokens"] == read_json(paths.TOKENIZE_COUNTS, "")[split]["tokens"]
    assert profile["contamination"] == counts["contamination"]

    report = read_json(paths.DOCUMENTS / "report.json", "")
    report["counts"]["contamination"] = {"piqa": {"items": 9, "touched": 2, "unprotected": 1}}
    report["fetched"] = [{"name": name, "files": 1, "bytes": 1} for name in MANY]
    write_json(paths.DOCUMENTS / "report.json", report)
    many = describe()
    _validate_dataset(Dataset(many["name"], many["digest"], "dvc", many["source"], profile=many["profile"]))
    assert "1000" in many["source"]
    assert json.loads(many["profile"])["contamination"]["piqa"]["touched"] == 2
    assert describe_contamination(paths.DOCUMENTS, paths.TOKENS) == "piqa 2/9; benchmarks cut, held_out cut"


def test_what_is_said_of_other_documents_is_not_said_of_these_tokens(project: Path) -> None:
    report = read_json(paths.DOCUMENTS / "report.json", "")
    report["counts"]["test"]["sha256"] = "0" * 64
    write_json(paths.DOCUMENTS / "report.json", report)
    assert json.loads(describe()["source"]) == {"sources": []}
    assert describe_contamination(paths.DOCUMENTS, paths.TOKENS) is None
    shutil.rmtree(paths.DOCUMENTS)
    assert json.loads(describe()["profile"])["contamination"] == {}, "training needs the tokens only"


def test_a_run_has_its_dataset_and_the_card_of_it_and_a_resumed_one_has_them_once(
    project: Path, params: Params
) -> None:
    write_card(params, paths.DOCUMENTS, paths.TOKENS, paths.DATA_CARD)
    card = read_card(paths.DATA_CARD, paths.TOKENS)
    tags = {"fingerprint": "f"}
    first = begin_tracking(params, None, tags, describe(), card)  # and was killed
    with begin_tracking(params, first.run, tags, describe(), card):
        pass
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    run_id = training_run(client, params.base.name, "f").info.run_id
    (data,) = client.get_run(run_id).inputs.dataset_inputs  # pyright: ignore[reportOptionalMemberAccess]
    assert data.dataset.digest == data_id(paths.TOKENS)[:36]
    downloaded = Path(client.download_artifacts(run_id, "data.html"))
    assert downloaded.read_text(encoding="utf-8") == paths.DATA_CARD.read_text(encoding="utf-8")


def test_the_card_of_other_data_is_left_out(project: Path) -> None:
    assert read_card(paths.DATA_CARD, paths.TOKENS) is None
    paths.DATA_CARD.parent.mkdir()
    paths.DATA_CARD.write_text("<html>of other data</html>", encoding="utf-8")
    assert read_card(paths.DATA_CARD, paths.TOKENS) is None
