"""What the evaluation's page knows of a registered version: the files and the record that the store keeps of it, and its run."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.evaluation.comparison import Difference
from gpt.registry.gate.reasons import Reason
from gpt.registry.gate.scores import Comparison
from gpt.registry.package import RegisteredModel
from gpt.registry.record import read_record
from gpt.registry.versions import CANDIDATE, CHAMPION
from gpt.reports.evaluation import write_comparison
from gpt.reports.model_page.measured import Measured, of_files
from gpt.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_THROUGHPUT = "tokens_per_second"
_COMMIT_DIGITS = 12

Json = dict[str, Any]


def compare_versions(
    folder: Path,
    client: "MlflowClient",
    candidate: "ModelVersion",
    champion: "ModelVersion | None" = None,
    verdict: Iterable[Mapping[str, Any]] = (),
    differences: Mapping[str, Difference] | None = None,
) -> Path:
    """Write the page of a candidate beside the champion to `folder`; return its path. See `write_comparison` and `of_version`."""
    models = [of_version(client, candidate, CANDIDATE)]
    if champion is not None and champion.version != candidate.version:
        models.append(of_version(client, champion, CHAMPION))
    return write_comparison(folder, *models, verdict=verdict, differences=differences)


def draw_registered(
    folder: Path, registered: RegisteredModel, reasons: Iterable[Reason] = (), comparison: Comparison | None = None
) -> Path:
    """Write the page of a version that was registered just now, beside the champion of then if it was compared; return its path.

    Raises `UserError` as `of_version` does.
    """
    client = store.existing_client()
    with store.store_errors():
        candidate = client.get_model_version(registered.name, str(registered.version))
        champion = comparison.champion if comparison else None
        differences = comparison.differences if comparison else None
        verdict = [reason.to_dict() for reason in reasons]
        return compare_versions(folder, client, candidate, champion, verdict, differences)


def of_version(client: "MlflowClient", version: "ModelVersion", role: str) -> Measured:
    """Return what is known of a version that is a `role`, such as candidate or champion.

    Raises `UserError` if the version was not registered by `gpt register`, or its record is gone.
    """
    record = read_record(client, version)
    return of_files(
        f"version {version.version} ({role})",
        record.files,
        throughput=_throughput(client, version),
        facts=_facts(version, record.values),
        lineage=record.values,
    )


def _throughput(client: "MlflowClient", version: "ModelVersion") -> list[tuple[int, float]]:
    """Return step and tokens per second as its run measured them, the last of each step; nothing if the run was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(version.run_id or "")
        names = [name for name in run.data.metrics if name.rpartition("/")[2] == _THROUGHPUT]
        points = client.get_metric_history(run.info.run_id, names[0]) if names else []
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []
    by_step = {point.step: point.value for point in sorted(points, key=lambda point: (point.step, point.timestamp))}
    return sorted(by_step.items())


def _facts(version: "ModelVersion", record: Json) -> dict[str, str]:
    code, training, environment = record["code"], record["training"], record["environment"]
    torch = environment["packages"].get("torch")
    facts = {
        "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": str(code["commit"])[:_COMMIT_DIGITS] + (" with uncommitted changes" if code["dirty"] else ""),
        "hardware": training["hardware"],
        "processes": training["processes"],
        "Python, torch": f"{environment['python']}, {torch}" if torch else environment["python"],
        "MLflow run": version.run_id,
    }
    return {name: str(value) for name, value in facts.items() if value}
