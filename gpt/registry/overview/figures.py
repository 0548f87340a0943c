"""What descriptions and model cards say of a model, in sentences and rows of tables. Pure functions of what is known."""

from typing import Any

from gpt.registry.overview.facts import SPLITS, Facts

Rows = tuple[list[str], list[list[str]]]
"The head of a table, and its rows."
_CELL_CHARACTERS = 120
_SHAPE = {"n_layer": "layers", "n_head": "heads", "n_embd": "wide", "block_size": "tokens of context"}


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


def figure_rows(facts: Facts) -> Rows:
    """Return the figures of held-out documents, with no row if there are none."""
    rows = [
        [
            split,
            f"{figures['bits_per_byte']:.4f}",
            _written(figures.get("perplexity"), ",.2f"),
            _documents(figures),
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
    rows = [[*(shortened(source[key]) for key in keys), source["sha256"][:12]] for source in facts.sources]
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


def shortened(text: str, most: int = _CELL_CHARACTERS) -> str:
    """Return a text of at most so many characters, with a mark where it was cut."""
    return text if len(text) <= most else f"{text[:most]}…"


def _counted(count: Any, what: str) -> str:
    return f"{count} {what.removesuffix('s') if count == 1 else what}"


def _share(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else ""


def _beside_untrained(scores: dict[str, Any], key: str, form: str) -> str:
    """Return a figure, and what weights that have learned nothing have; nothing if it was not measured."""
    found = [each.get(key) if isinstance(each, dict) else None for each in (scores, scores.get("untrained"))]
    own, blank = (_written(value, form) for value in found)
    return f"{own} ({blank})" if own and blank else own


def _documents(figures: dict[str, Any]) -> str:
    """Return how many documents were scored, and of how many where evaluate.max_tokens left some out."""
    scored, split = figures.get("documents", ""), figures.get("split_documents")
    return str(scored) if split in (None, scored) else f"{scored} of {split}"


def _written(value: Any, form: str) -> str:
    return "" if not isinstance(value, float) else f"{value:{form}}" if abs(value) < 1e6 else f"{value:.1e}"
