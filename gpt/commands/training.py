"""Commands that train a model, and that show what training has left: checkpoints, metrics to deliver."""

import argparse

from gpt.addresses import mlflow_address
from gpt.commands.arguments import Commands, add_command
from gpt.paths import from_here


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to `gpt`."""
    _add_pretrain(commands)
    for command in (checkpoints, sync):
        add_command(commands, command)


def pretrain(options: argparse.Namespace) -> int:
    """train the base model, going on from its last checkpoint"""
    from gpt.params.project import load_params

    params = load_params()
    mlflow_address()  # a server that is away costs a warning; an address that is none is the user's to correct
    from gpt.processes.owner import watch_owner

    watch_owner()  # before the imports of torch, which take seconds
    if options.adopt:
        from gpt.training.checkpoints.adoption import adopt

        print(adopt(params, options.adopt), flush=True)
    from gpt.processes.launch import check_launch, needs_workers

    if needs_workers(params.launch):
        from gpt.processes.workers import run_workers

        check_launch(params.launch)
        return run_workers(params.launch, ["-m", "gpt.commands.worker", "pretrain"])
    from gpt.training.pretrain import pretrain as train

    train(params)
    return 0


def _add_pretrain(commands: Commands) -> None:
    parser = add_command(commands, pretrain)
    parser.add_argument(
        "--adopt",
        type=from_here,
        metavar="FOLDER",
        help="go on from the newest checkpoint of another run, such as checkpoints/0123456789abcdef, although something differs",
    )


def checkpoints(options: argparse.Namespace) -> int:
    """show runs that can be resumed: their checkpoints, whether these are intact, and which process trains"""
    from gpt import paths
    from gpt.params.project import load_params

    params = load_params()
    from gpt.training.checkpoints import status  # imports torch

    lines = list(status.describe_all(paths.CHECKPOINTS, params))
    print("\n".join(lines) if lines else f"{paths.CHECKPOINTS}: no run has left a checkpoint")
    return 0


def sync(options: argparse.Namespace) -> int:
    """deliver metrics that a tracking server has not got yet"""
    from gpt import paths
    from gpt.tracking.journal import deliver_left_behind

    print(f"{paths.SPOOL}: {deliver_left_behind(paths.SPOOL)} runs delivered")
    return 0
