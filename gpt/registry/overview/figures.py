"""What descriptions and model cards say of a model, in sentences and rows of tables. Pure functions of what is known."""

from typing import Any

from gpt.registry.overview.facts import Facts
from gpt.tracking.pages.markdown import Rows

_CELL_CHARACTERS = 120
_LEARNED = {
    "": "do a task",
    "classify": "tell classes of texts apart",
    "instruct": "answer",
    "preference": "prefer the better of two answers",
}
_METHODS = {"full": "all weights", "lora": "LoRA", "head": "its head alone", "last_blocks": "its last blocks"}
_LIMITS = {
    "": "It continues text; it was not taught to follow instructions, and what it says need not be true.",
    "classify": "It tells apart the classes that it has learned and knows no other; a text that is of none gets one all the same.",
    "instruct": "It answers as its examples do; what it says need not be true.",
    "preference": "It answers as its examples prefer; what it says need not be true.",
}
_SHAPE = {"n_layer": "layers", "n_head": "heads", "n_embd": "wide", "block_size": "tokens of context"}


def size_sentence(facts: Facts) -> str:
    """Return a sentence or two about the model itself."""
    if facts.recipe:
        return _tuned_sentence(facts)
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


def source_rows(facts: Facts) -> Rows:
    """Return the sources of texts with their licences."""
    keys = ("name", "address", "licence")
    rows = [[*(shortened(source[key]) for key in keys), source["sha256"][:12]] for source in facts.sources]
    return ["source", "address", "licence", "SHA-256"], rows


def limits(facts: Facts) -> str:
    """Return what the model cannot do, as a list."""
    said = [_LIMITS[_task(facts)]]
    if block_size := facts.model.get("block_size"):
        said.append(f"It sees the last {block_size} tokens.")
    names = ", ".join(source["name"] for source in facts.sources)
    said.append(
        f"It knows the texts it learned from{f' ({names})' if names else ''}, with their biases, and little else."
    )
    if not facts.figures("test") and not facts.recipe:
        said.append("Nothing was measured, so nothing is known of how good it is.")
    return "\n".join(f"- {sentence}" for sentence in said)


def _tuned_sentence(facts: Facts) -> str:
    shape = ", ".join(_counted(facts.model[key], what) for key, what in _SHAPE.items() if key in facts.model)
    method = facts.recipe.get("method")
    how = f" ({_METHODS.get(method['kind'], method['kind'])})" if isinstance(method, dict) and "kind" in method else ""
    begun = f" from {facts.started_from}" if facts.started_from else ""
    text = f"A GPT fine-tuned{begun}{how} to {_LEARNED[_task(facts)]}"
    return f"{text}: {shape}." if shape else f"{text}."


def _task(facts: Facts) -> str:
    """Return the kind of the task that was learned, "" if there was none, or one that this release does not know."""
    task = facts.recipe.get("task")
    kind = task.get("kind") if isinstance(task, dict) else None
    return kind if kind in _LEARNED else ""


def shortened(text: str, most: int = _CELL_CHARACTERS) -> str:
    """Return a text of at most so many characters, with a mark where it was cut."""
    return text if len(text) <= most else f"{text[:most]}…"


def _counted(count: Any, what: str) -> str:
    return f"{count} {what.removesuffix('s') if count == 1 else what}"
