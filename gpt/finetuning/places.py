"""Where the parts of a recipe lie: finetuning/NAME.yaml, and below finetuning/NAME what is made by it."""

from dataclasses import dataclass
from pathlib import Path

from gpt.params.finetuning import FOLDER


@dataclass(frozen=True)
class Places:
    name: str

    @property
    def recipe(self) -> Path:
        return FOLDER / f"{self.name}.yaml"

    @property
    def inputs(self) -> Path:
        """What `gpt finetune inputs` wrote: the base's version and hash, the content of local sources, the code."""
        return FOLDER / self.name / "inputs"

    @property
    def base(self) -> Path:
        """The base model's folder, as it was brought."""
        return FOLDER / self.name / "base"

    @property
    def held_out(self) -> Path:
        """Validation documents of the project, as tokens, where the base model has its tokenizer."""
        return FOLDER / self.name / "held_out"

    @property
    def data(self) -> Path:
        return FOLDER / self.name / "data"

    @property
    def model(self) -> Path:
        return FOLDER / self.name / "model"

    @property
    def run(self) -> Path:
        return FOLDER / self.name / "run.json"

    @property
    def training_plot(self) -> Path:
        return FOLDER / self.name / "training.csv"

    @property
    def validation_plot(self) -> Path:
        return FOLDER / self.name / "validation.csv"

    @property
    def evaluation(self) -> Path:
        return FOLDER / self.name / "evaluation.json"

    @property
    def outcomes(self) -> Path:
        """What came of each test example."""
        return FOLDER / self.name / "outcomes.parquet"

    @property
    def report(self) -> Path:
        return FOLDER / self.name / "report.html"

    @property
    def metrics(self) -> Path:
        return FOLDER / self.name / "metrics.json"
