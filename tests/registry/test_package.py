import json
import shutil
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from gpt import paths
from gpt.corpus.documents import describe_documents
from gpt.errors import UserError
from gpt.evaluation.held_out import HELD_OUT, read_held_out
from gpt.evaluation.passages import score_documents
from gpt.evaluation.scores import PASSAGES_FILE, Passages
from gpt.files import read_json, sha256_file, write_json
from gpt.model.generation import generate_text
from gpt.model.sampling import Sampling
from gpt.model.storage import load_model
from gpt.params.project import Params, load_params
from gpt.registry import package
from gpt.registry.lineage import SEARCHED
from gpt.registry.package import RegisteredModel, register
from gpt.registry.record import read_record
from gpt.registry.versions import CANDIDATE, CHAMPION, all_versions, resolve_model, version_of_alias
from gpt.tokens.shards import data_id
from gpt.tracking import store
from gpt.tracking.journal import Journal
from tests.registry.conftest import describe_run, make_model, register_model

NAME = "small-gpt"
Registered = tuple[Path, RegisteredModel]


def package_folder(project: Path) -> Path:
    (description,) = (project / "mlartifacts").rglob("MLmodel")
    return description.parent


def run_elsewhere(code: str, folder: Path) -> str:
    """Run Python as in a process that has MLflow installed and no checkout: nothing of ours is on its path."""
    command = [sys.executable, "-I", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loads_and_completes_where_there_is_no_checkout(registered: Registered, tmp_path: Path) -> None:
    project, model = registered
    wanted = Sampling(12, temperature=0.7, top_k=9, top_p=0.9, stop=("zz", " the"), seed=5)
    sampling = asdict(wanted) | {"stop": list(wanted.stop)}
    code = f"""
        import json
        import mlflow, pandas as pd
        mlflow.set_tracking_uri({model.tracking_uri!r})
        loaded = mlflow.pyfunc.load_model("models:/{NAME}@candidate")
        prompts = pd.DataFrame({{"prompt": ["queen", "to be", "queen"]}})
        completions = loaded.predict(prompts, params={sampling!r})["completion"].tolist()
        defaults = loaded.predict({{"prompt": ["to be"]}})["completion"].tolist()
        import gpt
        print(json.dumps([gpt.__file__, completions, defaults]))
    """
    imported, completions, defaults = json.loads(run_elsewhere(code, tmp_path).splitlines()[-1])
    assert Path(imported).is_relative_to(project / "mlartifacts")
    gpt_model, encoding = load_model(project / paths.BASE_MODEL)

    def complete(text: str, sampling: Sampling) -> str:
        return "".join(generate_text(gpt_model, encoding, text, sampling))

    assert completions == [complete(text, wanted) for text in ("queen", "to be", "queen")]
    params = load_params(project / "params.yaml")
    settings = params.evaluate.model_dump(include={"max_new_tokens", "temperature", "top_k"})
    assert defaults == [complete("to be", Sampling(**settings, seed=params.base.seed))]


def test_package_holds_no_pickle_and_only_the_code_that_it_needs(registered: Registered) -> None:
    folder = package_folder(registered[0])
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}  # Python's own, where it was loaded
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]
    heads = {name: (folder / name).read_bytes()[:2] for name in files if not name.endswith(".safetensors")}
    assert not [name for name, head in heads.items() if head[:1] == b"\x80" and head[1:] in b"\2\3\4\5"], "pickles"
    code = {name for name in files if name.startswith("code/")}
    assert "code/gpt/model/transformer.py" in code
    assert not [name for name in code if "/training/" in name or "/evaluation/" in name]
    of_the_registry = {name for name in code if "/registry/" in name}
    serving = {
        f"code/gpt/registry/serving/{name}.py" for name in ("__init__", "arrival", "completion", "requests", "scoring")
    }
    assert of_the_registry == {"code/gpt/registry/__init__.py", *serving}


