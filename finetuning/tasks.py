"""Short tasks with exact answers, made by reasoning-gym: `python tasks.py FILE` writes them as JSON lines.

Run by the source of finetuning/tasks.yaml in an environment of its own, as the package pins other versions than the project has.
Prompts are shorter than the package's own, which explain each task anew; answers are those that its scorers take for right.
"""

import json
import sys
from pathlib import Path

from reasoning_gym.algorithmic.word_sorting import TextTransformation
from reasoning_gym.factory import create_dataset

SEED = 1
TASKS = {
    "spell_backward": (4_200, {}),
    "word_sorting": (
        16_000,
        {"min_words": 3, "max_words": 4, "max_word_length": 10, "transformation": TextTransformation.LOWERCASE},
    ),
    "number_sorting": (22_000, {"min_numbers": 3, "max_numbers": 4}),
    "chain_sum": (60_000, {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
}
DIRECTIONS = {"ascending": "up", "descending": "down"}


def main(path: str) -> None:
    with Path(path).open("w", encoding="utf-8") as file:
        for task, (size, settings) in TASKS.items():
            for entry in create_dataset(task, seed=SEED, size=size, **settings):
                prompt, completion = short(task, entry)
                file.write(json.dumps({"task": task, "prompt": prompt, "completion": completion}) + "\n")


def short(task: str, entry: dict) -> tuple[str, str]:
    """Return a prompt in few words and its answer."""
    about = entry["metadata"]
    match task:
        case "spell_backward":
            return f"back {about['word'].lower()}", entry["answer"].lower()
        case "word_sorting":
            given, answer = about["transformed_words"], about["sorted_words"]
        case "number_sorting":
            given, answer = about["original_numbers"], about["sorted_numbers"]
        case _:
            return about["expression"].replace(" ", ""), entry["answer"]
    return " ".join([DIRECTIONS[about["direction"]], *given]), " ".join(answer)


if __name__ == "__main__":
    main(sys.argv[1])
