"""What the page says of a model: which version with which score, and what it was made from, as pairs of texts."""

from gpt.registry.overview.facts import Facts
from gpt.tracking.pages.figures import main_figure

Fact = tuple[str, str]


def describe(known: Facts) -> list[Fact]:
    """Return what is known of a model; nothing of what is not."""
    found: list[Fact] = [("Model", known.uri.removeprefix("models:/").replace("/", " version ") or known.name)]
    for split in ("test", "validation"):
        if figures := known.figures(split):
            found.append((f"{split.capitalize()} text", f"{figures['bits_per_byte']:.4f} bits per byte"))
    if known.recipe:
        found.append(("Test examples", main_figure(known.evaluation)))
    if known.started_from:
        found.append(("Fine-tuned from" if known.recipe else "Started from", known.started_from))
    if sources := known.sources:
        found.append(("Made from", "; ".join(f"{each['name']} ({each['address']})" for each in sources)))
    if model := known.model:
        shape = ", ".join(f"{model[key]} {text}" for key, text in _SHAPE.items() if key in model)
        found.append(("Architecture", shape))
    if known.commit:
        found.append(("Code", known.commit[:12] + (" with changes" if known.changed else "")))
    if known.hardware:
        found.append(("Trained on", known.hardware))
    return found


_SHAPE = {"n_layer": "layers", "n_head": "heads", "n_embd": "wide", "block_size": "tokens of context"}
