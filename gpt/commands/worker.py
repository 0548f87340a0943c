"""What `gpt pretrain` starts several times: the command again, but what goes wrong in it is told by the launcher, once.

`@record` leaves an exception in torch elastic's error file. Interrupted is none, and training itself has left it there.
"""

import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from gpt.commands.main import run
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
            raise  # so the launcher will not tell it
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
