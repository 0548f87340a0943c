"""Commands that train a model, and that show what training has left: checkpoints, metrics to deliver."""

import argparse

from gpt.commands.arguments import Commands, add_command


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to `gpt`."""
    for command in (pretrain, checkpoints, sync):
        add_command(commands, command)


def pretrain(options: argparse.Namespace) -> int:
    """train the base model, going on from its last checkpoint"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.processes.owner import watch_owner

    watch_owner()  # before the imports of torch, which take seconds
    from gpt.processes.launch import check_launch, needs_workers

    if needs_workers(params.launch):
        from gpt.processes.workers import run_workers

        check_launch(params.launch)
        return run_workers(params.launch, ["-m", "gpt.commands.worker", *options.arguments])
    from gpt.evaluation.likelihood import split_likelihood
    from gpt.training.pretrain import pretrain as train

    train(params, split_likelihood)
    return 0


def checkpoints(options: argparse.Namespace) -> int:
    """show runs that can be resumed: their checkpoints, whether these are intact, and which process trains"""
    from gpt import paths
    from gpt.params.project import load_params

    params = load_params()
    from gpt.training import status  # imports torch

    lines = list(status.describe_all(paths.CHECKPOINTS, params))
    print("\n".join(lines) if lines else f"{paths.CHECKPOINTS}: no run has left a checkpoint")
    return 0


def sync(options: argparse.Namespace) -> int:
    """deliver metrics that a tracking server has not got yet"""
    from gpt import paths
    from gpt.tracking.journal import deliver_left_behind

    print(f"{paths.SPOOL}: {deliver_left_behind(paths.SPOOL)} runs delivered")
    return 0
