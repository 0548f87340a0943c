"""Commands that make and look at data: from the sources of params.yaml to tokens."""

import os
import sys
from functools import partial
from pathlib import Path

import click

from gpt.commands.line.arguments import TEXT, OneOf, at_least
from gpt.commands.line.command import Group, command
from gpt.commands.sources import add, hash_
from gpt.errors import UserError


@command(examples=["gpt inputs  # dvc repro calls it before it compares"])
def inputs() -> int:
    """write down, for DVC, what each stage computes with: its code, versions of libraries, what it fetches"""
    from gpt import paths
    from gpt.params.project import load_params
    from gpt.projects.inputs import write_inputs

    write_inputs(load_params())
    print(f"{paths.INPUTS}: written")
    return 0


@command(examples=["gpt prepare", "gpt -v prepare  # what is done, too"])
def prepare() -> int:
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
    for source, fields in counts.get("files_without_field", {}).items():
        for field, files in fields.items():
            print(f"  {source}: {files:,} files in which no record has a field {field}")
    if masked := {kind: count for kind, count in counts.get("masked", {}).items() if count}:
        print(f"  masked: {', '.join(f'{count:,} {kind}' for kind, count in masked.items())}")
    if counts["cut"]["documents"]:
        print(f"  {counts['cut']['documents']:,} cut where they match a benchmark or a held-out document")
    if beside := sum(counts["near_copies_held_out"].values()):
        print(f"  {beside:,} held-out documents are near copies of others; they stay, so that new documents move none")
    if common := counts["common_ngrams"]:
        limit = params.prepare.decontaminate.max_documents
        print(f"  {common:,} n-grams of these left alone: more than {limit:,} training documents share them")
    for split in corpus.SPLITS:
        print(f"  {split}: {counts[split]['documents']:,} documents, {counts[split]['bytes']:,} bytes")
    print("  `gpt data sample` shows some of what stayed and went")
    return 0


@command(examples=["gpt tokenizer", "dvc repro tokenizer  # only if something changed, and what comes before it"])
def tokenizer() -> int:
    """train or load the tokenizer"""
    from gpt import paths
    from gpt.corpus.documents import sample_texts
    from gpt.memory import told_if_out_of_memory
    from gpt.params.project import load_params
    from gpt.tokens.roundtrip import try_round_trip
    from gpt.tokens.tokenizer import build_tokenizer

    settings = load_params().tokenizer
    with told_if_out_of_memory(
        "params.yaml: lower tokenizer.train_bytes (which changes the tokenizer), or use more memory"
    ):
        texts = sample_texts(paths.DOCUMENTS, "train", settings.train_bytes)
        encoding = build_tokenizer(settings, texts, paths.TOKENIZER)
        print(f"{paths.TOKENIZER}: {settings.kind}, {encoding.n_vocab} tokens")
        if settings.kind in ("tiktoken", "huggingface"):  # the others are lossless: tests tell
            texts = sample_texts(paths.DOCUMENTS, "train", settings.train_bytes)
            print(f"{paths.TOKENIZER}: {try_round_trip(encoding, texts)}")
    return 0


@command(examples=["gpt tokenize", "gpt tokens show  # look at what it made"])
def tokenize() -> int:
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


@command(examples=["gpt data-card", "xdg-open reports/data.html  # look at it"])
def data_card() -> int:
    """write a page that describes the data: sources, licences, what was removed and why, contamination"""
    from gpt import paths
    from gpt.params.project import load_params
    from gpt.reports.data_card import write_card

    write_card(load_params(), paths.DOCUMENTS, paths.TOKENS, paths.DATA_CARD)
    print(f"data card: {paths.DATA_CARD}")
    return 0


@command(examples=["gpt data diff", "gpt data diff HEAD~3  # since three commits ago", "gpt data diff v1.0"])
@click.argument("revision", type=TEXT, default="HEAD", metavar="REV", help="git revision (default: HEAD)")
def diff(revision: str) -> int:
    """say what changed in the data since a git revision"""
    from gpt.reports.data_diff import diff
    from gpt.secrets.hiding import redact

    print(redact("\n".join(diff(Path.cwd(), revision))))  # an earlier commit's settings may hold one
    return 0


