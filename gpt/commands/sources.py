"""Commands for the sources of params.yaml: bring them, add one, write down what fixes them."""

import click

from gpt import paths
from gpt.commands.line.arguments import NOT_EMPTY, OneOf, Where
from gpt.commands.line.command import command
from gpt.errors import UserError


@command(
    examples=[
        "gpt fetch",
        "gpt fetch sources  # no benchmarks",
        "gpt fetch weights  # those of train.init_from",
        "gpt fetch --accept  # what came is what I want: write its hashes into params.yaml",
    ]
)
@click.argument(
    "what", required=False, type=OneOf("sources", "benchmarks", "weights"), help="one of them (default: all three)"
)
@click.option("--accept", is_flag=True, help="write hashes that are missing or wrong into params.yaml first")
def fetch(what: str | None, accept: bool) -> int:
    """bring the sources of params.yaml to data/raw, benchmarks to data/benchmarks, initial weights to models/initial"""
    from gpt.params.changes.editing import KINDS, Kind
    from gpt.params.project import PARAMS_FILE, load_params
    from gpt.sources.benchmarks import build_benchmarks
    from gpt.sources.fetch import fetch
    from gpt.sources.pinning import pin_sources

    if accept:
        if what == "weights":
            raise UserError(
                "--accept: writes hashes of sources and benchmarks, and weights have none in params.yaml; leave it out"
            )
        kinds: list[Kind] = [kind for kind in KINDS if what in (None, kind)]
        for line in pin_sources(PARAMS_FILE, kinds, only_refused=True):
            print(line)
    params = load_params()
    refused = list[str]()
    if what in (None, "sources"):
        try:
            print(f"{paths.RAW}: {fetch(params.fetch.sources, paths.RAW)} files, verified")
        except UserError as error:  # what is wrong with the benchmarks is told with it
            refused.append(str(error))
    if what in (None, "benchmarks"):
        try:
            counts = build_benchmarks(params.fetch.benchmarks, paths.BENCHMARKS, params.evaluate.benchmarks)
            items = sum(sum(splits.values()) for splits in counts.values())
            print(f"{paths.BENCHMARKS}: {len(counts)} benchmarks, {items:,} items")
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError("\n".join(refused))
    if what in (None, "weights"):
        from gpt.registry.initial.weights import bring_weights  # imports torch

        source = bring_weights(params)
        weights = source.get("weights_sha256")
        print(f"{paths.INITIAL}: {source['init_from']}" + (f", weights {weights[:12]}, verified" if weights else ""))
    return 0


@command(
    examples=[
        "gpt data add texts/  # a folder: all files below it",
        "gpt data add 's3://bucket/texts/*.jsonl.zst' --licence 'CC BY 4.0'",
        "gpt data add 'hf://roneneldan/TinyStories/*valid.txt' --name stories",
        "gpt data add 'hf://OWNER/NAME@main/data/*.parquet'  # at the commit that this branch is at now",
    ],
    notes="Its hash, or its commit, is found and written with it, and a data set's licence from its card.",
)
@click.argument("where", type=Where(), metavar="WHERE", help="a path, a URL, or hf://OWNER/NAME[@REVISION][/PATTERN]")
@click.option("--name", type=NOT_EMPTY, help="what it is called in params.yaml (default: after its file or folder)")
@click.option("--licence", type=NOT_EMPTY, help="what allows to use it (default: what the hub says, else not stated)")
@click.option(
    "--member", "members", type=NOT_EMPTY, multiple=True, metavar="PATTERN", help="of an archive: files to take"
)
def add(where: str, name: str | None, licence: str | None, members: tuple[str, ...]) -> int:
    """add a source to params.yaml, with its hash or commit and its licence"""
    from gpt.params.project import PARAMS_FILE
    from gpt.sources.adding import add_source

    for line in add_source(PARAMS_FILE, where, name=name, licence=licence, members=members):
        print(line)
    return 0


@command(
    examples=[
        "gpt data hash  # of all sources",
        "gpt data hash notes  # after its files have changed, or of a new branch",
    ],
    notes="A local file is read, a distribution and a URL are downloaded, a branch of a data set is asked for its commit.",
    name="hash",
)
@click.argument("names", nargs=-1, type=NOT_EMPTY, metavar="[NAME ...]", help="sources (default: all, and benchmarks)")
def hash_(names: tuple[str, ...]) -> int:
    """find the hashes and commits that fix the sources now, and write those that differ into params.yaml"""
    from gpt.params.changes.editing import KINDS
    from gpt.params.project import PARAMS_FILE
    from gpt.sources.pinning import pin_sources

    lines = pin_sources(PARAMS_FILE, KINDS, names)
    for line in lines:
        print(line)
    if not lines:
        print(f"{PARAMS_FILE}: as it is; nothing was written")
    return 0
