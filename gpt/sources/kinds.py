"""Kinds of files by the endings of their names: which can be read, and which are meant where a folder or data set holds several."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from gpt.errors import UserError
from gpt.sources.hidden import matches

CODE = "code"
_CODE_ENDINGS = (
    ".adb .ads .asm .awk .bash .bat .c .cc .cfg .cjs .clj .cljs .cmake .cpp .cs .css .cu .cuh .cxx .d .dart .el .elm .erl .ex .exs"
    " .f .f03 .f08 .f90 .f95 .fish .fs .fsx .go .gradle .graphql .groovy .h .hh .hpp .hrl .hs .hxx .ini .java .jl .js .jsx .kt .kts"
    " .lean .less .lisp .lua .m .mak .mjs .mk .ml .mli .mm .nim .nix .pas .php .pl .pm .proto .ps1 .py .pyi .pyx .r .rake .rb .rkt"
    " .rs .s .sass .scala .scm .scss .sh .sol .sql .sv .svelte .swift .tcl .tf .toml .ts .tsx .v .vb .vhd .vhdl .vim .vue .yaml"
    " .yml .zig .zsh"
)
ENDINGS: dict[str, tuple[str, ...]] = {
    "text": (".txt", ".md", ".text", ".rst", ".tex"),
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather", ".ipc"),
    "html": (".html", ".htm", ".xhtml"),
    "warc": (".warc", ".wet"),
    CODE: tuple(_CODE_ENDINGS.split()),
}
"The formats that can be read (`prepare.read.format`), and the endings of their files' names."
FORMAT_OF = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
COMPRESSIONS = (".gz", ".bz2", ".zst")
"Endings that may follow."
COMPRESSED_INSIDE = {
    "parquet": "Parquet is read from its end and compressed inside",
    "arrow": "Arrow is compressed inside",
}
"Formats that they may not follow, and why."
# Of texts and tables. Data sets hold pages and settings beside them, which are meant only where there is nothing else.
_NO_DATA = ("README.md", "LICENSE.md", "LICENSE.txt", "dataset_infos.json", "dataset_info.json", "state.json", "config.json",
            "requirements.txt")  # fmt: skip


class Chosen(NamedTuple):
    """Files of one kind, among others or not."""

    pattern: str
    "Which means them; * for all."
    files: list[str]
    left_out: dict[str, list[str]]
    "Others that the pattern that was asked for means, by their ending."

    def told(self, address: str) -> str:
        """Return what is left out, and how the texts among it are added; "" if nothing is. `address` is that of the folder."""
        if not self.left_out:
            return ""
        counts = ", ".join(f"{len(names)} *{ending}" for ending, names in self.left_out.items())
        texts = next((ending for ending, names in self.left_out.items() if any(map(format_of, names))), None)
        more = f"; `gpt data add '{address.rstrip('/')}/*{texts}' --name …` adds such, too" if texts else ""
        return f"taken: {len(self.files):,} {self.pattern}; left out: {counts}{more}"


def ending_of(name: str) -> str:
    """Return what says how a file is read, as it is written: `.jsonl.gz`."""
    path = PurePosixPath(name)
    compression = path.suffix if path.suffix.lower() in COMPRESSIONS else ""
    return PurePosixPath(path.name.removesuffix(compression)).suffix + compression


def format_of(name: str) -> str | None:
    """Return the format that a file's name tells, None if it cannot be read."""
    ending = ending_of(name).lower()
    compression = next((each for each in COMPRESSIONS if ending.endswith(each)), "")
    kind = FORMAT_OF.get(ending.removesuffix(compression))
    return None if compression and kind in COMPRESSED_INSIDE else kind


def choose_kind(pattern: str, sizes: Mapping[str, int], *, all_that_can_be_read: bool = False) -> Chosen:
    """Return the files that a pattern means, of `sizes` (bytes by path); one that ends in * means those of one ending.

    That is the one that most of the text has: of texts and tables, else of source code. With `all_that_can_be_read`, a pattern of
    files that all can be is left as it is: a folder of one's own. Raises `UserError` if it means none that can be read.
    """
    found = {name: size for name, size in sizes.items() if matches(name, pattern)}
    is_folder = pattern == "*" or pattern.endswith("/*")
    leaves = all_that_can_be_read or (not is_folder and len(set(map(ending_of, found))) == 1)
    if not pattern.endswith("*") or (leaves and all(map(format_of, found))):
        return Chosen(pattern, list(found), {})
    readable = [name for name in found if format_of(name)]
    data = [name for name in readable if format_of(name) != CODE]
    meant = [name for name in data if PurePosixPath(name).name not in _NO_DATA] or data or readable
    if not meant:
        named = ", ".join(list(found)[:3])
        raise UserError(f"holds no file of a type that can be read, but {len(found)} others, such as {named}")
    by_ending = Counter[str]()
    for name in meant:
        by_ending[ending_of(name)] += found[name]
    chosen = f"{pattern}{by_ending.most_common(1)[0][0]}"
    left_out: dict[str, list[str]] = defaultdict(list)
    for name in found:
        if not matches(name, chosen) and PurePosixPath(name).name not in _NO_DATA:
            left_out[ending_of(name)].append(name)
    return Chosen(chosen, [name for name in found if matches(name, chosen)], dict(left_out))
