"""The way from a model down to its sources, as lines for a terminal and as a picture for a page.

Both show the record of gpt/registry/record.py and nothing else; hashes are shortened, `gpt lineage --json` has them whole.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt import paths
from gpt.errors import UserError
from gpt.files import atomic_file
from gpt.reports.page import escape_text

NONE = "none"
_HASH_DIGITS = 12
_SHOWN_SOURCES = 8  # in the picture; the lines name all
# Told apart in colour blindness, legible on white and on black.
_COLOURS = {"data": "#3b82c4", "made": "#d9822b", "side": "#8f8a2e"}
_WIDTH, _MAIN, _SIDE, _GAP, _PAD, _LINE = 710, 400, 250, 30, 12, 17
_CHARACTERS = {_MAIN: 52, _SIDE: 31}  # that fit a box's width at 12.5 px

Json = dict[str, Any]


class Step(NamedTuple):
    """A link of the chain: its name, a line or more on it, and what came in from the side."""

    name: str
    lines: list[str]
    kind: str
    side: tuple[str, list[str]] | None = None


def describe_lineage(record: Json, head: str) -> str:
    """Return the chain as lines, from the model down to each source's address, licence and hash; `head` is the first of them."""
    rows = [
        (("" if number == 0 else "← ") + step.name, step.lines) for number, step in enumerate(reversed(_steps(record)))
    ]
    rows[-1] = (rows[-1][0], [line for source in record["sources"] for line in _source_lines(source)] or [NONE])
    rows += [*_sides(record).items(), ("champion then", [_champion(record)])]
    width = max(len(name) for name, _ in rows)
    said = [head, ""]
    for name, lines in rows:
        said += [f"{name if number == 0 else '':<{width}}  {line}" for number, line in enumerate(lines)]
    return "\n".join(said)


def draw_lineage(record: Json) -> str:
    """Return the chain as SVG to put into a page, top to bottom: text is text, of the page's own colour."""
    return _svg(*_boxes(record), style="")


def write_picture(record: Json, path: Path) -> None:
    """Write the chain as a picture that stands by itself, dark where the reader's screen is; raise `UserError` but for .svg."""
    if path.suffix != ".svg":
        raise UserError(f"{path}: the picture is an SVG; give a name that ends with .svg")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    with atomic_file(path) as partial:
        partial.write_text(_svg(*_boxes(record), style=_STANDALONE) + "\n", encoding="utf-8")


def short(digest: object) -> str:
    """Return the first digits of a hash, "none" where there is none."""
    return str(digest)[:_HASH_DIGITS] if digest else NONE


def _steps(record: Json) -> list[Step]:
    """Return the chain from sources to model."""
    outs = {path: out["hash"] for stage in record["stages"].values() for path, out in stage["outs"].items()}

    def hash_of(path: Path) -> str:
        return f"{path} {short(outs.get(path.as_posix()))}"

    data, training, sides = record["data"], record["training"], _sides(record)
    documents = [f"held out for the test: {short(data['test_documents_sha256'])}"]
    if data["contaminated_items"] not in (None, NONE):
        documents.append(f"contaminated: {data['contaminated_items']}")
    tokens = [f"data {short(data['data_sha256'])}"]
    tokenizer = f"tokenizer {short(record['model']['tokenizer_sha256'])}"
    if outs:
        documents.insert(0, f"{hash_of(paths.DOCUMENTS)}, from {hash_of(paths.RAW)}, {hash_of(paths.BENCHMARKS)}")
        tokens.insert(0, hash_of(paths.TOKENS))
    run, made = record["parents"]["run_id"], [*tokens, tokenizer]
    if recipe := record.get("recipe"):
        documents = [*made, f"kept for the test: {short(data['test_documents_sha256'])}"]
        made = [f"{recipe['name']} {short(recipe['sha256'])}: {_kinds(recipe['values'])}"]
    names = ("examples", "recipe") if recipe else ("documents", "tokens")
    return [
        Step("sources", [_one_line(source) for source in record["sources"]] or [NONE], "data"),
        Step(names[0], documents, "data", ("code", sides["code"])),
        Step(names[1], made, "data", ("packages", sides["packages"])),
        Step(
            "training",
            [
                f"seed {training['seed']}, {training['precision']}, fingerprint {training['fingerprint']}",
                *([f"MLflow run {run}"] if run else []),
                *(f"took over {_adoption(one)}" for one in record["parents"]["adopted"]),
                *_beginning(record["parents"]),
            ],
            "made",
            ("machine", sides["machine"]),
        ),
        Step("model", _model_lines(record), "made", ("champion then", [_champion(record)])),
    ]


def _sides(record: Json) -> dict[str, list[str]]:
    """Return what came in from the side, by name."""
    code, environment, training = record["code"], record["environment"], record["training"]
    packages = environment["packages"]
    torch = f", torch {packages['torch']}" if "torch" in packages else ""
    processes = training["processes"]
    number = f"{len(packages)} packages, " if len(packages) > 1 else ""  # an earlier release knew of torch alone
    return {
        "code": [
            f"commit {short(code['commit'])}" + (" with uncommitted.patch" if code["dirty"] else ""),
            f"gpt {short(code['sha256'])}, {'recipe' if 'recipe' in record else 'params.yaml'} {short(record['params_sha256'])}",
        ],
        "packages": [
            f"Python {environment['python']}{torch}",
            f"{number}requirements.lock {short(record['locks']['requirements.lock'])}",
        ],
        "machine": [str(training["hardware"]), f"{processes} process{'' if processes == 1 else 'es'}"],
    }


