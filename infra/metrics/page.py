"""What a scrape reads: every metric by its name, kind, labels and meaning. What is not in this table is not exported.

Names and units are those that Prometheus recommends. A label has few values: a run that has ended is shown until the next begins.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_RUN = ("experiment", "run")
_VERSION = ("model", "alias")


class Family(NamedTuple):
    """A metric; of a counter the name is written without its `_total`."""

    text: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"


FAMILIES = {
    "gpt_trainers": Family("Trainers that live in this project: held locks of checkpoint folders."),
    "gpt_workspace_busy": Family("1 while a flow works in this project's folder."),
    "gpt_training_state": Family("1 for the state of a run, 0 for the others.", (*_RUN, "state")),
    "gpt_training_step": Family("Optimizer steps that a run has told.", _RUN),
    "gpt_training_max_steps": Family("Optimizer steps that a run is to take.", _RUN),
    "gpt_training_last_step_age_seconds": Family(
        "Time since a run told of a step or of a validation, or since its trainer began, by the clock of its machine.",
        _RUN,
    ),
    "gpt_training_longest_silence_seconds": Family("The longest time between two of its last 200 tellings.", _RUN),
    "gpt_training_step_seconds": Family("Time that a step usually takes, the median of the last 50 rows.", _RUN),
    "gpt_training_repeated_steps": Family(
        "Steps that a run takes again after it was cut off, and tells nothing of.", _RUN
    ),
    "gpt_training_loss": Family("Mean training loss of the last row.", _RUN),
    "gpt_training_learning_rate": Family("Learning rate of the last row.", _RUN),
    "gpt_training_gradient_norm": Family("Norm of the gradient before clipping, of the last row.", _RUN),
    "gpt_training_tokens_per_second": Family("Speed of the steps of the last row, over all processes.", _RUN),
    "gpt_training_mfu_ratio": Family("Share of the device's peak that they reached, where the peak is known.", _RUN),
    "gpt_training_peak_memory_bytes": Family(
        "The most memory that process 0 has had: allocated on its GPU, or resident.", _RUN
    ),
    "gpt_training_skipped_steps": Family("Steps that were skipped, as they would have done harm.", _RUN, "counter"),
    "gpt_training_rollbacks": Family("How often training went back to a checkpoint.", _RUN, "counter"),
    "gpt_training_validation_loss": Family("Loss of the validation documents.", _RUN),
    "gpt_training_validation_bpb": Family("Bits per byte of the validation documents.", _RUN),
    "gpt_training_validation_step": Family("Step of the last validation.", _RUN),
    "gpt_checkpoints": Family("Checkpoints of a run.", _RUN),
    "gpt_checkpoint_step": Family("Step of a run's newest checkpoint, 0 before there is one.", _RUN),
    "gpt_checkpoint_interval_steps": Family("Steps from one scheduled checkpoint to the next.", _RUN),
    "gpt_checkpoint_age_seconds": Family("Time since the newest checkpoint was written.", _RUN),
    "gpt_checkpoint_size_bytes": Family("Size of the newest checkpoint.", _RUN),
    "gpt_checkpoint_save_seconds": Family("Time from its first file to its last, training going on meanwhile.", _RUN),
    "gpt_spool_undelivered_bytes": Family("What runs have told and the tracking server has not got."),
    "gpt_spool_waiting_seconds": Family("Age of the oldest of it, 0 if there is none."),
    "gpt_disk_free_bytes": Family("Room that is left to this user on the disk of a folder.", ("place",)),
    "gpt_disk_size_bytes": Family("Size of that disk.", ("place",)),
    "gpt_server_up": Family("1 if a server that the environment names answers.", ("server",)),
    "gpt_registry_up": Family("1 if the registry was read within the last three minutes."),
    "gpt_model_version": Family("Number of a registered version: the newest, and those of aliases.", _VERSION),
    "gpt_model_registered_timestamp_seconds": Family("When it was registered.", _VERSION),
    "gpt_model_test_bpb": Family("Its bits per byte of the test documents.", _VERSION),
    "gpt_model_benchmarks_centred_ratio": Family("Its mean over benchmarks of accuracy above chance.", _VERSION),
    "gpt_model_figure": Family("Main figure of a fine-tuned version, by its name.", (*_VERSION, "figure")),
    "gpt_model_refused": Family("1 if the gate refused it, and nobody decided otherwise since.", _VERSION),
    "gpt_gpu_utilization_ratio": Family("Share of the last second or so in which a kernel ran.", ("gpu", "name")),
    "gpt_gpu_memory_used_bytes": Family("Memory of a GPU that is in use, by whomever.", ("gpu", "name")),
    "gpt_gpu_memory_size_bytes": Family("Memory of a GPU.", ("gpu", "name")),
    "gpt_gpu_temperature_celsius": Family("Temperature of a GPU.", ("gpu", "name")),
    "gpt_exporter_failures": Family(
        "Parts of a scrape that could not be read; the log says why.", ("part",), "counter"
    ),
}


class Page:
    """One scrape. A value that is not known is left out, never 0."""

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Add a sample of a metric, with values of its labels in the order of the table."""
        if value is None:
            return
        about = FAMILIES[name]
        if name not in self._families:
            kind = GaugeMetricFamily if about.kind == "gauge" else CounterMetricFamily
            self._families[name] = kind(name, about.text, labels=about.labels)
        self._families[name].add_metric(labels, float(value))

    def families(self) -> Iterable[Metric]:
        """Return what was added, a metric's samples together."""
        return self._families.values()
