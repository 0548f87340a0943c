"""Commands that make and look at data: from the sources of params.yaml to tokens."""

import argparse
from functools import partial
from pathlib import Path

from gpt.commands.arguments import Commands, add_command, add_group, at_least
from gpt.errors import UserError


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to `gpt`."""
    add_command(commands, inputs)
    _add_fetch(commands)
    for command in (prepare, tokenizer, tokenize, data_card):
        add_command(commands, command)
    tokens = add_group(commands, "tokens", "look at what the model learns from")
    _add_show(tokens)
    add_command(tokens, verify)
    _add_diff(add_group(commands, "data", "compare versions of the data"))


def inputs(options: argparse.Namespace) -> int:
    """write down, for DVC, what each stage computes with: its code, versions of libraries, what it fetches"""
    from gpt import paths
    from gpt.commands.inputs import write_inputs
    from gpt.params.project import load_params

    write_inputs(load_params())
    print(f"{paths.INPUTS}: written")
    return 0


def fetch(options: argparse.Namespace) -> int:
    """bring the sources of params.yaml to data/raw and the benchmarks to data/benchmarks"""
    from gpt import paths
    from gpt.params.project import load_params
    from gpt.sources.benchmarks import build_benchmarks
    from gpt.sources.fetch import fetch

    params = load_params()
    settings = params.fetch
    if options.what != "benchmarks":
        print(f"{paths.RAW}: {fetch(settings.sources, paths.RAW)} files, verified")
    if options.what != "sources":
        counts = build_benchmarks(settings.benchmarks, paths.BENCHMARKS, params.evaluate.benchmarks)
        items = sum(sum(splits.values()) for splits in counts.values())
        print(f"{paths.BENCHMARKS}: {len(counts)} benchmarks, {items:,} items")
    return 0


def _add_fetch(commands: Commands) -> None:
    parser = add_command(commands, fetch)
    parser.add_argument("what", nargs="?", choices=["sources", "benchmarks"], help="one of the two (default: both)")


def prepare(options: argparse.Namespace) -> int:
    """turn raw files into clean, deduplicated, decontaminated, split documents"""
    from gpt import paths
    from gpt.corpus import prepare as corpus
    from gpt.params.project import load_params

    params = load_params()
    names = params.evaluate.benchmarks
    counts = corpus.prepare(params.prepare, paths.RAW, paths.BENCHMARKS, names, paths.DOCUMENTS, paths.PREPARE_COUNTS)
    print(f"{paths.DOCUMENTS}: {counts['read']['documents']:,} documents, {counts['read']['bytes']:,} bytes read")
    for reason, removed in counts["dropped"].items():
        if removed["documents"]:
            print(f"  {removed['documents']:,} dropped: {reason.replace('_', ' ')}")
    if counts["cut"]["documents"]:
        print(f"  {counts['cut']['documents']:,} cut where they match a benchmark or a held-out document")
    if beside := sum(counts["near_copies_held_out"].values()):
        print(f"  {beside:,} held-out documents are near copies of others; they stay, so that new documents move none")
    if common := counts["common_ngrams"]:
        limit = params.prepare.decontaminate.max_documents
        print(f"  {common:,} n-grams of these left alone: more than {limit:,} training documents share them")
    for split in corpus.SPLITS:
        print(f"  {split}: {counts[split]['documents']:,} documents, {counts[split]['bytes']:,} bytes")
    return 0


def tokenizer(options: argparse.Namespace) -> int:
    """train or load the tokenizer"""
    from gpt import paths
    from gpt.corpus.documents import sample_texts
    from gpt.memory import told_if_out_of_memory
    from gpt.params.project import load_params
    from gpt.tokens.tokenizer import build_tokenizer

    settings = load_params().tokenizer
    with told_if_out_of_memory(
        "params.yaml: lower tokenizer.train_bytes (which changes the tokenizer), or use more memory"
    ):
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
        paths.TOKENIZE_COUNTS,
    )
    for split, entry in index["splits"].items():
        print(
            f"{paths.TOKENS}: {split} {entry['tokens']:,} tokens, {entry['bytes'] / entry['tokens']:.2f} bytes per token"
        )
    return 0


def data_card(options: argparse.Namespace) -> int:
    """write a page that describes the data: sources, licences, what was removed and why, contamination"""
    from gpt import paths
    from gpt.params.project import load_params
    from gpt.reports.data_card import write_card

    write_card(load_params(), paths.DOCUMENTS, paths.TOKENS, paths.DATA_CARD)
    print(f"data card: {paths.DATA_CARD}")
    return 0


def diff(options: argparse.Namespace) -> int:
    """say what changed in the data since a git revision"""
    from gpt.reports.data_diff import diff
    from gpt.secrets.hiding import redact

    print(redact("\n".join(diff(Path.cwd(), options.revision))))  # an earlier commit's settings may hold one
    return 0


def _add_diff(commands: Commands) -> None:
    parser = add_command(commands, diff)
    parser.add_argument(
        "revision", nargs="?", default="HEAD", metavar="REV", help="git revision (default: %(default)s)"
    )


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


def verify(options: argparse.Namespace) -> int:
    """read every token shard again, whatever was verified before, and compare it with its hash"""
    from gpt import paths
    from gpt.tokens.verification import verify_shards

    size = verify_shards(paths.TOKENS, again=True, tell=partial(print, flush=True))
    print(f"{paths.TOKENS}: {size:,} bytes read, all shards are as gpt tokenize wrote them")
    return 0


def _add_show(commands: Commands) -> None:
    parser = add_command(commands, show)
    parser.add_argument(
        "--split", choices=["train", "validation", "test"], default="train", help="default: %(default)s"
    )
    parser.add_argument(
        "--step", type=at_least(int, 0, 10**12), metavar="N", help="the step whose batch to show (default: 0)"
    )
    parser.add_argument(
        "--sequences",
        type=at_least(int, 1),
        default=2,
        metavar="N",
        help="how many of the batch, or documents of a held-out split (default: %(default)s)",
    )
    parser.add_argument("--ids", action="store_true", help="print every token's id and text in a line of its own")