def _model_lines(record: Json) -> list[str]:
    model = record["model"]
    if "figures" in record:
        return [
            f"weights {short(model['weights_sha256'])}",
            *(f"{name} {value:.4f}" for name, value in record["figures"].items()),
        ]
    figures = [f"{split} {value:.4f}" for split, value in model["bits_per_byte"].items()]
    return [f"weights {short(model['weights_sha256'])}", f"bits per byte: {', '.join(figures) or NONE}"]


def _kinds(recipe: Json) -> str:
    return f"{recipe['task']['kind']} ({recipe['method']['kind']})"


def _champion(record: Json) -> str:
    champion = record["parents"]["champion"]
    return f"version {champion['version']}, weights {short(champion['weights_sha256'])}" if champion else NONE


def _adoption(one: Json) -> str:
    if "text" in one:
        return one["text"]
    differences = "; ".join(one["differences"]) or "nothing differs"
    return f"run {one['fingerprint']} after step {one['step']} ({differences})"


def _beginning(parents: Json) -> Iterator[str]:
    """Yield what the training began with; records of an earlier release do not know of such beginnings."""
    if start := parents.get("started_from"):
        step = f" after step {start['step']}" if "step" in start else ""
        names = dict.fromkeys(filter(None, (start.get("uri"), start["init_from"])))
        optimizer = ", with the optimizer's state" if start["optimizer"] else ""
        yield f"started from {', named as '.join(names)}{step}: weights {short(start['weights_sha256'])}{optimizer}"
    if before := parents.get("continues"):
        run = f", MLflow run {before['run_id']}" if before["run_id"] else ""
        yield f"continues run {before['fingerprint']} from step {before['step']}, the state before its decay{run}"


def _source_lines(source: Json) -> Iterator[str]:
    use = "" if source["role"] in ("text", "examples") else f" ({source['role']})"
    yield f"{source['name']}{use}: {source['address']}"
    yield f"    sha256 {short(source['sha256'])}, licence: {source['licence']}"


def _one_line(source: Json) -> str:
    return f"{source['name']}: {source['address']}, {short(source['sha256'])}, {source['licence']}"


def _boxes(record: Json) -> tuple[list[str], int]:
    """Return the parts of the picture and its height: the chain on the left, what came in on the right."""
    parts: list[str] = []
    top, bottom = _PAD, 0
    for step in _steps(record):
        lines = step.lines
        if step.name == "sources" and len(lines) > _SHOWN_SOURCES:
            lines = [*lines[:_SHOWN_SOURCES], f"and {len(lines) - _SHOWN_SOURCES} more"]
        box, height = _box(step.name, lines, _PAD, top, _MAIN, _COLOURS[step.kind])
        parts.append(box)
        if bottom:
            parts.append(_arrow(_PAD + _MAIN / 2, bottom, _PAD + _MAIN / 2, top))
        bottom = row = top + height
        if step.side:
            left = _PAD + _MAIN + _GAP
            box, side_height = _box(*step.side, left, top, _SIDE, _COLOURS["side"])
            middle = top + min(height, side_height) / 2
            parts += [box, _arrow(left, middle, _PAD + _MAIN, middle)]
            row = max(bottom, top + side_height)
        top = row + _GAP
    return parts, top - _GAP + _PAD


def _box(name: str, lines: list[str], left: int, top: int, width: int, colour: str) -> tuple[str, int]:
    """Return a box with its name and lines, wrapped, and its height."""
    wrapped = [piece for line in lines for piece in textwrap.wrap(line, _CHARACTERS[width], subsequent_indent="  ")]
    height = 2 * _PAD + _LINE * (1 + len(wrapped)) - 4
    texts = [f'<text x="{left + _PAD}" y="{top + _PAD + 11}" font-weight="600">{escape_text(name)}</text>']
    for number, line in enumerate(wrapped):
        indent = 12 if line.startswith("  ") else 0
        place = f'x="{left + _PAD + indent}" y="{top + _PAD + 11 + _LINE * (number + 1)}"'
        texts.append(f"<text {place}>{escape_text(line.strip())}</text>")
    frame = (
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" fill="{colour}" fill-opacity="0.12"'
        f' stroke="{colour}" stroke-width="1.5"/>'
    )
    return frame + "".join(texts), height


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return an arrow, drawn without a marker: its id would meet those of a page's other pictures."""
    dx, dy = (0, 1) if x1 == x2 else (-1, 0)
    head = f"{x2},{y2} {x2 - 8 * dx + 4 * dy},{y2 - 8 * dy + 4 * dx} {x2 - 8 * dx - 4 * dy},{y2 - 8 * dy - 4 * dx}"
    return _line(x1, y1, x2 - 6 * dx, y2 - 6 * dy) + f'<polygon points="{head}" fill="currentColor"/>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor" stroke-width="1.5"/>'


def _svg(parts: list[str], height: int, style: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" class="lineage"'
        f' font-family="system-ui, sans-serif" font-size="12.5" fill="currentColor"><title>From sources to model</title>'
        f"{style}{''.join(parts)}</svg>"
    )


_STANDALONE = """<style>
.lineage { color: #1b2127; } .page { fill: #ffffff; }
@media (prefers-color-scheme: dark) { .lineage { color: #e3e7eb; } .page { fill: #14181c; } }
</style><rect class="page" width="100%" height="100%"/>"""
