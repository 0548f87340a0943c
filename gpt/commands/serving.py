"""`gpt serve`: the models behind OpenAI's routes, and a page to talk."""

from pathlib import Path

import click

from gpt import paths
from gpt.commands.line.arguments import MODEL, NOT_EMPTY, FromHere, at_least
from gpt.commands.line.command import command
from gpt.errors import UserError


@command(
    examples=[
        "gpt serve",
        "gpt serve --model models:/shakespeare-gpt@champion --port 8080",
        "gpt serve --model @champion --model finetuning/chat/model  # the first is who answers if a request names none",
        "gpt serve --host 0.0.0.0 --api-key-file keys.txt",
    ],
    notes="An alias is followed: after `gpt promote` the next request is answered by the new champion. Who outgrows this server"
    " exports the model (gpt export) and runs vLLM: docs/serving.md.",
)
@click.option(
    "--model",
    "models",
    type=MODEL,
    multiple=True,
    metavar="PATH|URI",
    help="a model folder, models:/NAME/VERSION or models:/NAME@ALIAS; several times for several (default: the champion of"
    f" register.name, or {paths.BASE_MODEL} where there is none)",
)
@click.option(
    "--host", type=NOT_EMPTY, default="127.0.0.1", metavar="ADDRESS", help="(default: 127.0.0.1, this machine alone)"
)
@click.option(
    "--port", type=at_least(int, 0, 65535), default=8000, metavar="N", help="0: any that is free (default: 8000)"
)
@click.option(
    "--api-key-file",
    type=FromHere(),
    metavar="FILE",
    help="keys, one a line, of which a request must bring one as Authorization: Bearer KEY",
)
@click.option(
    "--max-running",
    type=at_least(int, 1),
    default=16,
    metavar="N",
    help="requests that are answered at once (default: 16)",
)
@click.option(
    "--max-waiting",
    type=at_least(int, 0),
    default=64,
    metavar="N",
    help="requests that may wait for their turn; one more is told to try again, 429 (default: 64)",
)
@click.option(
    "--timeout",
    type=at_least(float, 0.001),
    default=300.0,
    metavar="SECONDS",
    help="a request that takes longer is given up (default: 300)",
)
@click.option(
    "--cache-tokens",
    type=at_least(int, 1),
    metavar="N",
    help="tokens of all running requests whose keys and values are kept (default: a full context for each)",
)
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    api_key_file: Path | None,
    max_running: int,
    max_waiting: int,
    timeout: float,
    cache_tokens: int | None,
) -> int:
    """answer requests as OpenAI's API does, with a page to talk to the model"""
    from gpt.params.project import load_params

    name = load_params().register_.name
    from gpt.memory import told_if_out_of_memory
    from gpt.serving.served import Limits
    from gpt.serving.server import Address, serve

    specs = models or (_default(name),)
    with told_if_out_of_memory("give a lower --max-running or --cache-tokens"):
        return serve(
            specs,
            name,
            Address(host, port),
            key_file=api_key_file,
            limits=Limits(max_running, max_waiting, cache_tokens),
            timeout_seconds=timeout,
        )


def _default(name: str) -> str:
    """Return the champion, or the project's own model where nothing is registered yet."""
    from gpt.registry.versions import CHAMPION, registered_alias

    if registered_alias(name, (CHAMPION,)):
        return f"models:/{name}@{CHAMPION}"
    if not (paths.BASE_MODEL / "config.json").exists():
        raise UserError(
            f"{name} has no champion, and {paths.BASE_MODEL} no model; run `gpt pretrain`, or name a model with --model"
        )
    return str(paths.BASE_MODEL)
