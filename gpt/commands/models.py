"""Commands for a trained model: evaluate it, register and promote it, convert it, generate with it."""

import argparse
import sys
from pathlib import Path

from gpt.addresses import mlflow_address
from gpt.commands.arguments import Commands, add_command, add_model, at_least, not_empty
from gpt.entry import readable
from gpt.errors import UserError
from gpt.paths import from_here


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to `gpt`."""
    _add_evaluate(commands)
    add_command(commands, report)
    _add_generate(commands)
    _add_register(commands)
    _add_promote(commands)
    _add_rollback(commands)
    _add_import(commands)
    _add_export(commands)


def evaluate(options: argparse.Namespace) -> int:
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

        command = ["-m", "gpt.commands.worker", "evaluate", *(["--all-items"] if options.all_items else [])]
        advice = f"params.yaml: lower launch.num_processes ({launch.num_processes})"
        return run_workers(launch, command, advice, again="run it again")
    stop = Stop("before all was measured; nothing was written, run it again")
    with stop.handled(), shared_processes(launch) as share:
        from gpt.evaluation.benchmarks.table import format_table
        from gpt.evaluation.evaluate import evaluate as measure
        from gpt.evaluation.evaluate import score_all_items
        from gpt.evaluation.held_out import HELD_OUT

        metrics = score_all_items(params, share) if options.all_items else measure(params, share, stop.defer)
    if not share.is_first:
        return 0
    from gpt.tracking.evaluation import log_all_items, log_evaluation

    if options.all_items:
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


def _add_evaluate(commands: Commands) -> None:
    parser = add_command(commands, evaluate)
    parser.add_argument(
        "--all-items",
        action="store_true",
        help="show what the benchmarks score on all their items, whatever evaluate.limit; no file is written, MLflow is told",
    )


def report(options: argparse.Namespace) -> int:
    """write a page with the evaluation's figures, curves, benchmarks and samples"""
    from gpt.params.project import load_params
    from gpt.reports.evaluation import write_report
    from gpt.tracking.evaluation import log_report

    params = load_params()
    mlflow_address()
    print(f"report: {write_report(params)}", flush=True)
    log_report(params)
    return 0


def register(options: argparse.Namespace) -> int:
    """register the evaluated model in MLflow as the candidate, and let the gate judge it"""
    from gpt import paths
    from gpt.params.project import load_params

    params = load_params()
    from gpt.registry import package, promotion
    from gpt.reports.model_page.versions import draw_registered
    from gpt.tracking.evaluation import log_comparison

    registered = package.register(params, Path.cwd())
    print(registered.describe(), flush=True)
    if registered.alias == "candidate":
        told, reasons, comparison = promotion.judge_registered(params, Path.cwd(), registered.version)
        registered = package.with_its_role(registered)
        if told:  # else it is the champion, and the page of its verdict stays
            print(told, flush=True)
            try:
                print(f"page: {draw_registered(paths.COMPARISON, registered, reasons, comparison)}", flush=True)
            except UserError as error:  # a champion that others registered, for example; the verdict stands without it
                print(f"no page is drawn: {error}", flush=True)
            else:
                log_comparison(params, registered.version)
    if options.json:
        print(registered.to_json())
    return 0


def _add_register(commands: Commands) -> None:
    parser = add_command(commands, register)
    parser.add_argument("--json", action="store_true", help="print the version as JSON in the last line")


