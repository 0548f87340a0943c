"""`python -m infra.slurm.nodes`: whether a job has the nodes that `launch.num_machines` asks for. train.sbatch asks first.

On fewer, training would wait ten minutes for the others; on more, each would train the same run.
"""

import os
import sys

from gpt.entry import begin, end_with
from gpt.errors import UserError
from gpt.params.project import load_params


def main() -> int:
    """Compare the two numbers; return 0, or 2 if the user must change one of them."""
    begin()
    return end_with(_compare)


def _compare() -> int:
    asked, given = load_params().launch.num_machines, int(os.environ["SLURM_JOB_NUM_NODES"])
    if asked != given:
        raise UserError(
            f"params.yaml: launch.num_machines = {asked}, but the job has {given} node(s): submit it with --nodes={asked},"
            f" or set launch.num_machines to {given}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