def test_requirements_are_exact_and_portable(registered: Registered) -> None:
    lines = (package_folder(registered[0]) / "requirements.txt").read_text().splitlines()
    assert all("==" in line and "+" not in line for line in lines)
    assert {"mlflow", "torch", "tiktoken", "tokenizers", "safetensors"} <= {line.partition("==")[0] for line in lines}


def test_signature_is_explicit_with_the_defaults_of_params(registered: Registered) -> None:
    project, _ = registered
    signature = yaml.safe_load((package_folder(project) / "MLmodel").read_text())["signature"]
    assert [column["name"] for column in json.loads(signature["inputs"])] == ["prompt"]
    assert [column["name"] for column in json.loads(signature["outputs"])] == ["completion"]
    defaults = {entry["name"]: entry["default"] for entry in json.loads(signature["params"])}
    settings = load_params(project / "params.yaml")
    assert defaults == {
        "max_new_tokens": settings.evaluate.max_new_tokens,
        "temperature": settings.evaluate.temperature,
        "top_k": settings.evaluate.top_k,
        "seed": settings.base.seed,
        "repetition_penalty": 1.0,
        "top_p": 1.0,
        "min_p": 0.0,
        "stop": [],
    }


def test_registering_twice_gives_one_version(project: Path, params: Params) -> None:
    first, second = register(params, project), register(params, project)
    assert (first.version, first.new, first.alias) == (1, True, CANDIDATE)
    assert (second.version, second.new, second.alias) == (1, False, CANDIDATE)
    assert second.run_id == first.run_id
    assert len(all_versions(store.client(), NAME)) == 1


def test_other_weights_or_settings_give_another_version(project: Path, params: Params) -> None:
    register(params, project)
    assert register_model(project, steps=6).version == 2
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("temperature: 0.8", "temperature: 0.7"))
    assert register(load_params(file), project).version == 3


def test_where_it_ran_makes_no_other_version(project: Path, params: Params) -> None:
    register(params, project)
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("micro_batch_size: 8", "micro_batch_size: 4"))
    assert not register(load_params(file), project).new


def test_an_old_model_registered_again_does_not_displace_the_newer_candidate(project: Path, params: Params) -> None:
    register(params, project)
    register_model(project, steps=6)
    again = register_model(project, steps=5)
    assert (again.version, again.new, again.alias) == (1, False, None)
    candidate = version_of_alias(store.client(), NAME, CANDIDATE)
    assert candidate is not None
    assert int(candidate.version) == 2


