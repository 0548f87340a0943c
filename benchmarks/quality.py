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
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from ruamel.yaml import YAML

from gpt.data.batches import Batches
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params import Params, load_params
from gpt.training.launch import keep_freed_memory
from gpt.training.optimizer import build_optimizer
from gpt.training.step import TrainStep

_RECIPES = Path(__file__).parent / "recipes"
_SEEDS = (1, 2, 3)
_EVALUATION_TOKENS = 32_768


class Characters:
    """A text's characters as token ids, numbered in their order; reads as `gpt.data.shards.TokenReader` does."""

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


def train(text: Path, params: Params) -> dict[str, float]:
    """Train what `params` says on a text's first 90 % and return its validation loss in nats per character, and the cost."""
    characters = text.read_text(encoding="utf-8")
    alphabet = {character: number for number, character in enumerate(sorted(set(characters)))}
    ids = np.array([alphabet[character] for character in characters], dtype=np.int64)
    training, validation = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    keep_freed_memory()
    begun = time.perf_counter()
    settings, block_size, seed = params.train, params.model.block_size, params.base.seed
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    model = GPTModel(GPTConfig(vocab_size=len(alphabet), **params.section("model")))
    model.init_weights(seed)
    model.to(accelerator.device)
    if params.launch.compile is True:
        for block in model.trf_blocks:
            block.compile()
    optimizer = build_optimizer(model, settings)
    step = TrainStep(model, optimizer, settings, accelerator, micro_batch_size=settings.batch_size, seed=seed)
    batches = Batches(Characters(training), block_size, settings.batch_size, seed)  # pyright: ignore[reportArgumentType]
    for number in range(settings.max_steps):
        step(number, lambda first, last, number=number: batches.read(number, first, last))
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    return {
        "loss": validation_loss(model, validation, block_size),
        "seconds": seconds,
        "steps": settings.max_steps,
        "tokens_per_step": settings.batch_size * block_size,
        "parameters": model.count_parameters(),
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


def read_recipe(recipe: str, seed: int) -> Params:
    """Return params.yaml with a recipe's values in place of its own, validated as any."""
    values = load_params().model_dump(by_alias=True)
    for section, changes in YAML(typ="safe", pure=True).load(_RECIPES / f"{recipe}.yaml").items():
        values[section] |= changes
    values["base"]["seed"] = seed
    values["launch"] |= {"num_processes": 1, "num_machines": 1, "micro_batch_size": values["train"]["batch_size"]}
    return Params.model_validate(values)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(train(Path(sys.argv[1]), read_recipe(sys.argv[2], int(sys.argv[3])))))
    elif len(sys.argv) == 2:
        print("\n".join(measure(Path(sys.argv[1]))))
    else:
        sys.exit("usage: python -m benchmarks.quality TEXT")
