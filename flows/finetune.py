"""Fine-tune a model as a recipe says: `python -m flows.finetune spam`. The flow itself is in flows/pipeline.py."""

import argparse
import sys
from typing import Any

from flows.command import run_flow
from gpt.entry import begin, end_with, readable


def main(arguments: list[str] | None = None) -> int:
    """Run the flow and say what came of it; return 0 done, 1 failed, 2 the user must change something."""
    begin()
    parser = argparse.ArgumentParser(prog="python -m flows.finetune", description="Fine-tune a model as a recipe says.")
    parser.add_argument("recipe", type=readable, help="its name, as in finetuning/NAME.yaml")
    recipe = parser.parse_args(arguments).recipe
    return end_with(lambda: _finetune(recipe))


def _finetune(recipe: str) -> int:
    def start() -> Any:
        from flows.pipeline import finetune

        return finetune(recipe, return_state=True)

    def describe(figures: dict[str, float]) -> str:
        lines = [f"{name.replace('_', ' '):<24} {figure:.4f}" for name, figure in figures.items()]
        return "\n".join(
            [*lines, f"The model is in finetuning/{recipe}/model, how it was judged in evaluation.json beside it."]
        )

    return run_flow(start, "interrupted; run it again to go on from the last checkpoint", describe)


if __name__ == "__main__":
    sys.exit(main())
