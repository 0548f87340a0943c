"""What is known of a model, wherever it lies: what descriptions, model cards and tables are written from.

One function for each place it may be read from; whoever changes what a version keeps changes `of_version`, and nothing else.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt import paths
from gpt.files import as_object, lenient_json, lenient_yaml, sha256_file
from gpt.params.project import PARAMS_FILE
from gpt.registry.lineage import STARTED_FROM
from gpt.registry.versions import find_version, is_registry_uri, model_folder
from gpt.secrets.hiding import redact
from gpt.tracking import store
from gpt.tracking.pages.figures import SPLITS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Json = dict[str, Any]
EVALUATION, RECIPE, _SAMPLES = paths.EVALUATION.name, "recipe.yaml", paths.SAMPLES.name
"Of files beside the record; a recipe is kept of fine-tuned models alone."

_ADDRESSES = ("package", "url", "path", "repository", "script")  # one of which every source has


@dataclass(frozen=True)
class Facts:
    """Empty or None is what nobody knows of this model."""

    name: str
    uri: str = ""
    "models:/NAME/VERSION, if it is registered."
    evaluation: Json = field(default_factory=dict)
    "reports/evaluate.json, of this model's weights; of a fine-tuned model its recipe's evaluation.json."
    params: Json = field(default_factory=dict)
    "params.yaml that it was trained with."
    commit: str = ""
    changed: bool = False
    "The code differed from the commit by a patch, which the version keeps."
    contamination: str = ""
    hardware: str = ""
    samples: tuple[tuple[str, str], ...] = ()
    "Prompts and completions."
    recipe: Json = field(default_factory=dict)
    "By which it was fine-tuned."
    started_from: str = ""
    "The version, or the folder, that its training began with."

    @property
    def sources(self) -> list[Json]:
        """Return name, address, SHA-256 and licence of each source of texts, or of examples."""
        section = _section(self.recipe, "data") if self.recipe else _section(self.params, "fetch")
        found = section.get("sources")
        return [
            {
                "name": str(source.get("name", "")),
                "address": redact(next((str(source[key]) for key in _ADDRESSES if source.get(key)), "")),
                "sha256": str(source.get("sha256") or source.get("revision") or ""),
                "licence": redact(str(source.get("licence") or "not named")),
            }
            for source in (found if isinstance(found, list) else [])
            if isinstance(source, dict)
        ]

    def figures(self, split: str) -> Json:
        """Return the figures of a split, if it was measured."""
        figures = _section(self.evaluation, split)
        return figures if isinstance(figures.get("bits_per_byte"), float) else {}

    @property
    def benchmarks(self) -> Json:
        return _section(self.evaluation, "benchmarks")

    @property
    def model(self) -> Json:
        return _section(self.evaluation if self.recipe else self.params, "model")

    @property
    def train(self) -> Json:
        return _section(self.params, "train")


def of_project(project: Path, tags: Mapping[str, str], *, name: str, uri: str = "") -> Facts:
    """Return what is known of the model that a project registers now; `tags` are those of its version."""
    files = (PARAMS_FILE, paths.EVALUATION, paths.SAMPLES)
    return of_files(name, uri, tags, {path.name: _bytes(project / path) for path in files})


def of_version(client: "MlflowClient", version: "ModelVersion") -> Facts:
    """Return what is known of a registered version: its tags, and the files that its run keeps of it, if it still does."""
    from mlflow.exceptions import MlflowException

    files: dict[str, bytes] = {}
    run_id, _, folder = version.tags.get("lineage", "").removeprefix("runs:/").partition("/")
    if run_id and folder:
        with tempfile.TemporaryDirectory() as temporary:
            for name in (PARAMS_FILE.name, EVALUATION, _SAMPLES, RECIPE):
                try:
                    files[name] = _bytes(Path(client.download_artifacts(run_id, f"{folder}/{name}", temporary)))
                except (MlflowException, OSError):  # a version of an earlier release, or a run that was deleted
                    continue
    return of_files(version.name, f"models:/{version.name}/{version.version}", version.tags, files)


def of_tags(version: "ModelVersion") -> Facts:
    """Return what the tags of a registered version say, for which no file is read."""
    return of_files(version.name, f"models:/{version.name}/{version.version}", version.tags, {})


def of_folder(folder: Path, project: Path) -> Facts:
    """Return what is known of a model folder: with figures if an evaluation of the project is of these weights."""
    name, weights = folder.resolve().name, folder / "model.safetensors"
    measured = sha256_file(weights) if weights.is_file() else None
    if measured and lenient_json(_bytes(project / paths.EVALUATION)).get("weights_sha256") == measured:
        return of_project(project, {}, name=name)
    made = folder.resolve().parent  # finetuning/NAME
    tuned = lenient_json(_bytes(made / "evaluation.json"))
    if measured and tuned.get("weights_sha256") == measured:
        tags = {STARTED_FROM: str(as_object(tuned.get("base")).get("init_from", ""))}
        files = {EVALUATION: _bytes(made / "evaluation.json"), RECIPE: _bytes(made.with_suffix(".yaml"))}
        return of_files(made.name, "", tags, files)
    return Facts(name, params={"model": lenient_json(_bytes(folder / "config.json"))})


def of_model(spec: str, default_name: str, project: Path) -> tuple[Path, Facts]:
    """Return the folder of a model and what is known of it; `spec` as `resolve_model` takes it, with its errors."""
    if not is_registry_uri(spec):
        return Path(spec), of_folder(Path(spec), project)
    client = store.existing_client()
    with store.store_errors():
        version = find_version(client, spec, default_name)
        return model_folder(client, version), of_version(client, version)


def of_files(name: str, uri: str, tags: Mapping[str, str], files: Mapping[str, bytes]) -> Facts:
    """Return what tags and files, by the names that they have beside the record, tell."""
    evaluation = lenient_json(files.get(EVALUATION, b"")) or _measured(tags)
    samples = lenient_json(files.get(_SAMPLES, b""), list) or _answers(evaluation)
    return Facts(
        name=name,
        uri=uri,
        evaluation=evaluation,
        params=lenient_yaml(files.get(PARAMS_FILE.name, b"")),
        commit=_known(tags.get("git_commit")),
        changed=tags.get("git_dirty") == "true",
        contamination=_known(tags.get("contaminated_items")),
        hardware=_known(tags.get("hardware")),
        samples=tuple(
            (str(sample["prompt"]), str(sample["completion"]))
            for sample in samples
            if isinstance(sample, dict) and {"prompt", "completion"} <= sample.keys()
        ),
        recipe=lenient_yaml(files.get(RECIPE, b"")),
        started_from=redact(tags.get(STARTED_FROM, "")),
    )


def _answers(evaluation: Json) -> list[Json]:
    """Return what a fine-tuned model has answered as prompts and completions."""
    found = evaluation.get("samples")
    return [
        {
            "prompt": "".join(f"{message['content']}\n" for message in sample["asked"]) + "→ ",
            "completion": sample["answer"],
        }
        for sample in (found if isinstance(found, list) else [])
    ]


def _measured(tags: Mapping[str, str]) -> Json:
    """Return the figures that the tags alone have."""
    found: Json = {}
    for split in SPLITS:
        try:
            found[split] = {"bits_per_byte": float(tags[f"{split}_bits_per_byte"])}
        except (KeyError, ValueError):
            continue
    return found


def _section(values: Json, name: str) -> Json:
    return as_object(values.get(name))


def _known(value: str | None) -> str:
    return "" if value is None or value == "none" else value


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
