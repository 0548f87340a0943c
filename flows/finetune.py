"""Fine-tune a model as a recipe says: `python -m flows.finetune spam`. The flow itself is in flows/pipeline.py."""

import argparse
import sys
from typing import Any

from flows.command import describe_role, run_flow
from gpt.entry import begin, end_with, readable
from gpt.finetuning.places import Places


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

    def describe(result: dict[str, Any]) -> str:
        registered, places = result["registered"], Places(recipe)
        name = registered["name"]
        uri = f"models:/{name}/{registered['version']}"
        return "\n".join(
            [
                *(f"{figure.replace('_', ' '):<24} {value:.4f}" for figure, value in result["figures"].items()),
                f"{'Registered':<24} {uri} ({describe_role(registered)})",
                f"{'All on one page':<24} {places.report}",
                f"{'The model':<24} {places.model}",
                f"{'What next':<24} {f'gpt promote --name {name}':<44} make it the champion if it beats the last one",
                f"{'':<24} {f'gpt lineage {uri}':<44} see what it was made from",
            ]
        )

    return run_flow(start, "interrupted; run it again to go on from the last checkpoint", describe)


if __name__ == "__main__":
    sys.exit(main())
