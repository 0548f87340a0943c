"""What `gpt pretrain` starts in each worker process: the same command, but its errors are left to the launcher to print.

`@record` writes an exception to torch elastic's error file, which the launcher reads (gpt/processes/workers.py). It leaves
out `Interrupted`, which is no `Exception`; training has written that itself (`tell_owner`).
"""

import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from gpt.commands.main import run
from gpt.entry import leave
from gpt.errors import Interrupted, UserError


def main(arguments: list[str]) -> int:
    """Run one command in a worker process and return its exit code."""
    try:
        return record(run)(arguments) or 0
    except UserError:
        return 2
    except Interrupted as stopped:
        return 128 + stopped.signum
    except Exception:
        if not Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).is_file():
            raise  # it could not be written: Python prints it here
        return 1


if __name__ == "__main__":
    sys.exit(leave(main(sys.argv[1:])))
