"""Descriptions in MLflow's pages: of a version (what, how good, from what, a sample, how to load), of a registered model (its
champion, its candidate, the last decisions). Pure functions of what is known; `refresh_description` writes the latter.
"""

import logging
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpt.registry.overview.facts import SPLITS, Facts
from gpt.registry.overview.listing import Overview, Row, align, read_overview, tell
from gpt.secrets.hiding import redact
from gpt.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CHARACTERS = 5000
"That MLflow's tables hold; PostgreSQL refuses more."
_OURS = "<!-- what follows is written by gpt -->"
_SAMPLE_CHARACTERS = 600
_CELL_CHARACTERS = 120
_REASON_CHARACTERS = 250
_SOURCES = 12
_DECISIONS = 8
_VERSIONS = 15
_DRAWINGS = 5
_WIDTH = 90
"Characters of a line in a block: MLflow breaks none."

Rows = tuple[list[str], list[list[str]]]
"The head of a table, and its rows."

logger = logging.getLogger(__name__)


def describe_version(facts: Facts) -> str:
    """Return a version's description in Markdown."""
    sample = "".join(facts.samples[0])[:_SAMPLE_CHARACTERS] if facts.samples else ""
    code = f"commit {facts.commit}{' with uncommitted changes, kept as a patch' if facts.changed else ''}"
    in_service = f"models:/{facts.name}@champion"
    which = f"# This very one. The one in service is {in_service}.\n" if facts.uri else ""
    load = (
        f"import mlflow\n\n{which}"
        f'model = mlflow.pyfunc.load_model("{facts.uri or in_service}")\n'
        'model.predict([{"prompt": "To be"}], params={"seed": 1})'
    )
    parts = [
        size_sentence(facts),
        _block(
            "How well it predicts text that it never saw:",
            align(*figures) if (figures := figure_rows(facts))[1] else [],
        ),
        _block("Benchmarks:", align(*scores) if (scores := benchmark_rows(facts))[1] else []),
        benchmark_notes(facts),
        _block("Learned from:", _source_lines(facts)),
        f"Made by {code}." if facts.commit else "",
        _block("A sample:", [sample] if sample else []),
        f"Load it (with `MLFLOW_TRACKING_URI` set to this store):\n\n{fenced(load, 'python')}",
    ]
    return _joined(parts)


def describe_model(overview: Overview) -> str:
    """Return a registered model's description in Markdown: who is what, the newest versions, the last decisions.

    What a person wrote into the one before, above what is ours, stays there.
    """
    own = overview.description.partition(_OURS)[0].strip()
    versions = [
        [str(row.version), row.aliases_text, row.bits, row.benchmarks, row.day, row.verdict] for row in overview.rows
    ]
    decisions = [
        line for one in overview.decisions for line in tell(replace(one, reason=_short(one.reason, _REASON_CHARACTERS)))
    ]
    parts = [
        own,
        _OURS,
        *(_role(overview.rows, alias) for alias in ("champion", "challenger", "candidate")),
        _block(
            "The newest versions, and those with an alias:",
            align(("version", "aliases", "bits/byte", "benchmarks", "registered", "verdict"), versions),
        ),
        _block("The last decisions:", [line for each in decisions for line in _wrapped(each)]),
        "`gpt models --history` shows all of them.",
    ]
    return _joined(parts)