def promote(options: argparse.Namespace) -> int:
    """make the candidate the champion if it passes the gate of params.yaml"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.registry import promotion

    verdict = promotion.promote(params, Path.cwd(), other_data=options.other_data)
    print(verdict.describe())
    return 1 if verdict.refused else 0


def _add_promote(commands: Commands) -> None:
    parser = add_command(commands, promote)
    parser.add_argument(
        "--other-data",
        action="store_true",
        help="let a model of other texts take the champion's place: compare with no champion, the thresholds decide",
    )


def rollback(options: argparse.Namespace) -> int:
    """make an earlier champion the champion again"""
    from gpt.params.project import load_params
    from gpt.registry import promotion

    print(promotion.rollback(load_params(), options.version, options.reason).describe())
    return 0


def _add_rollback(commands: Commands) -> None:
    parser = add_command(commands, rollback)
    parser.add_argument(
        "version",
        type=at_least(int, 1),
        nargs="?",
        metavar="VERSION",
        help="of an earlier champion (default: the last one before this that exists)",
    )
    parser.add_argument("--reason", type=readable, default="", metavar="TEXT", help="is recorded, with who and when")


def generate(options: argparse.Namespace) -> int:
    """let the model continue prompts"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.memory import told_if_out_of_memory
    from gpt.model.generation import Sampling, generate_text, generate_texts
    from gpt.model.storage import default_device, load_model
    from gpt.processes.cores import bound_threads
    from gpt.registry.versions import resolve_model

    bound_threads()
    settings = params.evaluate
    sampling = Sampling(
        max_new_tokens=settings.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens,
        temperature=settings.temperature if options.temperature is None else options.temperature,
        top_k=settings.top_k if options.top_k is None else options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        stop=tuple(options.stop),
        seed=params.base.seed if options.seed is None else options.seed,
    )
    with told_if_out_of_memory(
        "give fewer prompts at a time, or compute elsewhere: CUDA_VISIBLE_DEVICES='' takes the processor"
    ):
        model, encoding = load_model(resolve_model(str(options.model), params.register_.name), default_device())
        if len(options.prompts) == 1:
            print(options.prompts[0], end="", flush=True)
            for piece in generate_text(model, encoding, options.prompts[0], sampling):
                print(piece, end="", flush=True)
            print()
        else:
            texts = generate_texts(model, encoding, options.prompts, sampling)
            print("\n\n".join(prompt + text for prompt, text in zip(options.prompts, texts, strict=True)))
    return 0


def _add_generate(commands: Commands) -> None:
    parser = add_command(commands, generate)
    parser.add_argument(
        "prompts",
        type=readable,
        nargs="+",
        metavar="PROMPT",
        help="one is printed as it is generated, several when all are done",
    )
    add_model(parser)
    parser.add_argument("--max-new-tokens", type=at_least(int, 1), metavar="N")
    parser.add_argument(
        "--temperature", type=at_least(float, 0), metavar="X", help="0 takes the likeliest token always"
    )
    parser.add_argument(
        "--top-k", type=at_least(int, 0), metavar="N", help="sample among the N likeliest tokens; 0: among all"
    )
    parser.add_argument(
        "--top-p",
        type=at_least(float, 0.0001, 1),
        default=1.0,
        metavar="X",
        help="sample among the fewest likeliest tokens that together have probability X (default: 1, among all)",
    )
    parser.add_argument(
        "--min-p",
        type=at_least(float, 0, 1),
        default=0.0,
        metavar="X",
        help="sample among tokens of at least X times the likeliest one's probability (default: 0, among all)",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=at_least(float, 0.01),
        default=1.0,
        metavar="X",
        help="above 1 makes tokens that were there before less likely (default: 1)",
    )
    parser.add_argument(
        "--stop",
        type=not_empty,
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given several times",
    )
    parser.add_argument("--seed", type=at_least(int, 0), metavar="N", help="the next prompt's is one more")
    parser.epilog = "What is not given and has no default here is taken from params.yaml: evaluate and base.seed."


def import_(options: argparse.Namespace) -> int:
    """import a model from a Hugging Face folder"""
    from gpt.model.convert.huggingface import import_huggingface

    model = import_huggingface(options.folder, options.output)
    print(f"{options.output}: {model.count_parameters():,} parameters, {model.config.vocab_size} tokens")
    return 0


def _add_import(commands: Commands) -> None:
    parser = add_command(commands, import_, name="import")
    parser.add_argument("folder", type=from_here, metavar="DIR", help="config.json, safetensors and tokenizer files")
    parser.add_argument(
        "--from", dest="form", choices=["huggingface"], default="huggingface", help="form of the folder"
    )
    parser.add_argument(
        "--output",
        type=from_here,
        default=Path("models/imported"),
        metavar="DIR",
        help="the model folder to make (default: %(default)s)",
    )


def export(options: argparse.Namespace) -> int:
    """write a model as transformers loads it, with a model card"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.model.convert.huggingface import export_huggingface
    from gpt.registry.overview.card import write_card
    from gpt.registry.overview.facts import of_model

    folder, facts = of_model(str(options.model), params.register_.name, Path.cwd())
    architecture = export_huggingface(folder, options.folder, write_card(facts))
    print(f"{options.folder}: {architecture.class_name}; AutoModelForCausalLM and AutoTokenizer load it")
    return 0


def _add_export(commands: Commands) -> None:
    parser = add_command(commands, export)
    parser.add_argument("folder", type=from_here, metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--format", dest="form", choices=["huggingface"], default="huggingface", help="form of the folder"
    )
    add_model(parser)
