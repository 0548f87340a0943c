"""Promotes and rolls back at once in many threads, as several machines do.

`python -m tests.registry.deciders PROJECT SEED THREADS VERSIONS`

Waits for a line on its input, so that processes begin together; prints what each thread was told, as JSON.
"""

import json
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpt.errors import UserError
from gpt.params.project import load_params
from gpt.registry.promotion import promote, rollback


def decide(number: int, seed: int, versions: int) -> dict[str, object]:
    """Promote, or roll back to some version or the one before; return what came of it."""
    params, chance = load_params(), random.Random(seed * 1000 + number)
    try:
        if number % 2:
            result = promote(params, Path.cwd())
        else:
            result = rollback(params, chance.choice([None, *range(1, versions + 1)]), f"decider {number}")
    except UserError as error:
        return {"told": str(error)}
    return {"verdict": result.verdict, "version": result.version, "previous_version": result.previous_version}


if __name__ == "__main__":
    project, seed, threads, versions = sys.argv[1], *map(int, sys.argv[2:5])
    os.chdir(project)
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(threads) as pool:
        print(json.dumps(list(pool.map(lambda number: decide(number, seed, versions), range(threads)))))
