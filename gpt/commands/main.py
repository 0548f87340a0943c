"""The `gpt` command: one thin function a command, heavy imports inside, so that `gpt --help` answers at once.

Exit codes: 0 done, 1 failed, 2 the user must change something, 128 + n stopped by signal n with the state saved.
"""

import argparse
import errno
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from gpt.errors import Interrupted, UserError

Command = Callable[[argparse.Namespace], int]

# What the system says when a path or a disk cannot take what we write: the user's to change, no bug of ours.
_USERS_OS_ERRORS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EFBIG,
}  # fmt: skip


_FIRST_SPEAKS_SECONDS = 70.0


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return options.command(options)
    except UserError as error:
        return _users_to_change(str(error))
    except Interrupted as error:
        if os.environ.get("RANK", "0") == "0":
            print(str(error), file=sys.stderr)
        return 128 + error.signum
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `gpt generate … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _USERS_OS_ERRORS:
            raise
        file = error.filename2 or error.filename or "a file"  # of a copy, what it goes to
        return _users_to_change(f"{file}: {error.strerror}; make it writable, or make room")


def _users_to_change(message: str) -> int:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # All processes of a machine usually say the same: the first does, when it has told the tracker, and its end is the others'.
        time.sleep(_FIRST_SPEAKS_SECONDS)
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    from gpt.processes.owner import tell_owner_to_give_up

    tell_owner_to_give_up()
    return 2


def fetch(options: argparse.Namespace) -> int:
    """bring the sources of params.yaml to data/raw and the benchmarks to data/benchmarks"""
    from gpt import paths
    from gpt.params.project import load_params
    from gpt.sources import benchmarks
    from gpt.sources import fetch as sources

    settings = load_params().fetch
    if options.what in (None, "sources"):
        count = sources.fetch(settings.sources, paths.RAW)
        print(f"{paths.RAW}: {count} files, verified")
    if options.what in (None, "benchmarks"):
        counts = benchmarks.build_benchmarks(settings.benchmarks, paths.BENCHMARKS)
        items = sum(sum(splits.values()) for splits in counts.values())
        print(f"{paths.BENCHMARKS}: {len(counts)} benchmarks, {items:,} items")
    return 0


def prepare(options: argparse.Namespace) -> int:
    """turn raw files into clean, deduplicated, decontaminated, split documents"""
    from gpt import paths
    from gpt.corpus import prepare as corpus
    from gpt.params.project import load_params

    params = load_params()
    names = params.evaluate.benchmarks
    counts = corpus.prepare(params.prepare, paths.RAW, paths.BENCHMARKS, names, paths.DOCUMENTS, paths.PREPARE_METRICS)
    print(f"{paths.DOCUMENTS}: {counts['read']['documents']:,} documents, {counts['read']['bytes']:,} bytes read")
    for reason, removed in counts["dropped"].items():
        if removed["documents"]:
            print(f"  {removed['documents']:,} dropped: {reason.replace('_', ' ')}")
    if counts["cut"]["documents"]:
        print(f"  {counts['cut']['documents']:,} cut where they match a benchmark or a held-out document")
    for split in corpus.SPLITS:
        print(f"  {split}: {counts[split]['documents']:,} documents, {counts[split]['bytes']:,} bytes")
    return 0


def tokenizer(options: argparse.Namespace) -> int:
    """train or load the tokenizer"""
    from gpt import paths
    from gpt.corpus.documents import sample_texts
    from gpt.params.project import load_params
    from gpt.tokens.tokenizer import build_tokenizer

    settings = load_params().tokenizer
    texts = sample_texts(paths.DOCUMENTS, "train", settings.train_bytes)
    encoding = build_tokenizer(settings, texts, paths.TOKENIZER)
    print(f"{paths.TOKENIZER}: {settings.kind}, {encoding.n_vocab} tokens")
    return 0


def tokenize(options: argparse.Namespace) -> int:
    """write the documents as memory-mapped token shards"""
    from gpt import paths
    from gpt.params.project import load_params
    from gpt.tokens import tokenize as encoding

    params = load_params()
    index = encoding.tokenize(
        params.tokenize,
        params.prepare.engine,
        paths.DOCUMENTS,
        paths.TOKENIZER,
        paths.TOKENS,
        paths.TOKENIZE_METRICS,
    )
    for split, entry in index["splits"].items():
        print(
            f"{paths.TOKENS}: {split} {entry['tokens']:,} tokens, {entry['bytes'] / entry['tokens']:.2f} bytes per token"
        )
    return 0


def data_card(options: argparse.Namespace) -> int:
    """write a page that describes the data"""
    from gpt import paths
    from gpt.params.project import load_params
    from gpt.reports.data_card import write_card

    write_card(load_params(), paths.DOCUMENTS, paths.BENCHMARKS, paths.TOKENS, paths.DATA_CARD)
    print(f"data card: {paths.DATA_CARD}")
    return 0


def inputs(options: argparse.Namespace) -> int:
    """write down what each stage computes with, for DVC: its code, versions of libraries, what it fetches"""
    from gpt import paths
    from gpt.commands.inputs import write_inputs
    from gpt.params.project import load_params

    write_inputs(load_params())
    print(f"{paths.INPUTS}: written")
    return 0


def diff(options: argparse.Namespace) -> int:
    """say what changed in the data since a git revision"""
    from gpt.reports.data_diff import diff

    print("\n".join(diff(Path.cwd(), options.revision)))
    return 0


def show(options: argparse.Namespace) -> int:
    """print training sequences or held-out documents token by token, as the model sees them"""
    from gpt import paths
    from gpt.params.project import load_params

    params = load_params()
    if options.split != "train" and options.step is not None:
        raise UserError(f"--step: only the train split has batches; leave it out with --split {options.split}")
    from gpt.tokens import display  # imports torch
    from gpt.tokens.shards import TokenReader
    from gpt.tokens.tokenizer import check_tokenizer, load_tokenizer

    reader, encoding = TokenReader(paths.TOKENS, options.split), load_tokenizer(paths.TOKENIZER)
    check_tokenizer(paths.TOKENS, paths.TOKENIZER, "run `gpt tokenize` again")
    if options.split == "train":
        lines = display.show_batch(reader, encoding, params, options.step or 0, options.sequences, ids=options.ids)
    else:
        length = params.model.block_size
        lines = display.show_documents(reader, encoding, options.sequences, length, ids=options.ids)
    for line in (*display.describe_split(options.split, reader, encoding), *lines):
        print(line)
    return 0


def pretrain(options: argparse.Namespace) -> int:
    """train the base model, going on from its last checkpoint"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.processes.owner import watch_owner

    watch_owner()
    if options.adopt:
        from gpt.training.adoption import adopt

        print(adopt(params, options.adopt), flush=True)
    from gpt.processes import (
        launch,  # these import torch
        workers,  # these import torch
    )

    if launch.needs_workers(params.launch):
        launch.check_launch(params.launch)
        return workers.run_workers(params.launch)
    from gpt.evaluation.likelihood import split_likelihood
    from gpt.training.pretrain import pretrain as train

    train(params, split_likelihood)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """measure the model on held-out documents, and let it write samples"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt import paths
    from gpt.evaluation import evaluate as evaluation

    metrics = evaluation.evaluate(params)
    for split in evaluation.HELD_OUT:
        figures = metrics[split]
        print(
            f"{split}: {figures['bits_per_byte']:.4f} bits per byte, loss {figures['loss']:.4f},"
            f" perplexity {figures['perplexity']:.2f}"
        )
    print(f"samples: {paths.SAMPLES}")
    return 0


def report(options: argparse.Namespace) -> int:
    """write a page with the model's figures, loss curves and samples"""
    from gpt import paths
    from gpt.params.project import load_params
    from gpt.reports.evaluation import write_report

    write_report(load_params())
    print(f"report: {paths.REPORTS / 'evaluate.md'}")
    return 0


def register(options: argparse.Namespace) -> int:
    """register the evaluated model in MLflow as the candidate"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.registry import package

    registered = package.register(params, Path.cwd())
    print(registered.describe())
    if options.json:
        print(registered.to_json())
    return 0


def promote(options: argparse.Namespace) -> int:
    """make the candidate the champion if it beats it on the test split"""
    from gpt.params.project import load_params
    from gpt.registry import promotion

    verdict = promotion.promote(load_params(), Path.cwd())
    print(verdict.describe())
    return 1 if verdict.refused else 0


def rollback(options: argparse.Namespace) -> int:
    """make the champion before this one the champion again"""
    from gpt.params.project import load_params
    from gpt.registry import promotion

    print(promotion.rollback(load_params()).describe())
    return 0


def lineage(options: argparse.Namespace) -> int:
    """say what a registered version was made from"""
    from gpt.params.project import load_params
    from gpt.registry import lineage

    print(lineage.describe(options.model, load_params().register_.name))
    return 0


def generate(options: argparse.Namespace) -> int:
    """write on from prompts"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.model.generation import Sampling, generate_text, generate_texts
    from gpt.model.storage import default_device, load_model
    from gpt.registry.versions import resolve_model

    settings = params.evaluate
    model, encoding = load_model(resolve_model(options.model, params.register_.name), default_device())
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
    if len(options.prompts) == 1:
        print(options.prompts[0], end="", flush=True)
        for piece in generate_text(model, encoding, options.prompts[0], sampling):
            print(piece, end="", flush=True)
        print()
    else:
        texts = generate_texts(model, encoding, options.prompts, sampling)
        print("\n\n".join(prompt + text for prompt, text in zip(options.prompts, texts, strict=True)))
    return 0


def import_(options: argparse.Namespace) -> int:
    """bring a model from a Hugging Face folder"""
    from gpt.model.convert.huggingface import import_huggingface

    model = import_huggingface(options.folder, options.output)
    print(f"{options.output}: {model.count_parameters():,} parameters, {model.config.vocab_size} tokens")
    return 0


def export(options: argparse.Namespace) -> int:
    """write a model as transformers loads it"""
    from gpt.params.project import load_params

    params = load_params()
    from gpt.model.convert.huggingface import export_huggingface
    from gpt.registry.versions import resolve_model

    architecture = export_huggingface(resolve_model(options.model, params.register_.name), options.folder)
    print(f"{options.folder}: {architecture.class_name}; AutoModelForCausalLM and AutoTokenizer load it")
    return 0


def checkpoints(options: argparse.Namespace) -> int:
    """show runs that can go on: their checkpoints, whether these are whole, and who trains"""
    from gpt import paths
    from gpt.params.project import load_params

    params = load_params()
    from gpt.training import status  # imports torch

    lines = list(status.describe_all(paths.CHECKPOINTS, params))
    print("\n".join(lines) if lines else f"{paths.CHECKPOINTS}: no run has left a checkpoint")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """say what this machine has and what is missing"""
    from gpt.commands.doctor import examine

    return examine()


def sync(options: argparse.Namespace) -> int:
    """deliver metrics that a tracking server has not got yet"""
    from gpt import paths
    from gpt.tracking.journal import deliver_left_behind

    print(f"{paths.SPOOL}: {deliver_left_behind(paths.SPOOL)} runs delivered")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpt",
        description="Pretrain your own GPT from params.yaml. Works on the project in the current folder.",
        epilog="Exit codes: 0 done, 1 failed, 2 you must change something.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    fetch_parser = _add(commands, fetch)
    fetch_parser.add_argument(
        "what", nargs="?", choices=["sources", "benchmarks"], help="one of the two (default: both)"
    )
    for command in (inputs, prepare, tokenizer, tokenize, data_card, evaluate, report):
        _add(commands, command)
    pretrain_parser = _add(commands, pretrain)
    pretrain_parser.add_argument(
        "--adopt",
        type=Path,
        metavar="FOLDER",
        help="go on from the newest checkpoint of another run, such as checkpoints/0123456789abcdef, although something differs",
    )
    _add_tokens(commands)
    _add_data(commands)
    _add_generate(commands)
    register_parser = _add(commands, register)
    register_parser.add_argument("--json", action="store_true", help="print the version as JSON in the last line")
    for command in (promote, rollback):
        _add(commands, command)
    lineage_parser = _add(commands, lineage)
    lineage_parser.add_argument(
        "model",
        nargs="?",
        default="@candidate",
        metavar="MODEL",
        help="models:/NAME/VERSION, models:/NAME@ALIAS or @ALIAS (default: %(default)s)",
    )
    _add_conversions(commands)
    for command in (checkpoints, sync, doctor):
        _add(commands, command)
    return parser


def _add_tokens(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "look at what the model learns from"
    parser = _add(
        commands.add_parser("tokens", help=text, description=text).add_subparsers(metavar="COMMAND", required=True),
        show,
    )
    parser.add_argument(
        "--split", choices=["train", "validation", "test"], default="train", help="default: %(default)s"
    )
    parser.add_argument(
        "--step", type=_at_least(int, 0, 10**12), metavar="N", help="the step whose batch to show (default: 0)"
    )
    parser.add_argument(
        "--sequences",
        type=_at_least(int, 1),
        default=2,
        metavar="N",
        help="how many of the batch, or documents of a held-out split (default: %(default)s)",
    )
    parser.add_argument("--ids", action="store_true", help="print every token's id and text in a line of its own")


def _add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "compare versions of the data"
    parser = commands.add_parser("data", help=text, description=text)
    diff_parser = _add(parser.add_subparsers(metavar="COMMAND", required=True), diff)
    diff_parser.add_argument(
        "revision", nargs="?", default="HEAD", metavar="REV", help="git revision (default: %(default)s)"
    )


def _add_conversions(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, import_)
    parser.add_argument("folder", type=Path, metavar="DIR", help="config.json, safetensors and tokenizer files")
    parser.add_argument(
        "--from", dest="form", choices=["huggingface"], default="huggingface", help="form of the folder"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("models/imported"),
        metavar="DIR",
        help="the model folder to make (default: %(default)s)",
    )
    parser = _add(commands, export)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--format", dest="form", choices=["huggingface"], default="huggingface", help="form of the folder"
    )
    _add_model(parser)


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add(commands, generate)
    parser.add_argument(
        "prompts", nargs="+", metavar="PROMPT", help="one is continued before your eyes, several all at once"
    )
    _add_model(parser)
    parser.add_argument("--max-new-tokens", type=_at_least(int, 1), metavar="N")
    parser.add_argument(
        "--temperature", type=_at_least(float, 0), metavar="X", help="0 takes the likeliest token always"
    )
    parser.add_argument(
        "--top-k", type=_at_least(int, 0), metavar="N", help="sample among the N likeliest tokens; 0: among all"
    )
    parser.add_argument(
        "--top-p",
        type=_at_least(float, 0.0001, 1),
        default=1.0,
        metavar="X",
        help="sample among the fewest likeliest tokens that together have probability X (default: 1, among all)",
    )
    parser.add_argument(
        "--min-p",
        type=_at_least(float, 0, 1),
        default=0.0,
        metavar="X",
        help="sample among tokens of at least X times the likeliest one's probability (default: 0, among all)",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=_at_least(float, 0.01),
        default=1.0,
        metavar="X",
        help="above 1 makes tokens that were there before less likely (default: 1)",
    )
    parser.add_argument(
        "--stop",
        type=_not_empty,
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given several times",
    )
    parser.add_argument("--seed", type=_at_least(int, 0), metavar="N", help="the next prompt's is one more")
    parser.epilog = "What is not given and has no default here is taken from params.yaml: evaluate and base.seed."


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="models/base",
        metavar="PATH|URI",
        help="a model folder, models:/NAME/VERSION or models:/NAME@ALIAS (default: %(default)s)",
    )


def _at_least(kind: type, least: float, most: float | None = None) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = kind(text)
        if not (least <= value < 2**63 and (most is None or value <= most)):
            limit = "" if most is None else f" and at most {most}"
            raise argparse.ArgumentTypeError(f"must be {kind.__name__} of at least {least}{limit}, not {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", command: Command) -> argparse.ArgumentParser:
    name, text = command.__name__.rstrip("_").replace("_", "-"), command.__doc__
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
