"""Commands that train a model, and that show what training has left: checkpoints, metrics to deliver."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt.addresses import mlflow_address
from gpt.commands.line.arguments import FromHere
from gpt.commands.line.command import command

if TYPE_CHECKING:
    from gpt.params.project import Params


@command(
    examples=[
        "gpt pretrain",
        "gpt pretrain --adopt checkpoints/0123456789abcdef  # although settings or code differ",
        "dvc repro pretrain  # whatever comes before it, too",
    ]
)
@click.option(
    "--adopt",
    type=FromHere("dir"),
    metavar="FOLDER",
    help="go on from the newest checkpoint of another run, such as checkpoints/0123456789abcdef, although something differs",
)
def pretrain(adopt: Path | None) -> int:
    """train the base model, going on from its last checkpoint"""
    from gpt.params.project import load_params

    params = load_params()
    mlflow_address()  # a server that is away costs a warning; an address that is none is the user's to correct
    from gpt.processes.owner import watch_owner

    watch_owner()  # before the imports of torch, which take seconds
    if adopt:
        from gpt.training.checkpoints.adoption import adopt as take_over

        print(take_over(params, adopt), flush=True)
    from gpt.processes.launch import check_launch, needs_workers

    check_launch(params)  # before the imports of Accelerate, which reads the environment already
    if needs_workers(params.launch):
        from gpt.processes.workers import run_workers

        # The kernel kills for want of the machine's memory, not of a GPU's.
        advice = _memory_advice(params, fewer_processes=True)
        return run_workers(params.launch, ["-m", "gpt.commands.worker", "pretrain"], advice)
    from gpt.memory import told_if_out_of_memory
    from gpt.training.pretrain import pretrain as train

    with told_if_out_of_memory(_memory_advice(params)):
        train(params)
    return 0


def _memory_advice(params: "Params", *, fewer_processes: bool = False) -> str:
    """Say what makes training take less memory, of what params.yaml does not do yet; what changes the result comes last."""
    launch, several = params.launch, params.launch.num_processes * params.launch.num_machines > 1
    ways = [
        (launch.micro_batch_size > 1, f"lower launch.micro_batch_size ({launch.micro_batch_size})"),
        (not launch.activation_checkpointing, "set launch.activation_checkpointing to true"),
        (several and launch.strategy == "ddp", "set launch.strategy to fsdp"),
        (fewer_processes, f"lower launch.num_processes ({launch.num_processes})"),
        (params.train.precision in ("fp32", "tf32"), "set train.precision to bf16 (which changes the result)"),
        (True, "make the model smaller (which changes the result)"),
    ]
    *first, last = [text for is_open, text in ways if is_open]
    return f"params.yaml: {', '.join(first)}, or {last}" if first else f"params.yaml: {last}"


@command(examples=["gpt checkpoints"])
def checkpoints() -> int:
    """show runs that can be resumed: their checkpoints, whether these are intact, and which process trains"""
    from gpt import paths
    from gpt.params.project import load_params

    params = load_params()
    from gpt.training.checkpoints import status  # imports torch

    lines = list(status.describe_all(paths.CHECKPOINTS, params))
    print("\n".join(lines) if lines else f"{paths.CHECKPOINTS}: no run has left a checkpoint")
    return 0


@command(examples=["gpt sync", "MLFLOW_TRACKING_URI=http://mlflow.example:5000 gpt sync"])
def sync() -> int:
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
