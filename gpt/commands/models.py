"""Commands for a trained model: evaluate it, report, convert it, let it continue prompts or talk with who types."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt import paths
from gpt.addresses import mlflow_address
from gpt.commands.line.arguments import NOT_EMPTY, TEXT, FromHere, OneOf, at_least, model_option
from gpt.commands.line.command import command
from gpt.entry import readable
from gpt.errors import UserError

if TYPE_CHECKING:
    from gpt.params.project import Params


@command(examples=["gpt evaluate", "gpt evaluate --all-items  # the benchmarks in full"])
@click.option(
    "--all-items",
    is_flag=True,
    help="show what the benchmarks score on all their items, whatever evaluate.limit; no file is written, MLflow is told",
)
def evaluate(all_items: bool) -> int:
    """measure the model on held-out documents and benchmarks, and let it write samples"""
    from gpt.params.project import load_params

    params = load_params()
    mlflow_address()  # a server that is away costs a warning; an address that is none is the user's to correct
    from gpt.processes.owner import watch_owner
    from gpt.processes.signals import Stop

    watch_owner()  # before the imports of torch, which take seconds
    from gpt.processes.launch import needs_workers, of_this_machine, shared_processes

    launch = of_this_machine(params.launch)
    if needs_workers(launch):
        from gpt.processes.workers import run_workers

        command = ["-m", "gpt.commands.worker", "evaluate", *(["--all-items"] if all_items else [])]
        advice = f"params.yaml: lower launch.num_processes ({launch.num_processes})"
        return run_workers(launch, command, advice, again="run it again")
    stop = Stop("before all was measured; nothing was written, run it again")
    with stop.handled(), shared_processes(launch) as share:
        from gpt.evaluation.benchmarks.table import format_table
        from gpt.evaluation.evaluate import evaluate as measure
        from gpt.evaluation.evaluate import score_all_items
        from gpt.evaluation.held_out import HELD_OUT

        metrics = score_all_items(params, share) if all_items else measure(params, share, stop.defer)
    if not share.is_first:
        return 0
    from gpt.tracking.evaluation import log_all_items, log_evaluation

    if all_items:
        print(format_table(metrics), flush=True)
        log_all_items(params, metrics)
        return 0
    for split in HELD_OUT:
        figures = metrics[split]
        print(
            f"{split}: {figures['bits_per_byte']:.4f} bits per byte, loss {figures['loss']:.4f},"
            f" perplexity {figures['perplexity']:.2f}"
        )
    if metrics["benchmarks"] or "tasks" in metrics:
        print(format_table(metrics))
    sys.stdout.flush()  # before MLflow, which may take its time
    log_evaluation(params, metrics)
    return 0


@command(examples=["gpt report"])
def report() -> int:
    """write a page with the evaluation's figures, curves, benchmarks and samples"""
    from gpt.params.project import load_params
    from gpt.reports.evaluation import write_report
    from gpt.tracking.evaluation import log_report

    params = load_params()
    mlflow_address()
    print(f"report: {write_report(params)}", flush=True)
    log_report(params)
    return 0


@command(
    name="import",
    examples=["gpt import ~/Downloads/gpt2", "gpt import gpt2 --output models/gpt2  # then: gpt generate --model"],
)
@click.argument("folder", type=FromHere("dir"), metavar="DIR", help="config.json, safetensors and tokenizer files")
@click.option("--from", "form", type=OneOf("huggingface"), default="huggingface", help="form of the folder")
@click.option(
    "--output",
    type=FromHere("dir"),
    default=Path("models/imported"),
    metavar="DIR",
    help="the model folder to make (default: models/imported)",
)
@click.option(
    "--adapter", type=FromHere("dir"), metavar="DIR", help="a LoRA adapter that PEFT has saved, to merge into it"
)
def import_(folder: Path, form: str, output: Path, adapter: Path | None) -> int:
    """import a model from a Hugging Face folder"""
    from gpt.model.convert.huggingface import import_huggingface

    if adapter is None:
        model = import_huggingface(folder, output)
    else:
        from gpt.finetuning.methods.peft import import_merged

        model = import_merged(folder, adapter, output)
    print(f"{output}: {model.count_parameters():,} parameters, {model.config.vocab_size} tokens")
    return 0


@command(examples=["gpt export export/base", "gpt export export/champion --model models:/shakespeare-gpt@champion"])
@click.argument("folder", type=FromHere("dir"), metavar="DIR", help="the folder to make")
@click.option("--format", "form", type=OneOf("huggingface"), default="huggingface", help="form of the folder")
@model_option
def export(folder: Path, form: str, model: str) -> int:
    """write a model as transformers loads it, with a model card"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.model.convert.huggingface import export_huggingface
    from gpt.registry.overview.card import write_card
    from gpt.registry.overview.facts import of_model

    source, facts = of_model(model, params.register_.name, Path.cwd())
    architecture = export_huggingface(source, folder, write_card(facts))
    print(f"{folder}: {architecture.class_name}; AutoModelForCausalLM and AutoTokenizer load it")
    return 0


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
@click.option("--plain", is_flag=True, help="let a model that has learned to answer go on with the text all the same")
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
    plain: bool,
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
    """let the model continue prompts, or answer them where it has learned to, or talk with it"""
    if not prompts and not interactive:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    texts = [_from_stdin() if prompt == "-" else prompt for prompt in prompts]
    if interactive and len(texts) > 1:
        raise UserError("--interactive: a talk begins with one prompt, or with none")
    from gpt.params.project import load_params

    params = load_params()
    from gpt.commands.line.talk import ChatTalk, TextTalk, show, talk
    from gpt.finetuning.data.templates import load_template
    from gpt.finetuning.talking import answer_text
    from gpt.memory import told_if_out_of_memory
    from gpt.model.generation import generate_text, generate_texts
    from gpt.model.sampling import Sampling
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
        folder = _find_model(model, params, prompts)
        network, encoding = load_model(folder, default_device())
        template = None if plain else load_template(folder / "tokenizer", encoding)

        def of_turn(turn: int) -> Sampling:
            return replace(sampling, seed=sampling.seed + turn)

        def write_on(text: str, turn: int) -> Iterator[str]:
            return generate_text(network, encoding, text, of_turn(turn))

        def answer(messages: list[dict[str, str]], turn: int) -> Iterator[str]:
            assert template is not None
            return answer_text(network, template, messages, of_turn(turn))

        if interactive:
            talk(ChatTalk(answer) if template else TextTalk(write_on), "".join(texts))
        elif template is not None:
            for turn, text in enumerate(texts):
                for piece in answer([{"role": "user", "content": text}], turn):
                    show(piece)
                print("\n" if turn < len(texts) - 1 else "")
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
    from gpt.registry.versions import CANDIDATE, CHAMPION, registered_alias, resolve_model

    if spec == str(paths.BASE_MODEL) and not (paths.BASE_MODEL / "config.json").exists():
        offer = ""
        if uri := registered_alias(params.register_.name, (CHAMPION, CANDIDATE)):
            offer = f"; {uri} is registered: gpt generate {shlex.join([*(prompts or ['-i']), '--model', uri])}"
        raise UserError(
            f"{paths.BASE_MODEL}/config.json: not found; run `gpt pretrain`, or name a model with --model{offer}"
        )
    return resolve_model(spec, params.register_.name)


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
