"""The `gpt` command: one thin function a command, heavy imports inside, so that `gpt --help` answers at once.

Exit codes: 0 done, 1 failed, 2 the user must change something, 128 + n stopped by signal n with the state saved.
"""

import argparse
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable

from gpt.errors import Interrupted, UserError

Command = Callable[[argparse.Namespace], int]

# What the system says when a path or a disk cannot take what we write: the user's to change, no bug of ours.
_USERS_OS_ERRORS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EFBIG,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return options.command(options)
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except Interrupted as error:
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
        print(f"error: {error.filename or 'a file'}: {error.strerror}; make it writable, or make room", file=sys.stderr)
        return 2


def fetch(options: argparse.Namespace) -> int:
    """bring the sources of params.yaml to data/raw"""
    from gpt import paths
    from gpt.data import sources
    from gpt.params import load_params

    count = sources.fetch(load_params().fetch.sources, paths.RAW)
    print(f"{paths.RAW}: {count} files, verified")
    return 0


def prepare(options: argparse.Namespace) -> int:
    """turn raw files into clean, deduplicated, split documents"""
    from gpt import paths
    from gpt.data import corpus
    from gpt.params import load_params

    counts = corpus.prepare(load_params().prepare, paths.RAW, paths.DOCUMENTS, paths.PREPARE_METRICS)
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts["dropped"].items())
    kept = ", ".join(f"{split} {counts[split]['documents']}" for split in corpus.SPLITS)
    print(f"{paths.DOCUMENTS}: {counts['read']['documents']} documents read; dropped {dropped}; {kept}")
    return 0


def tokenizer(options: argparse.Namespace) -> int:
    """train or load the tokenizer"""
    from gpt import paths
    from gpt.data.corpus import read_documents
    from gpt.data.tokenizer import build_tokenizer
    from gpt.params import load_params

    settings = load_params().tokenizer
    encoding = build_tokenizer(settings, read_documents(paths.DOCUMENTS / "train.jsonl"), paths.TOKENIZER)
    print(f"{paths.TOKENIZER}: {settings.kind}, {encoding.n_vocab} tokens")
    return 0


def tokenize(options: argparse.Namespace) -> int:
    """write the documents as memory-mapped token shards"""
    from gpt import paths
    from gpt.data import shards
    from gpt.params import load_params

    index = shards.tokenize(load_params().tokenize, paths.DOCUMENTS, paths.TOKENIZER, paths.TOKENS)
    for split, entry in index["splits"].items():
        print(f"{paths.TOKENS}: {split} {entry['tokens']:,} tokens, {entry['bytes'] / entry['tokens']:.2f} bytes per token")
    return 0


def pretrain(options: argparse.Namespace) -> int:
    """train the base model, going on from its last checkpoint"""
    from gpt.params import load_params

    params = load_params()
    from gpt.training import launch  # imports torch

    if launch.needs_workers(params.launch):
        launch.check_launch(params.launch)
        return launch.run_workers(params.launch)
    from gpt.evaluation.likelihood import split_likelihood
    from gpt.training.trainer import pretrain as train

    train(params, split_likelihood)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """measure the model on held-out documents and write a report"""
    from gpt.params import load_params

    params = load_params()
    from gpt import paths
    from gpt.evaluation import report

    metrics = report.evaluate(params)
    for split in report.HELD_OUT:
        figures = metrics[split]
        print(
            f"{split}: {figures['bits_per_byte']:.4f} bits per byte, loss {figures['loss']:.4f},"
            f" perplexity {figures['perplexity']:.2f}"
        )
    print(f"report: {paths.REPORTS / 'evaluate.md'}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """say what this machine has and what is missing"""
    from gpt.doctor import examine

    return examine()


def sync(options: argparse.Namespace) -> int:
    """deliver metrics that a tracking server has not got yet"""
    from gpt import paths
    from gpt.training.journal import deliver_left_behind

    print(f"{paths.SPOOL}: {deliver_left_behind(paths.SPOOL)} runs delivered")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpt",
        description="Pretrain your own GPT from params.yaml. Works on the project in the current folder.",
        epilog="Exit codes: 0 done, 1 failed, 2 you must change something.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (fetch, prepare, tokenizer, tokenize, pretrain, evaluate, doctor, sync):
        _add(commands, command)
    return parser


def _add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", command: Command) -> argparse.ArgumentParser:
    name, text = command.__name__.rstrip("_"), command.__doc__
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
