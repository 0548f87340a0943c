"""Bring the benchmarks of params.yaml to data/benchmarks, in one form: gpt/sources/items.py.

Files come as OLMES writes them (AI2's requests.jsonl.gz) or in that form already.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import orjson

from gpt.errors import UserError, located
from gpt.files import atomic_folder, read_json, sha256_file, write_json
from gpt.params.sources import Source
from gpt.sources.fetch import bring
from gpt.sources.items import NumberedItems, read_common
from gpt.sources.olmes import read_olmes
from gpt.sources.refusals import Refusals


def build_benchmarks(
    sources: tuple[Source, ...], output: Path, names: tuple[str, ...] | None = None
) -> dict[str, dict[str, int]]:
    """Write `output/<benchmark>.jsonl` for each benchmark of the sources, and what they are to `output/benchmarks.json`.

    With `names`, those of evaluate.benchmarks, only these: what nobody judges a model by changes nothing that depends on `output`.
    Returns the number of items by benchmark and split. Raises `UserError` for what `bring` refuses, a file that is not as
    it should be, items that come twice, and a name that no source brings; then leaves `output` as it was.
    """
    refusals = Refusals("benchmarks")
    listing: dict[str, dict[str, Any]] = {}
    origins: dict[tuple[str, str], str] = {}  # of each benchmark's split
    with atomic_folder(output) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as brought:
            for source in sources:
                with refusals.of(source.name):
                    for file, path in _bring_files(source, Path(brought, source.name)).items():
                        with located(file):
                            benchmark, items = read_olmes(path, file) if path.suffix == ".gz" else read_common(path)
                            entry = listing.setdefault(benchmark, {"sources": [], "items": Counter(), "ids": set()})
                            if source.name not in entry["sources"]:
                                entry["sources"].append(source.name)
                            with (folder / f"{benchmark}.jsonl").open("ab") as writer:
                                _write_items(items, writer, entry, origins, f"{source.name}/{file}")
        refusals.tell()
        if names is not None:
            _keep_named(names, listing, folder)
        for benchmark, entry in listing.items():
            del entry["ids"]
            entry["sha256"] = sha256_file(folder / f"{benchmark}.jsonl")
        write_json(folder / "benchmarks.json", listing)
    return {benchmark: dict(entry["items"]) for benchmark, entry in listing.items()}


def check_benchmarks(names: tuple[str, ...], folder: Path) -> None:
    """Raise `UserError` for names of evaluate.benchmarks that `gpt fetch` has brought no items of to `folder`."""
    known = read_json(folder / "benchmarks.json", "run `gpt fetch`")
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"params.yaml: evaluate.benchmarks: {', '.join(unknown)} is not in {folder}, which holds"
            f" {', '.join(known) or 'none'}; run `gpt fetch benchmarks`"
        )


def _keep_named(names: tuple[str, ...], listing: dict[str, dict[str, Any]], folder: Path) -> None:
    """Remove the benchmarks that are not named from `listing` and `folder`."""
    if unknown := [name for name in names if name not in listing]:
        raise UserError(
            f"params.yaml: evaluate.benchmarks: {', '.join(unknown)} is brought by no source of fetch.benchmarks, which bring"
            f" {', '.join(listing) or 'none'}; add a source of it, or take the name out"
        )
    for benchmark in listing.keys() - set(names):
        del listing[benchmark]
        (folder / f"{benchmark}.jsonl").unlink()


def _bring_files(source: Source, target: Path) -> dict[str, Path]:
    """Bring a source to the new folder `target`; return its files that hold items, by their path in it."""
    target.mkdir()
    bring(source, target)
    files = (path for path in target.rglob("*") if path.is_file())
    paths = sorted(path for path in files if path.suffix == ".jsonl" or path.name == "requests.jsonl.gz")
    if not paths:
        raise UserError(
            "holds neither a requests.jsonl.gz of OLMES nor a .jsonl file with id, benchmark, split, choices, answer and texts"
            " in each line"
        )
    return {path.relative_to(target).as_posix(): path for path in paths}


def _write_items(
    items: NumberedItems, writer: IO[bytes], entry: dict[str, Any], origins: dict[tuple[str, str], str], origin: str
) -> None:
    """Write the items of the file `origin`, count them in `entry`, and see that none has come before."""
    number = 0
    for number, item in items:
        first = origins.setdefault((item.benchmark, item.split), origin)
        if first != origin:
            raise UserError(f"{first} brings {item.benchmark} {item.split} too; keep one of them")
        if item.id in entry["ids"]:
            raise UserError(f"line {number}: id = {item.id!r} is that of an item before; give each its own")
        entry["ids"].add(item.id)
        entry["items"][item.split] += 1
        writer.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
    if not number:
        raise UserError("holds no item; take it out of the source")
