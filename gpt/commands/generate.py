"""`gpt generate`: a model continues prompts, or talks with who types."""

import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt import paths
from gpt.commands.line.arguments import NOT_EMPTY, TEXT, at_least, model_option
from gpt.commands.line.command import command
from gpt.entry import readable
from gpt.errors import UserError

if TYPE_CHECKING:
    from gpt.params.project import Params

logger = logging.getLogger(__name__)


@command(
    examples=[
        'gpt generate "To be, or"',
        'gpt generate "To be, or" "Once upon a time" --temperature 0  # several at once, the likeliest tokens',
        'gpt generate "ROMEO:" --model models:/shakespeare-gpt@champion --max-new-tokens 200 --stop "JULIET:"',
        "gpt generate - <prompt.txt  # the prompt comes from standard input",
        "gpt generate --interactive --model @champion",
    ],
    notes="What is not given and has no default here is taken from params.yaml: evaluate and base.seed. In a talk the model goes on"
    " with all that was typed and written; Enter alone lets it write on, /new forgets it, Ctrl-C stops an answer, Ctrl-D leaves.",
)
@click.argument(
    "prompts",
    type=TEXT,
    nargs=-1,
    metavar="PROMPT...",
    help="one is printed as it is generated, several when all are done; - is read from standard input",
)
@click.option("--interactive", "-i", is_flag=True, help="talk: type, read what it writes, go on")
@model_option
@click.option("--max-new-tokens", type=at_least(int, 1), metavar="N")
@click.option("--temperature", type=at_least(float, 0), metavar="X", help="0 takes the likeliest token always")
@click.option("--top-k", type=at_least(int, 0), metavar="N", help="sample among the N likeliest tokens; 0: among all")
@click.option(
    "--top-p",
    type=at_least(float, 0.0001, 1),
    default=1.0,
    metavar="X",
    help="sample among the fewest likeliest tokens that together have probability X (default: 1, among all)",
)
@click.option(
    "--min-p",
    type=at_least(float, 0, 1),
    default=0.0,
    metavar="X",
    help="sample among tokens of at least X times the likeliest one's probability (default: 0, among all)",
)
@click.option(
    "--repetition-penalty",
    type=at_least(float, 0.01),
    default=1.0,
    metavar="X",
    help="above 1 makes tokens that were there before less likely (default: 1)",
)
@click.option(
    "--stop",
    type=NOT_EMPTY,
    multiple=True,
    metavar="TEXT",
    help="end before this text; may be given several times",
)
@click.option("--seed", type=at_least(int, 0), metavar="N", help="the next prompt's is one more")
@click.pass_context
def generate(
    context: click.Context,
    prompts: tuple[str, ...],
    interactive: bool,
    model: str,
    max_new_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    stop: tuple[str, ...],
    seed: int | None,
) -> int:
    """let the model continue prompts, or talk with it"""
    if not prompts and not interactive:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    texts = [_from_stdin() if prompt == "-" else prompt for prompt in prompts]
    if interactive and len(texts) > 1:
        raise UserError("--interactive: a talk begins with one prompt, or with none")
    from gpt.params.project import load_params

    params = load_params()
    from gpt.commands.line.talk import show, talk
    from gpt.memory import told_if_out_of_memory
    from gpt.model.generation import Sampling, generate_text, generate_texts
    from gpt.model.storage import default_device, load_model
    from gpt.processes.cores import bound_threads

    bound_threads()
    settings = params.evaluate
    sampling = Sampling(
        max_new_tokens=settings.max_new_tokens if max_new_tokens is None else max_new_tokens,
        temperature=settings.temperature if temperature is None else temperature,
        top_k=settings.top_k if top_k is None else top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        seed=params.base.seed if seed is None else seed,
    )
    with told_if_out_of_memory(
        "give fewer prompts at a time, or compute elsewhere: CUDA_VISIBLE_DEVICES='' takes the processor"
    ):
        network, encoding = load_model(_find_model(model, params, prompts), default_device())
        if interactive:
            talk(
                lambda text, turn: generate_text(network, encoding, text, replace(sampling, seed=sampling.seed + turn)),
                beginning="".join(texts),
            )
        elif len(texts) == 1:
            show(texts[0])
            for piece in generate_text(network, encoding, texts[0], sampling):
                show(piece)
            print()
        else:
            written = generate_texts(network, encoding, texts, sampling)
            print("\n\n".join(prompt + text for prompt, text in zip(texts, written, strict=True)))
    return 0


def _find_model(spec: str, params: "Params", prompts: tuple[str, ...]) -> Path:
    """Return the model's folder; where models/base is not there, say which registered version is, and how to ask it."""
    from gpt.registry.versions import resolve_model

    if spec == str(paths.BASE_MODEL) and not (paths.BASE_MODEL / "config.json").exists():
        offer = ""
        if uri := _registered(params.register_.name):
            offer = f"; {uri} is registered: gpt generate {shlex.join([*(prompts or ['-i']), '--model', uri])}"
        raise UserError(
            f"{paths.BASE_MODEL}/config.json: not found; run `gpt pretrain`, or name a model with --model{offer}"
        )
    return resolve_model(spec, params.register_.name)


def _registered(name: str) -> str | None:
    """Return the URI of a model's champion, else of its candidate; None if there is neither, or nobody to ask."""
    from gpt.registry.versions import CANDIDATE, CHAMPION, version_of_alias
    from gpt.tracking import store

    try:
        client = store.existing_client()
        with store.store_errors():
            aliases = (alias for alias in (CHAMPION, CANDIDATE) if version_of_alias(client, name, alias))
            return next((f"models:/{name}@{alias}" for alias in aliases), None)
    except UserError as error:  # what is told is that models/base is missing
        logger.info("no registered model is offered: %s", error)
        return None


def _from_stdin() -> str:
    """Return what stands in standard input, without the end of its last line."""
    if sys.stdin is None:
        raise UserError("-: standard input is closed")
    if sys.stdin.isatty():
        print("Type the prompt; Ctrl-D on a line of its own ends it.", file=sys.stderr)
    text = readable(sys.stdin.buffer.read().decode("utf-8", "surrogateescape")).removesuffix("\n")
    if not text:
        raise UserError("-: nothing came from standard input")
    return text
