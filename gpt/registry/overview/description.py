"""Descriptions in MLflow's pages: of a version (what, how good, from what, a sample, how to load), of a registered model (its
champion, its candidate, the last decisions). Pure functions of what is known; `refresh_description` writes the latter.
"""

import logging
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gpt.registry.overview.facts import Facts
from gpt.registry.overview.figures import shortened, size_sentence, source_rows
from gpt.registry.overview.listing import Overview, Row, read_overview, tell
from gpt.secrets.hiding import redact
from gpt.tracking import store
from gpt.tracking.pages.figures import main_figure
from gpt.tracking.pages.markdown import (
    align,
    aligned,
    below_own_words,
    benchmark_notes,
    benchmark_rows,
    block,
    fenced,
    figure_rows,
    finetuned_rows,
    joined,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SAMPLE_CHARACTERS = 600
_REASON_CHARACTERS = 250
_SOURCES = 12
_DECISIONS = 8
_VERSIONS = 15
_DRAWINGS = 5
_WIDTH = 90
"Characters of a line in a block: MLflow breaks none."


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
        'model.predict([{"prompt": "To be"}]' + (")" if "labels" in facts.evaluation else ', params={"seed": 1})')
    )
    test = facts.figures("test")
    headline = f"{test['bits_per_byte']:.4f} bits per byte. " if test else ""
    if facts.recipe:
        headline = f"{main_figure(facts.evaluation)}. "
    parts = [
        # The figure first: of all this MLflow's list of versions shows twenty characters.
        headline + size_sentence(facts),
        block("On test examples, beside what a model must be better than:", aligned(finetuned_rows(facts.evaluation))),
        block(
            "How well it predicts text that it never saw:",
            aligned(figure_rows(facts.evaluation)),
        ),
        block("Benchmarks:", aligned(benchmark_rows(facts.evaluation))),
        benchmark_notes(facts.evaluation),
        block("Learned from:", _source_lines(facts)),
        f"Made by {code}." if facts.commit else "",
        block("A sample:", [sample] if sample else []),
        f"Load it (with `MLFLOW_TRACKING_URI` set to this store):\n\n{fenced(load, 'python')}",
    ]
    return joined(parts)


def describe_model(overview: Overview) -> str:
    """Return a registered model's description in Markdown: who is what, the newest versions, the last decisions.

    What a person wrote into the one before, above what is ours, stays there; beside a very long text there is no room for ours.
    """
    versions = [
        [str(row.version), row.aliases_text, row.figure or row.bits, row.benchmarks, row.day, row.verdict]
        for row in overview.rows
    ]
    decisions = [
        line
        for one in overview.decisions
        for line in tell(replace(one, reason=shortened(one.reason, _REASON_CHARACTERS)))
    ]
    figure = "figure" if any(row.figure for row in overview.rows) else "bits/byte"
    parts = [
        *(_role(overview.rows, alias) for alias in ("champion", "challenger", "candidate")),
        block(
            "The newest versions, and those with an alias:",
            align(("version", "aliases", figure, "benchmarks", "registered", "verdict"), versions),
        ),
        block("The last decisions:", [line for each in decisions for line in _wrapped(each)]),
        f"`gpt models {overview.name} --history` shows all of them.",
    ]
    return below_own_words(overview.description, parts)


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


def _source_lines(facts: Facts) -> list[str]:
    _, rows = source_rows(facts)
    lines = [f"{name}: {address}, {licence}, SHA-256 {sha256}" for name, address, licence, sha256 in rows[:_SOURCES]]
    lines += [f"and {len(rows) - _SOURCES} more"] if len(rows) > _SOURCES else []
    return [line for each in lines for line in _wrapped(each)]


def _wrapped(line: str) -> list[str]:
    indent = "    " if line.startswith("    ") else ""
    return textwrap.wrap(line.strip(), _WIDTH, initial_indent=indent, subsequent_indent="    ") or [line]


def _role(rows: Sequence[Row], alias: str) -> str:
    row = next((row for row in rows if alias in row.aliases), None)
    if row is None:
        return f"**No {alias}.**" if alias == "champion" else ""
    figure = row.figure or (f"{row.bits} bits per byte" if row.bits else "")
    return f"**{alias.capitalize()}: version {row.version}**" + (f", {figure}" if figure else "")
