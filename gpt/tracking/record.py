"""What a run tells MLflow and the person at the terminal while it trains. Nothing here decides a result."""

from collections.abc import Mapping

from gpt.tracking.progress import Progress, Reading
from gpt.tracking.tracker import Tracker


class Record:
    """Tells rows of plots/ to `tracker` and `progress`, which are there on rank 0 only."""

    def __init__(self) -> None:
        self.tracker: Tracker | None = None
        self.progress: Progress | None = None

    def training(self, row: dict[str, float], counts: dict[str, int], reading: Reading) -> None:
        """Tell a row with `step` and `train_loss`; counts and measurements are no results and go to MLflow only.

        Of what has never happened there is no chart.
        """
        step = int(row["step"])
        if self.tracker:
            happened = {key: count for key, count in counts.items() if count}
            measured = {f"system/{key}": value for key, value in reading.metrics().items()}
            self.tracker.log_metrics("train", step, _charts("train", row | happened) | measured)
        if self.progress:
            self.progress.update(step, row["train_loss"], reading)

    def validation(self, row: dict[str, float]) -> None:
        """Tell a row with `step`, `validation_loss` and `validation_bits_per_byte`."""
        step = int(row["step"])
        if self.tracker:
            self.tracker.log_metrics("validation", step, _charts("validation", row))
        if self.progress:
            self.progress.validation(step, row["validation_loss"], row["validation_bits_per_byte"])

    def benchmarks(self, step: int, figures: dict[str, float]) -> None:
        """Tell what a small part of the benchmarks scored after `step`, as `benchmarks/FIGURE/NAME`."""
        if self.tracker:
            self.tracker.log_metrics("benchmarks", step, _charts("validation", figures))

    def sample(self, step: int, text: str) -> None:
        """Hand on a text that the model wrote after `step`."""
        if self.tracker:
            self.tracker.log_text(f"samples/step_{step:08d}.txt", text)
        if self.progress:
            self.progress.sample(step, text)

    def close(self) -> None:
        """Leave the terminal to what comes next, whatever ended the training; the tracker ends by itself."""
        if self.progress:
            self.progress.close()


def _charts(group: str, row: Mapping[str, float]) -> dict[str, float]:
    """Return a row's values by the names of their charts: `train_loss` is train/loss (gpt/tracking/pages/figures.py)."""
    return {f"{group}/{key.removeprefix(f'{group}_')}": value for key, value in row.items() if key != "step"}
