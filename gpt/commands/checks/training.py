"""What the environment asks of training, where params.yaml says something else."""

from collections.abc import Iterator

from gpt.commands.checks.finding import Finding, missing
from gpt.errors import UserError


def environment() -> Iterator[Finding]:
    import torch

    from gpt.params.project import load_params
    from gpt.processes.environment import check_environment

    try:
        params = load_params()
    except UserError:  # told among the project's findings
        return
    try:
        check_environment(params, on_gpu=torch.cuda.is_available())
    except UserError as error:
        yield from missing("environment", error)
