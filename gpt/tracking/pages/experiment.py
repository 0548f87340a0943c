"""How an experiment opens in MLflow's pages: as one of training, with a description, and with the charts that a person wants first.

Charts are arranged in the browser, but for views that were saved: those are tags of the experiment, so every browser that opens the
view `training` sees the arrangement below. Without it MLflow orders charts by their names (gpt/tracking/pages/figures.py).
"""

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

VIEW = "training"
"Its name as an address has it, after viewStateShareKey."
PACKED = "deflate;"
"What a state that is compressed begins with."
KIND_TAG = "mlflow.experimentKind"
"Releases of MLflow without a switch for the kind of work choose their pages by it."
_KIND = "custom_model_development"
NOTE_TAG = "mlflow.note.content"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_VIEW_MADE_MS = 1_764_115_200_000  # fixed, so that the tag is the same from everywhere
# Sections of the view: a title, and its charts, each a curve or, for figures, bars, with the metrics drawn in it.
_SECTIONS = (
    ("Loss", (("LINE", "train/loss", "validation/loss"), ("LINE", "validation/bits_per_byte"))),
    ("Finished models", (("BAR", "test_bits_per_byte"), ("BAR", "benchmarks_centred"), ("BAR", "validation_bits_per_byte"))),
    ("How it learns", (("LINE", "train/learning_rate"), ("LINE", "train/gradient_norm"), ("LINE", "train/skipped_steps"))),
    ("Benchmarks on the way", (("LINE", "validation/benchmarks/centred"),)),
    ("Speed", (("LINE", "system/tokens_per_second"), ("LINE", "system/mfu"))),
)  # fmt: skip
_COLUMNS = (
    "metrics.`test_bits_per_byte`", "metrics.`benchmarks_centred`", "metrics.`validation/bits_per_byte`",
    "params.`train.max_steps`", "tags.`parameters`", "attributes.`Models`",
)  # fmt: skip


def experiment_tags(name: str) -> dict[str, str]:
    """Return the tags of a new experiment."""
    return {KIND_TAG: _KIND, NOTE_TAG: _description(name), VIEW_TAG: _view()}


def complete(client: "MlflowClient", experiment: "Experiment") -> None:
    """Give an experiment of an earlier release, or that a person made, the tags that it lacks; what it has stays."""
    for key, value in experiment_tags(experiment.name).items():
        if key not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def _description(name: str) -> str:
    return "\n\n".join(
        [
            f"Trainings of **{name}**: every `gpt pretrain` is a run, named by what its settings change against the run before.",
            f"- *Views* → *{VIEW}* (in *Runs*) draws loss curves first, then finished models side by side.\n"
            "- `train/…` and `validation/…` are measured while training; `test_bits_per_byte`, `lambada.accuracy` and the like are"
            " of the finished model, from `gpt evaluate`, and below the curves.\n"
            "- A run's description has its figures and a sample, its artifacts `samples/` what it wrote on the way, `data.html` its"
            " data, `evaluation/` all figures and the report.",
        ]
    )


def _view() -> str:
    """Return the value of a saved view's tag."""
    state = {
        "compareRunCharts": [
            _chart(number, place, chart)
            for number, (_, charts) in enumerate(_SECTIONS)
            for place, chart in enumerate(charts)
        ],
        "compareRunSections": [
            {"uuid": f"section-{number}", "name": title, "display": True, "isReordered": True}
            for number, (title, _) in enumerate(_SECTIONS)
        ],
        "isAccordionReordered": True,  # else MLflow sorts the sections by name again
        "selectedColumns": list(_COLUMNS),
        "hideEmptyCharts": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()  # as MLflow's own pages keep it
    view = {"name": VIEW, "createdAt": _VIEW_MADE_MS, "updatedAt": _VIEW_MADE_MS, "state": f"{PACKED}{packed}"}
    return json.dumps(view)


def _chart(section: int, place: int, chart: tuple[str, ...]) -> dict[str, Any]:
    kind, *metrics = chart
    card: dict[str, Any] = {
        "type": kind,
        "uuid": f"chart-{section}-{place}",
        "metricSectionId": f"section-{section}",
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 10,
        "metricKey": metrics[0],
        "displayName": " and ".join(metrics),
    }
    if kind == "LINE":
        card |= {
            "selectedMetricKeys": metrics, "selectedYAxisMetricKey": metrics[0], "xAxisKey": "step", "xAxisScaleType": "linear",
            "scaleType": "linear", "lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True,
            "yAxisKey": "metric", "yAxisExpressions": [], "range": {}, "ignoreOutliers": False, "selectedXAxisMetricKey": "",
        }  # fmt: skip
    return card
