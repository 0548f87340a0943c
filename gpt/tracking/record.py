"""What a run tells while it trains: rows that become plots/, and on rank 0 metrics for MLflow and lines on the screen."""

from gpt.tracking.tracker import Progress, Tracker
from gpt.training.meters import Reading


class Record:
    """`rows` are the same in all processes and belong to the run's state; `tracker` and `progress` are there on rank 0 only."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, float]]] = {"training": [], "validation": []}
        self.tracker: Tracker | None = None
        self.progress: Progress | None = None

    @property
    def validated(self) -> int:
        """The step of the last validation, 0 if there was none."""
        rows = self.rows["validation"]
        return int(rows[-1]["step"]) if rows else 0

    def training(self, row: dict[str, float], counts: dict[str, int], reading: Reading) -> None:
        """Write down a row with `step` and `train_loss`; counts and measurements are no results and go to MLflow only."""
        self.rows["training"].append(row)
        step = int(row["step"])
        if self.tracker:
            self.tracker.log_metrics("train", step, _without_step(row) | reading.metrics() | counts)
        if self.progress:
            self.progress.update(step, row["train_loss"], reading)

    def validation(self, row: dict[str, float]) -> None:
        """Write down a row with `step`, `validation_loss` and `validation_bits_per_byte`."""
        self.rows["validation"].append(row)
        step = int(row["step"])
        if self.tracker:
            self.tracker.log_metrics("validation", step, _without_step(row))
        if self.progress:
            self.progress.say(
                f"step {step}: validation loss {row['validation_loss']:.4f},"
                f" {row['validation_bits_per_byte']:.4f} bits per byte"
            )

    def sample(self, step: int, text: str) -> None:
        """Hand on a text that the model wrote after `step`."""
        if self.tracker:
            self.tracker.log_text(f"samples/step_{step:08d}.txt", text)


def _without_step(row: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step"}
