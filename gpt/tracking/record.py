"""What a run tells MLflow and the person at the terminal while it trains. Nothing here decides a result."""

from collections.abc import Iterable, Mapping, Sequence

from gpt.tracking.curves import Curves
from gpt.tracking.progress import Progress, Reading
from gpt.tracking.tracker import Tracker

_SEPARATOR = "\n" + "-" * 72 + "\n\n"


class Record:
    """Tells rows of plots/ to `tracker`, `curves` and `progress`, which are there on rank 0 only."""

    def __init__(self) -> None:
        self.tracker: Tracker | None = None
        self.curves: Curves | None = None
        self.progress: Progress | None = None

    def training(self, row: dict[str, float], counts: dict[str, int], reading: Reading) -> None:
        """Tell a row with `step` and `train_loss`; counts and measurements are no results and go to MLflow only.

        Of what has never happened there is no chart.
        """
        step = int(row["step"])
        happened = {key: count for key, count in counts.items() if count}
        measured = {f"system/{key}": value for key, value in reading.metrics().items()}
        self._log("train", step, _charts("train", row | happened) | measured)
        if self.progress:
            self.progress.update(step, row["train_loss"], reading)

    def replay(self, training_rows: Iterable[dict[str, float]], validation_rows: Iterable[dict[str, float]]) -> None:
        """Tell trackers rows from before their run began, of a run that goes on from another's state; in the order of steps."""
        rows = [("train", row) for row in training_rows] + [("validation", row) for row in validation_rows]
        for group, row in sorted(rows, key=lambda each: each[1]["step"]):
            self._log(group, int(row["step"]), _charts(group, row))

    def validation(self, row: dict[str, float]) -> None:
        """Tell a row with `step`, `validation_loss` and what else was measured."""
        self._log("validation", int(row["step"]), _charts("validation", row))
        if self.progress:
            self.progress.validation(row)

    def benchmarks(self, step: int, figures: dict[str, float]) -> None:
        """Tell what a small part of the benchmarks scored after `step`, as `benchmarks/FIGURE/NAME`."""
        self._log("benchmarks", step, _charts("validation", figures))

    def samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Hand on what the model wrote after `step`: prompts and what it added to each."""
        texts = [prompt + added for prompt, added in samples]
        if self.tracker:
            head = f"what the model writes after step {step}, its prompt first\n"
            self.tracker.log_text(
                f"samples/step_{step:08d}.txt", _SEPARATOR.join([head, *(f"{text}\n" for text in texts)])
            )
        if self.curves:
            self.curves.log(step, {f"samples/{number}": text for number, text in enumerate(texts, 1)})
        if self.progress and texts:
            self.progress.sample(step, texts[0])

    def _log(self, group: str, step: int, values: dict[str, float]) -> None:
        if self.tracker:
            self.tracker.log_metrics(group, step, values)
        if self.curves:
            self.curves.log(step, values)

    def close(self) -> None:
        """Leave the terminal to what comes next, whatever ended the training; trackers end by themselves."""
        if self.progress:
            self.progress.close()


def _charts(group: str, row: Mapping[str, float]) -> dict[str, float]:
    """Return a row's values by the names of their charts: `train_loss` is train/loss (gpt/tracking/pages/figures.py)."""
    return {f"{group}/{key.removeprefix(f'{group}_')}": value for key, value in row.items() if key != "step"}