def refresh_description(client: "MlflowClient", name: str) -> None:
    """Write the registered model's description anew, after whatever changed its versions or aliases.

    It is a picture of what is recorded elsewhere, and decides nothing. Of several processes that draw it at once the last one
    to write looks again, so that it ends as the records are. What fails costs a warning, and the next change draws it again.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        for _ in range(_DRAWINGS):
            overview = read_overview(client, name, limit=_VERSIONS)
            text = describe_model(replace(overview, decisions=overview.decisions[:_DECISIONS]))
            if text == overview.description:
                return
            client.update_registered_model(name, text)
    except (MlflowException, SQLAlchemyError) as error:
        reason = redact(" ".join(str(error).split()))[:300]
        logger.warning("%s: the description of %s was not written (%s)", store.tracking_uri(), name, reason)


def size_sentence(facts: Facts) -> str:
    """Return a sentence or two about the model itself."""
    model, train = facts.model, facts.train
    parameters = facts.evaluation.get("parameters")
    size = f"{parameters:,} parameters, " if isinstance(parameters, int) else ""
    shape = [_counted(model[key], what) for key, what in _SHAPE.items() if key in model]
    text = (
        f"A GPT pretrained from scratch: {size}{', '.join(shape)}."
        if shape or size
        else "A GPT pretrained from scratch."
    )
    choices = [str(model[key]) for key in ("norm", "position", "activation") if key in model]
    text += f" {', '.join(choices)}." if choices else ""
    if {"max_steps", "batch_size"} <= train.keys():
        text += f" Trained for {train['max_steps']:,} steps of {train['batch_size']:,} sequences"
        text += f" on {facts.hardware}." if facts.hardware else "."
    return text


_SHAPE = {"n_layer": "layers", "n_head": "heads", "n_embd": "wide", "block_size": "tokens of context"}


def _counted(count: Any, what: str) -> str:
    return f"{count} {what.removesuffix('s') if count == 1 else what}"


def figure_rows(facts: Facts) -> Rows:
    """Return the figures of held-out documents, with no row if there are none."""
    rows = [
        [
            split,
            f"{figures['bits_per_byte']:.4f}",
            _written(figures.get("perplexity"), ",.2f"),
            str(figures.get("documents", "")),
        ]
        for split in SPLITS
        if (figures := facts.figures(split))
    ]
    return ["held-out documents", "bits per byte", "perplexity", "documents"], rows


def benchmark_rows(facts: Facts) -> Rows:
    """Return the benchmarks' scores, accuracy beside chance and the rest beside an untrained model's."""
    rows = [
        [
            name,
            str(scores.get("items", "")),
            _share(scores.get("accuracy")) + (f" ± {_share(error)}" if (error := scores.get("standard_error")) else ""),
            _share(scores.get("chance")),
            _beside_untrained(scores, "bits_per_byte", ".3f"),
            _beside_untrained(scores, "perplexity", ",.1f"),
        ]
        for name, scores in facts.benchmarks.items()
        if isinstance(scores, dict)
    ]
    # Bits per byte are those of the right answers, perplexity that of answers without a choice.
    return [
        "benchmark",
        "items",
        "accuracy ± s.e.",
        "chance",
        "bits per byte (untrained)",
        "perplexity (untrained)",
    ], rows


def benchmark_notes(facts: Facts) -> str:
    """Return what the benchmarks come to together, and how many items training has seen; nothing if there are none."""
    scored = {name: scores for name, scores in facts.benchmarks.items() if isinstance(scores, dict)}
    seen = {
        name: scores["items"] - scores["clean_items"]
        for name, scores in scored.items()
        if isinstance(scores.get("items"), int) and isinstance(scores.get("clean_items"), int)
    }
    notes = []
    if isinstance(centred := facts.evaluation.get("centred"), float):
        notes.append(f"Accuracy above chance, mean over the benchmarks (0: guessing, 1: all right): {centred:+.3f}.")
    if found := [f"{count:,} of {name}" for name, count in seen.items() if count]:
        notes.append(f"Items of which a training document has a passage: {', '.join(found)}.")
    elif seen:
        notes.append("No training document has a passage of any of these items.")
    return " ".join(notes)


def source_rows(facts: Facts) -> Rows:
    """Return the sources of texts with their licences."""
    keys = ("name", "address", "licence")
    rows = [[*(_short(source[key]) for key in keys), source["sha256"][:12]] for source in facts.sources]
    return ["source", "address", "licence", "SHA-256"], rows


def limits(facts: Facts) -> str:
    """Return what the model cannot do, as a list."""
    said = ["It continues text; it was not taught to follow instructions, and what it says need not be true."]
    if block_size := facts.model.get("block_size"):
        said.append(f"It sees the last {block_size} tokens.")
    names = ", ".join(source["name"] for source in facts.sources)
    said.append(
        f"It knows the texts it learned from{f' ({names})' if names else ''}, with their biases, and little else."
    )
    if not facts.figures("test"):
        said.append("Nothing was measured, so nothing is known of how good it is.")
    return "\n".join(f"- {sentence}" for sentence in said)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; nothing if it has no rows. What would end a cell or make a tag is escaped."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def fenced(text: str, language: str) -> str:
    """Return text as a Markdown block of code that no line of it can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _block(head: str, lines: Sequence[str]) -> str:
    """Return lines as they are, below a head; nothing without lines.

    Tables are aligned text, not Markdown's: MLflow shows those without any space between columns, and @champion as a link.
    """
    return f"{head}\n\n{fenced(chr(10).join(lines), 'text')}" if lines else ""


def _source_lines(facts: Facts) -> list[str]:
    _, rows = source_rows(facts)
    lines = [f"{name}: {address}, {licence}, SHA-256 {sha256}" for name, address, licence, sha256 in rows[:_SOURCES]]
    lines += [f"and {len(rows) - _SOURCES} more"] if len(rows) > _SOURCES else []
    return [line for each in lines for line in _wrapped(each)]


def _wrapped(line: str) -> list[str]:
    indent = "    " if line.startswith("    ") else ""
    return textwrap.wrap(line.strip(), _WIDTH, initial_indent=indent, subsequent_indent="    ") or [line]


def _joined(parts: Sequence[str]) -> str:
    """Return parts as one text that MLflow's tables hold: without secrets, control characters, and the parts that do not fit."""
    text = ""
    for part in parts:
        clean = "".join(letter for letter in redact(part) if letter.isprintable() or letter in "\n\t")
        longer = f"{text}\n\n{clean}" if text and clean else text + clean
        text = longer if len(longer) <= _CHARACTERS else text
    return text


def _short(text: str, most: int = _CELL_CHARACTERS) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _share(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else ""


def _beside_untrained(scores: dict[str, Any], key: str, form: str) -> str:
    """Return a figure, and what weights that have learned nothing have; nothing if it was not measured."""
    found = [each.get(key) if isinstance(each, dict) else None for each in (scores, scores.get("untrained"))]
    own, blank = (_written(value, form) for value in found)
    return f"{own} ({blank})" if own and blank else own


def _written(value: Any, form: str) -> str:
    return "" if not isinstance(value, float) else f"{value:{form}}" if abs(value) < 1e6 else f"{value:.1e}"


def _role(rows: Sequence[Row], alias: str) -> str:
    row = next((row for row in rows if alias in row.aliases), None)
    if row is None:
        return f"**No {alias}.**" if alias == "champion" else ""
    return f"**{alias.capitalize()}: version {row.version}**" + (f", {row.bits} bits per byte" if row.bits else "")