def test_a_candidate_alias_that_a_crash_left_unset_is_set_by_the_next_run(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(package, "offer", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            register(params, project)
    assert version_of_alias(store.client(), NAME, CANDIDATE) is None
    again = register(params, project)
    assert (again.version, again.new, again.alias) == (1, False, CANDIDATE)


def test_a_failure_leaves_no_version(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(package, "ensure_registered_model", _interrupt)  # everything but the version is there
        with pytest.raises(KeyboardInterrupt):
            register(params, project)
    client = store.client()
    assert not all_versions(client, NAME)
    experiment = store.experiment_id(client, params.base.name)
    assert not client.search_logged_models([experiment])
    assert register(params, project).version == 1
    assert len(client.search_runs([experiment])) == 1, "the second attempt takes the first one's run"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_attaches_to_the_training_run(project: Path, params: Params) -> None:
    client = store.client()
    tags = {"fingerprint": "trained"}
    run_id = client.create_run(store.experiment_id(client, params.base.name), tags=tags).info.run_id
    write_json(project / paths.RUN, describe_run(project, "trained", num_processes=2))
    model = register(params, project)
    assert model.run_id == run_id
    run = client.get_run(run_id)
    expected = read_json(project / paths.EVALUATION, "")["test"]["bits_per_byte"]
    assert run.data.metrics["test_bits_per_byte"] == expected
    assert run.data.tags["lineage.num_processes"] == "2"


@pytest.mark.parametrize("of_these_data", [True, False])
def test_the_run_has_the_card_of_its_data_although_that_was_drawn_after_training(
    project: Path, params: Params, of_these_data: bool
) -> None:
    paths.DATA_CARD.parent.mkdir(exist_ok=True)
    paths.DATA_CARD.write_text(f"data {data_id(paths.TOKENS) if of_these_data else 'of before'}")
    run_id = register(params, project).run_id
    logged = [file.path for file in store.client().list_artifacts(run_id)]
    assert ("data.html" in logged) is of_these_data


def test_a_run_that_waits_in_the_spool_is_delivered_first(project: Path, params: Params) -> None:
    journal = Journal(project / paths.SPOOL, "waiting")
    journal.append("start", experiment=params.base.name, run="waiting", fingerprint="trained")
    journal.append("tags", values={"fingerprint": "trained"})
    journal.append("params", values={"train.max_steps": 5})
    journal.append("end", status="FINISHED")
    del journal  # and its server was away
    write_json(project / paths.RUN, describe_run(project, "trained"))
    run = store.client().get_run(register(params, project).run_id)
    assert (run.info.run_name, run.data.params["train.max_steps"]) == ("waiting", "5")


def test_makes_a_run_when_the_store_never_heard_of_the_training_and_says_so(
    project: Path, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(project / paths.RUN, describe_run(project, "far-away"))
    run = store.client().get_run(register(params, project).run_id)
    assert (run.info.run_name, run.data.tags["fingerprint"], run.info.status) == ("far-away", "far-away", "FINISHED")
    assert "has no run of this training, far-away" in caplog.text


def test_what_versions_are_searched_by_is_in_tags_and_all_of_it_in_the_record(
    registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, model = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", model.tracking_uri)
    client = store.client()
    version = client.get_model_version(NAME, str(model.version))
    tags, record = version.tags, read_record(client, version)
    evaluation = read_json(project / paths.EVALUATION, "")
    assert tags["weights_sha256"] == sha256_file(project / paths.BASE_MODEL / "model.safetensors")
    assert record.values["model"]["weights_sha256"] == tags["weights_sha256"]
    assert record.values["locks"]["requirements.lock"] == sha256_file(project / "requirements.lock")
    assert float(tags["test_bits_per_byte"]) == evaluation["test"]["bits_per_byte"]
    assert float(tags["validation_bits_per_byte"]) == evaluation["validation"]["bits_per_byte"]
    assert tags["test_documents_sha256"] == describe_documents(project / paths.DOCUMENTS)["test"]["sha256"]
    assert tags.keys() == {*SEARCHED, "lineage", "test_bits_per_byte", "validation_bits_per_byte"}
    assert all(tags.values())
    assert {"params.yaml", "requirements.lock", "evaluate.json"} <= record.files.keys()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("models/base/model.safetensors", "gpt pretrain"),
        ("models/base/config.json", "gpt pretrain"),
        ("models/base/tokenizer/tokenizer.json", "gpt tokenizer"),
        ("models/run.json", "gpt pretrain"),
        ("reports/evaluate.json", "gpt evaluate"),
        ("data/tokens/index.json", "gpt tokenize"),
        ("params.yaml", "project's folder"),
    ],
)
def test_a_missing_piece_is_named_with_what_to_do(project: Path, params: Params, missing: str, message: str) -> None:
    (project / missing).unlink()
    with pytest.raises(UserError, match=Path(missing).name) as refusal:
        register(params, project)
    assert message in str(refusal.value)


def test_pieces_that_do_not_belong_together_are_refused(project: Path, params: Params) -> None:
    evaluation = (project / paths.EVALUATION).read_bytes()
    make_model(project, steps=6)
    (project / paths.EVALUATION).write_bytes(evaluation)
    with pytest.raises(UserError, match="measured other weights"):
        register(params, project)
    make_model(project, steps=6)
    changed = read_json(project / paths.EVALUATION, "")
    changed["test"]["documents_sha256"] = "0" * 64
    write_json(project / paths.EVALUATION, changed)
    with pytest.raises(UserError, match="other test documents"):
        register(params, project)
    make_model(project, steps=6)
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("n_layer: 1", "n_layer: 2"))
    with pytest.raises(UserError, match=r"model\.n_layer is 2"):
        register(load_params(file), project)
    assert not all_versions(store.client(), NAME)


def test_damaged_pieces_are_refused(project: Path, params: Params) -> None:
    write_json(project / paths.EVALUATION, {"test": {}})
    with pytest.raises(UserError, match="has no figures"):
        register(params, project)
    make_model(project, steps=1)
    ranks = project / paths.BASE_MODEL / "tokenizer/ranks.tiktoken"
    ranks.write_bytes(ranks.read_bytes()[:-4])
    with pytest.raises(UserError, match="damaged"):
        register(params, project)


def test_resolves_paths_versions_and_aliases_to_a_model_folder(project: Path, params: Params) -> None:
    register(params, project)
    assert resolve_model("models/base") == Path("models/base")
    for spec in (f"models:/{NAME}/1", f"models:/{NAME}@{CANDIDATE}", f"@{CANDIDATE}"):
        folder = resolve_model(spec, NAME)
        assert sha256_file(folder / "model.safetensors") == sha256_file(paths.BASE_MODEL / "model.safetensors")
        load_model(folder)


def test_says_what_there_is_when_a_version_is_unknown(project: Path, params: Params) -> None:
    with pytest.raises(UserError, match="no models yet; run `gpt register`"):
        resolve_model(f"models:/{NAME}@{CHAMPION}")
    register(params, project)
    for spec in (f"models:/{NAME}@{CHAMPION}", f"models:/{NAME}/7", f"@{CHAMPION}"):
        with pytest.raises(UserError, match=rf"version 1 of {NAME}; @candidate \(version 1\)"):
            resolve_model(spec, NAME)
    with pytest.raises(UserError, match=f"the models {NAME}"):
        resolve_model("models:/unknown/1")
    with pytest.raises(UserError, match="write models:/NAME@ALIAS"):
        resolve_model(f"models:/{NAME}/latest")


def test_damaged_or_lost_files_of_a_version_are_found_out(project: Path, params: Params) -> None:
    register(params, project)
    folder = resolve_model(f"models:/{NAME}/1")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="not the weights of"):
        resolve_model(f"models:/{NAME}/1")
    shutil.rmtree(project / "mlartifacts")
    with pytest.raises(UserError, match="register the model again"):
        resolve_model(f"models:/{NAME}/1")
    assert register(params, project).version == 2, "what has lost its files is no version to hand out"


def test_a_model_that_was_measured_on_a_part_of_the_texts_is_registered(project: Path, params: Params) -> None:
    model, encoding = load_model(paths.BASE_MODEL)
    metrics = read_json(paths.EVALUATION, "")
    splits = read_json(paths.TOKENS / "index.json", "")["splits"]
    scored = {
        split: score_documents(model, read_held_out(paths.DOCUMENTS, split, encoding, 200), encoding, split)
        for split in HELD_OUT
    }
    for split, each in scored.items():
        metrics[split] = each.figures() | {"split_documents": splits[split]["documents"]}
        assert 0 < metrics[split]["documents"] < metrics[split]["split_documents"]
    Passages.join([each.passages for each in scored.values()]).write(paths.SCORES / PASSAGES_FILE)
    write_json(paths.EVALUATION, metrics | {"test": metrics["test"] | {"documents_sha256": "0" * 64}})
    with pytest.raises(UserError, match="holds other test documents than the model was measured on"):
        register(params, project)
    write_json(paths.EVALUATION, metrics)
    assert register(params, project).version == 1
