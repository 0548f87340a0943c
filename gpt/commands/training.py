"""Commands that train a model, and that show what training has left: checkpoints, metrics to deliver."""

import argparse
from pathlib import Path

from gpt.commands.arguments import Commands, add_command


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to `gpt`."""
    _add_pretrain(commands)
    for command in (checkpoints, sync):
        add_command(commands, command)


def pretrain(options: argparse.Namespace) -> int:
    """train the base model, going on from its last checkpoint"""
    from gpt.params.project import load_params

    params = load_params()
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
        type=Path,
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
    """deliver what the tracking server has not got yet of runs that ended, and try again what it refused"""
    from gpt import paths
    from gpt.tracking.delivery import deliver_each

    outcomes = list(deliver_each(paths.SPOOL, again=True))
    for outcome in outcomes:
        match outcome.kind:
            case "refused" | "waiting":
                print(f"{paths.SPOOL / outcome.run}.jsonl: {outcome.kind}: {outcome.reason}")
            case "live":
                print(
                    f"{paths.SPOOL / outcome.run}.jsonl: {outcome.run} trains now ({outcome.reason}), and delivers itself"
                )
            case "delivered":
                pass
    print(f"{paths.SPOOL}: {sum(outcome.kind == 'delivered' for outcome in outcomes)} runs delivered")
    return 1 if any(outcome.kind in ("refused", "waiting") for outcome in outcomes) else 0
