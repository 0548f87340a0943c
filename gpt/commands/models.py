"""Commands for a trained model: evaluate it, report, convert it."""

import sys
from pathlib import Path

import click

from gpt.addresses import mlflow_address
from gpt.commands.line.arguments import FromHere, OneOf, model_option
from gpt.commands.line.command import command


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
def import_(folder: Path, form: str, output: Path) -> int:
    """import a model from a Hugging Face folder"""
    from gpt.model.convert.huggingface import import_huggingface

    model = import_huggingface(folder, output)
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
