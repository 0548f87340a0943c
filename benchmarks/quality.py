"""How fast a recipe learns: `python -m benchmarks.quality TEXT`, or `make bench TEXT=…`.

Characters of one text file; the first 90 % train, the last 10 % validate: mean nats per character over the whole validation
part, in windows of the model's own block_size. A recipe is sections `model` and `train` of a params.yaml (benchmarks/recipes/).
Seconds count all that training does, compilation too, but no evaluation; each run is a process of its own.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from gpt.files import parse_yaml
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import Params, load_params
from gpt.processes.machine import keep_freed_memory
from gpt.processes.precision import matmul_precision, mixed_precision
from gpt.tokens.batches import Batches
from gpt.training.steps.optimizer import build_optimizer
from gpt.training.steps.step import TrainStep, token_batch

_RECIPES = Path(__file__).parent / "recipes"
_SEEDS = (1, 2, 3)
_EVALUATION_TOKENS = 32_768


class Characters:
    """A text's characters as token ids, numbered in their order; reads as `gpt.tokens.shards.TokenReader` does."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids, self.tokens = ids, len(ids)

    def read(self, start: int, count: int) -> np.ndarray:
        return self.ids[start : start + count]


def measure(text: Path) -> list[str]:
    """Return a markdown table of the recipes: medians over seeds, seconds against those of the classic recipe."""
    recipes = ("classic", "short", "long")
    runs: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in recipes}
    for seed in _SEEDS:
        for recipe in recipes:
            runs[recipe].append(_run(text, recipe, seed))
            print(recipe, seed, runs[recipe][-1], flush=True)
    classic = statistics.median(run["seconds"] for run in runs["classic"])
    rows = [
        "| recipe | parameters | tokens per step × steps | nats per character, median (all) | time of the classic run |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for recipe, results in runs.items():
        losses = [run["loss"] for run in results]
        seconds = statistics.median(run["seconds"] for run in results)
        shown = ", ".join(f"{loss:.3f}" for loss in losses)
        size = f"{results[0]['tokens_per_step']:,.0f} × {results[0]['steps']:,.0f}"
        rows.append(
            f"| [{recipe}](recipes/{recipe}.yaml) | {results[0]['parameters']:,.0f} | {size} |"
            f" **{statistics.median(losses):.3f}** ({shown}) | {seconds / classic:.2f} × |"
        )
    return rows


def _run(text: Path, recipe: str, seed: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.quality", str(text), recipe, str(seed)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


@dataclass(frozen=True)
class Split:
    """Token ids to train on and to score on, and how many characters there are to tell apart."""

    training: np.ndarray
    scored: np.ndarray
    vocab_size: int


def read_split(text: Path) -> Split:
    """Return the first 90 % and the last 10 % of a text as token ids."""
    characters = text.read_text(encoding="utf-8")
    alphabet = {character: number for number, character in enumerate(sorted(set(characters)))}
    ids = np.array([alphabet[character] for character in characters], dtype=np.int64)
    training, scored = np.split(ids, [int(0.9 * len(ids))])
    return Split(training, scored, len(alphabet))


class Run:
    """Training of what `params` says on a split's characters, without folders, checkpoints and tracking."""

    def __init__(self, params: Params, split: Split) -> None:
        self._settings, self._split, self._seed = params.train, split, params.base.seed
        self.model = GPTModel(GPTConfig(vocab_size=split.vocab_size, **params.section("model")))
        self.model.init_weights(self._seed)
        accelerator = Accelerator(
            mixed_precision=mixed_precision(params.train.precision), cpu=not torch.cuda.is_available()
        )
        self.model.to(accelerator.device)
        if params.launch.compile is True:
            for block in self.model.trf_blocks:
                block.compile()
        batch_size, block_size = self._settings.batch_size, params.model.block_size
        optimizer = build_optimizer(self.model, self._settings)
        self._step = TrainStep(
            self.model, optimizer, self._settings, accelerator, micro_batch_size=batch_size, seed=self._seed
        )
        self._batches = Batches(Characters(split.training), block_size, batch_size, self._seed)  # pyright: ignore[reportArgumentType]

    def step(self, number: int) -> None:
        sequences = self._settings.batch_size
        self._step(number, lambda first, last: token_batch(*self._batches.read(number, first, last), sequences))

    def loss(self) -> float:
        """Return the mean nats per character of the scored part."""
        return validation_loss(self.model, self._split.scored, self.model.config.block_size)


def train(params: Params, split: Split) -> dict[str, float]:
    """Train what `params` says and return its loss in nats per character, and the cost."""
    keep_freed_memory()
    begun = time.perf_counter()
    run = Run(params, split)
    with matmul_precision(params.train.precision):
        for number in range(params.train.max_steps):
            run.step(number)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    return {
        "loss": run.loss(),
        "seconds": seconds,
        "steps": params.train.max_steps,
        "tokens_per_step": params.train.batch_size * params.model.block_size,
        "parameters": run.model.count_parameters(),
    }


@torch.inference_mode()
def validation_loss(model: GPTModel, ids: np.ndarray, block_size: int) -> float:
    """Return mean nats per character: every character but the first predicted once, in windows side by side."""
    model.eval()
    device = next(model.parameters()).device
    whole = (len(ids) - 1) // block_size * block_size
    inputs = torch.from_numpy(ids[:whole].reshape(-1, block_size)).to(device)
    targets = torch.from_numpy(ids[1 : whole + 1].reshape(-1, block_size)).to(device)
    parts = list(
        zip(
            inputs.split(_EVALUATION_TOKENS // block_size), targets.split(_EVALUATION_TOKENS // block_size), strict=True
        )
    )
    if whole < len(ids) - 1:
        rest = torch.from_numpy(ids[whole:]).to(device)[None]
        parts.append((rest[:, :-1], rest[:, 1:]))
    return sum(model(*part)[1].item() for part in parts) / (len(ids) - 1)


def read_recipe(recipe: str, seed: int, **changes: Any) -> Params:
    """Return params.yaml with a recipe's values, and `changes` to them, in place of its own, validated as any."""
    values = load_params().model_dump(by_alias=True)
    for section, own in parse_yaml((_RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")).items():
        values[section] |= own
        values[section] |= {key: changes.pop(key) for key in values[section].keys() & changes.keys()}
    if changes:
        raise KeyError(f"params.yaml has no {', '.join(changes)}")
    values["base"]["seed"] = seed
    values["launch"] |= {"num_processes": 1, "num_machines": 1, "micro_batch_size": values["train"]["batch_size"]}
    return Params.model_validate(values)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(train(read_recipe(sys.argv[2], int(sys.argv[3])), read_split(Path(sys.argv[1])))))
    elif len(sys.argv) == 2:
        print("\n".join(measure(Path(sys.argv[1]))))
    else:
        sys.exit("usage: python -m benchmarks.quality TEXT")
