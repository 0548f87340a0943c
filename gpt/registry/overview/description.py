"""Descriptions in MLflow's pages: of a version (what, how good, from what, a sample, how to load), of a registered model (its
champion, its candidate, the last decisions). Pure functions of what is known; `refresh_description` writes the latter.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt.registry.overview.facts import Facts
from gpt.registry.overview.listing import Overview, Row, read_overview
from gpt.secrets.hiding import redact
from gpt.tracking import store
from gpt.tracking.pages.markdown import below_own_words, benchmark_table, fenced, figure_table, joined, table

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SAMPLE_CHARACTERS = 600
_CELL_CHARACTERS = 120
_SOURCES = 12
_DECISIONS = 10
_VERSIONS = 15

logger = logging.getLogger(__name__)


def describe_version(facts: Facts) -> str:
    """Return a version's description in Markdown."""
    sample = "".join(facts.samples[0])[:_SAMPLE_CHARACTERS] if facts.samples else ""
    code = f"commit {facts.commit}{' with uncommitted changes, kept as a patch' if facts.changed else ''}"
    load = (
        "import mlflow\n\n"
        f'model = mlflow.pyfunc.load_model("{facts.uri or f"models:/{facts.name}@champion"}")\n'
        'model.predict([{"prompt": "To be"}], params={"seed": 1})'
    )
    parts = [
        size_sentence(facts),
        figure_table(facts.evaluation),
        benchmark_table(facts.evaluation),
        source_table(facts, most=_SOURCES),
        f"Made by {code}." if facts.commit else "",
        f"A sample:\n\n{fenced(sample, 'text')}" if sample else "",
        f"Load it (with `MLFLOW_TRACKING_URI` set to this store):\n\n{fenced(load, 'python')}",
    ]
    return joined(parts)


def describe_model(overview: Overview, before: str = "") -> str:
    """Return a registered model's description in Markdown: who is what, the newest versions, the last decisions.

    What a person wrote into the description `before`, above what is ours, stays there.
    """
    parts = [
        *(_role(overview.rows, alias) for alias in ("champion", "challenger", "candidate")),
        table(
            ("version", "aliases", "bits per byte", "benchmarks", "registered", "verdict"),
            [(row.version, row.aliases_text, row.bits, row.benchmarks, row.day, row.verdict) for row in overview.rows],
        ),
        "Decisions, the last first:" if overview.decisions else "",
        table(
            ("time", "version", "verdict", "reason"),
            [
                (one.time[:16].replace("T", " "), one.version, one.verdict, _short(one.reason))
                for one in overview.decisions
            ],
        ),
        "`gpt models --history` shows all of them.",
    ]
    return below_own_words(before, parts)


def refresh_description(client: "MlflowClient", name: str) -> None:
    """Write the registered model's description anew, after whatever changed its versions or aliases.

    What fails costs a warning: the description is drawn from what is recorded elsewhere, and the next change draws it again.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        overview = read_overview(client, name, limit=_VERSIONS)
        overview = Overview(overview.name, overview.rows, overview.decisions[:_DECISIONS], overview.more)
        before = client.get_registered_model(name).description or ""
        client.update_registered_model(name, describe_model(overview, before))
    except (MlflowException, SQLAlchemyError) as error:
        reason = redact(" ".join(str(error).split()))[:300]
        logger.warning("%s: the description of %s was not written (%s)", store.tracking_uri(), name, reason)


def size_sentence(facts: Facts) -> str:
    """Return a sentence or two about the model itself."""
    model, train = facts.model, facts.train
    parameters = facts.evaluation.get("parameters")
    size = f"{parameters:,} parameters, " if isinstance(parameters, int) else ""
    shape = [f"{model[key]} {what}" for key, what in _SHAPE.items() if key in model]
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


def source_table(facts: Facts, most: int | None = None) -> str:
    """Return the sources of texts, at most so many, with their licences; nothing if they are not known."""
    keys = ("name", "address", "licence")
    rows = [(*(_short(source[key]) for key in keys), source["sha256"][:12]) for source in facts.sources[:most]]
    more = len(facts.sources) - len(rows)
    rows += [(f"and {more} more", "", "", "")] if more else []
    return table(("source", "address", "licence", "SHA-256"), rows)


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


def _short(reason: str) -> str:
    return reason if len(reason) <= _CELL_CHARACTERS else f"{reason[:_CELL_CHARACTERS]}…"


def _role(rows: Sequence[Row], alias: str) -> str:
    row = next((row for row in rows if alias in row.aliases), None)
    if row is None:
        return f"**No {alias}.**" if alias == "champion" else ""
    return f"**{alias.capitalize()}: version {row.version}**" + (f", {row.bits} bits per byte" if row.bits else "")