@command(
    examples=[
        "gpt tokens show",
        "gpt tokens show --step 100 --sequences 4",
        "gpt tokens show --split validation --ids  # a line for each token",
        "gpt tokens show --finetune chat  # of a recipe, with the tokens that have a loss",
    ]
)
@click.option("--split", type=OneOf("train", "validation", "test"), default="train", help="default: train")
@click.option("--step", type=at_least(int, 0, 10**12), metavar="N", help="the step whose batch to show (default: 0)")
@click.option(
    "--sequences",
    type=at_least(int, 1),
    default=2,
    metavar="N",
    help="how many of the batch, or documents of a held-out split (default: 2)",
)
@click.option("--ids", is_flag=True, help="print every token's id and text in a line of its own")
@click.option("--finetune", type=TEXT, metavar="NAME", help="the examples of a recipe, finetuning/NAME.yaml")
def show(split: str, step: int | None, sequences: int, ids: bool, finetune: str | None) -> int:
    """print training sequences or held-out documents token by token, as the model sees them"""
    from gpt import paths
    from gpt.params.project import load_params

    params = load_params()
    if finetune is not None:
        if split != "train":
            raise UserError("--split: of a recipe the training examples are shown; leave it out with --finetune")
        from gpt.finetuning.display import show_batch  # imports torch
        from gpt.finetuning.finetune import find_job

        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        for line in show_batch(find_job(finetune, params), step or 0, sequences, colour=colour, ids=ids):
            print(line)
        return 0
    if split != "train" and step is not None:
        raise UserError(f"--step: only the train split has batches; leave it out with --split {split}")
    from gpt.tokens import display  # imports torch
    from gpt.tokens.shards import TokenReader
    from gpt.tokens.tokenizer import check_tokenizer, load_tokenizer

    reader, encoding = TokenReader(paths.TOKENS, split), load_tokenizer(paths.TOKENIZER)
    check_tokenizer(paths.TOKENS, paths.TOKENIZER, "run `gpt tokenize` again")
    if split == "train":
        lines = display.show_batch(reader, encoding, params, step or 0, sequences, ids=ids)
    else:
        length = params.model.block_size
        lines = display.show_documents(reader, encoding, sequences, length, ids=ids)
    for line in (*display.describe_split(split, reader, encoding), *lines):
        print(line)
    return 0


@command(examples=["gpt tokens verify"])
def verify() -> int:
    """read every token shard again, whatever was verified before, and compare it with its hash"""
    from gpt import paths
    from gpt.tokens.verification import verify_shards

    size = verify_shards(paths.TOKENS, again=True, tell=partial(print, flush=True))
    print(f"{paths.TOKENS}: {size:,} bytes read, all shards are as gpt tokenize wrote them")
    return 0


@command(
    examples=[
        "gpt data sample  # how many went where, and some of each",
        "gpt data sample --what dropped --number 20 --seed 1",
        'gpt data sample --reason "gopher_quality: gopher_short_doc" --source forum',
    ]
)
@click.option("--what", type=OneOf("kept", "dropped"), help="only these (default: both)")
@click.option("--source", type=TEXT, metavar="NAME", help="only of this source of fetch.sources")
@click.option("--reason", type=TEXT, metavar="REASON", help="only what went, or stayed, for this reason of the table")
@click.option(
    "--number", "-n", type=at_least(int, 0, 10**6), default=5, metavar="N", help="how many documents (default: 5)"
)
@click.option("--seed", type=at_least(int, 0), default=0, metavar="N", help="another one shows others (default: 0)")
def sample(what: str | None, source: str | None, reason: str | None, number: int, seed: int) -> int:
    """show documents at random that prepare kept or dropped, and what each step changed in them"""
    from gpt import paths
    from gpt.corpus.sampling.display import SampleReader, show

    reader = SampleReader(paths.DOCUMENTS)
    kept = None if what is None else what == "kept"
    chosen = reader.choose(number, seed, kept=kept, source=source, reason=reason)
    for line in (*reader.table(), *(line for record in chosen for line in ("", *show(record)))):
        print(line)
    return 0


TOKENS = Group("tokens", "look at what the model learns from", {"Commands": (show, verify)})
DATA = Group(
    "data", "add sources, fix them by hash, look at what became of them", {"Commands": (add, hash_, sample, diff)}
)
