"""`gpt finetune evaluate`: how good a fine-tuned model is on examples that it was not trained on, and beside what.

A classifier: accuracy with its interval and the confusion matrix, beside naive Bayes. Answers: bits per byte beside the base
model's, exact matches of tasks that have one answer, how many end by themselves. Preferences: how often the better answer has
gained more. Of all: how much worse the base model's own held-out text is predicted now.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gpt import paths
from gpt.errors import UserError
from gpt.evaluation.likelihood import measuring, split_likelihood
from gpt.files import read_json, sha256_file, write_json
from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.examples import Example
from gpt.finetuning.data.packing import PackedRows
from gpt.finetuning.data.prepare import read_lines
from gpt.finetuning.data.templates import load_template
from gpt.finetuning.jobs.prefer import reference
from gpt.finetuning.judging.answers import Answer, answer
from gpt.finetuning.judging.classes import baseline_predictions, class_probabilities, describe_predictions, share
from gpt.finetuning.methods.models import PreferenceModel, build_model
from gpt.finetuning.methods.saving import load_classifier
from gpt.finetuning.places import Places
from gpt.model.storage import default_device, load_model
from gpt.model.transformer import GPTModel
from gpt.params.finetuning import Recipe, load_recipe
from gpt.tokens.encoding import Encoding
from gpt.tokens.shards import TokenReader
from gpt.tokens.tokenizer import token_bytes

Json = dict[str, Any]
_ROWS_AT_A_TIME = 8


def evaluate(name: str) -> Json:
    """Judge the model of a recipe on its test examples; write and return its evaluation. Raises `UserError`."""
    recipe, places = load_recipe(name), Places(name)
    test = read_lines(places.data / "test.jsonl")
    encoded = Encoded.load(places.data / "test.safetensors")
    device = default_device()
    match recipe.task.kind:
        case "classify":
            judged = _judge_classes(places, test, encoded, device)
        case "instruct":
            judged = _judge_answers(recipe, places, test, encoded, device)
        case "preference":
            judged = _judge_preferences(recipe, places, encoded, device)
    evaluation = {
        "recipe": name,
        "task": recipe.task.kind,
        "method": recipe.method.kind,
        "weights_sha256": sha256_file(places.model / "model.safetensors"),
        "base": read_json(places.base / paths.INITIAL_SOURCE, "run `gpt finetune data` again"),
        "examples": len(test),
        **judged,
        "forgetting": _forgetting(places, device),
    }
    write_json(places.evaluation, evaluation)
    write_json(places.metrics, {"test": main_figures(evaluation)})
    return evaluation


def main_figures(evaluation: Json) -> dict[str, float]:
    """Return the figures that a person compares models by, and `dvc metrics diff` shows."""
    figures = {
        key: evaluation[key]
        for key in ("accuracy", "bits_per_byte", "exact_match", "ended", "preferred", "loss")
        if isinstance(evaluation.get(key), float)
    }
    if "baseline" in evaluation:
        figures["baseline_accuracy"] = evaluation["baseline"]["accuracy"]
    if forgetting := evaluation.get("forgetting"):
        figures["forgotten_bits_per_byte"] = forgetting["after"] - forgetting["before"]
    return figures


def _judge_classes(places: Places, test: Sequence[Example], encoded: Encoded, device: torch.device) -> Json:
    model, _, labels = load_classifier(places.model, device)
    probabilities = class_probabilities(model, encoded)
    predicted = baseline_predictions(read_lines(places.data / "train.jsonl"), test, labels)
    return {
        "labels": labels,
        **describe_predictions(probabilities.argmax(1), encoded.labels, labels),
        "loss": float(-np.log(probabilities[np.arange(len(test)), encoded.labels].clip(1e-12)).mean()),
        "baseline": describe_predictions(predicted, encoded.labels, labels),
        "mistakes": [
            {"text": test[number]["text"], "is": test[number]["label"], "said": labels[probabilities[number].argmax()]}
            for number in np.flatnonzero(probabilities.argmax(1) != encoded.labels)[:20]
        ],
    }


def _judge_answers(
    recipe: Recipe, places: Places, test: Sequence[Example], encoded: Encoded, device: torch.device
) -> Json:
    model, encoding = load_model(places.model, device)
    base, base_encoding = load_model(places.base, device)
    template = load_template(places.model / "tokenizer", encoding)
    if template is None:
        raise UserError(f"{places.model}: its tokenizer has no chat template; run `gpt finetune train` again")
    nats, text_bytes = _nats(model, PackedRows(encoded, model.config.block_size), encoding)
    before = _plain_bits_per_byte(base, base_encoding, test)
    chosen = test[: recipe.judge.answers] if recipe.judge.answers else test
    asked = [_asked(example) for example in chosen]
    settings = recipe.judge
    answers = answer(
        model, template, asked, settings.max_new_tokens, temperature=settings.temperature, seed=recipe.seed
    )
    after = nats / math.log(2) / text_bytes
    return {
        "bits_per_byte": after,
        "base_bits_per_byte": before,
        "gain": None if not before else 1 - after / before,
        **_exact(chosen, answers),
        **share(sum(said.ended for said in answers), len(answers), "ended"),
        "answered": len(answers),
        "answer_tokens": float(np.mean([said.tokens for said in answers])),
        "samples": [
            {
                "asked": asked[number],
                "answer": answers[number].text,
                "wanted": chosen[number]["messages"][-1]["content"],
            }
            for number in range(min(recipe.judge.samples, len(answers)))
        ],
    }


def _asked(example: Example) -> list[Example]:
    """Return a conversation up to its last answer."""
    messages = example["messages"]
    last = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
    return messages[:last]


def _exact(examples: Sequence[Example], answers: Sequence[Answer]) -> Json:
    """Return how many answers are to the letter the wanted ones, of all and of each task; nothing where no example has a task."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for example, said in zip(examples, answers, strict=True):
        if "task" in example:
            right[example["task"]].append(
                said.ended and said.text.strip() == example["messages"][-1]["content"].strip()
            )
    if not right:
        return {}
    tasks = {task: share(sum(each), len(each), "exact_match") for task, each in sorted(right.items())}
    return {"exact_match": float(np.mean([each["exact_match"] for each in tasks.values()])), "tasks": tasks}


def _nats(model: GPTModel, rows: PackedRows, encoding: Encoding) -> tuple[float, int]:
    """Return the nats of all targets, and the bytes of text that they are."""
    device, total, text_bytes = model.tok_emb.weight.device, 0.0, 0
    with measuring(model):
        for first in range(0, len(rows), _ROWS_AT_A_TIME):
            tensors = rows.tensors(range(first, min(first + _ROWS_AT_A_TIME, len(rows))))
            _, nats = model(**{name: tensor.to(device) for name, tensor in tensors.items()})
            total += float(nats)
            text_bytes += int(token_bytes(encoding)[tensors["targets"].numpy()].sum())
    return total, text_bytes


def _plain_bits_per_byte(base: GPTModel, encoding: Encoding, test: Sequence[Example]) -> float | None:
    """Return the base model's bits per byte of the same answers, which it is given as lines of a plain text."""
    device, room = base.tok_emb.weight.device, base.config.block_size
    nats, text_bytes = 0.0, 0
    with measuring(base):
        for example in test:
            before = "\n".join(message["content"] for message in _asked(example)) + "\n"
            wanted = example["messages"][len(_asked(example))]["content"] + "\n"
            head, tail = [encoding.eot_token, *encoding.encode_ordinary(before)], encoding.encode_ordinary(wanted)
            ids = torch.tensor([[*head, *tail][-room - 1 :]], device=device)
            targets = ids[:, 1:].clone()
            targets[:, : max(0, ids.shape[1] - 1 - len(tail))] = -1
            nats += float(base.token_nats(ids[:, :-1], targets).sum())
            text_bytes += int(token_bytes(encoding)[targets[targets >= 0].cpu().numpy()].sum())
    return nats / math.log(2) / text_bytes if text_bytes else None


def _judge_preferences(recipe: Recipe, places: Places, encoded: Encoded, device: torch.device) -> Json:
    assert recipe.task.kind == "preference"
    model, encoding = load_model(places.model)
    base = build_model(recipe, places.base, encoding.n_vocab)
    tuned = PreferenceModel(model.config, recipe.task.beta)
    tuned.load_state_dict(model.state_dict())
    assert isinstance(base, PreferenceModel)
    gains = reference(tuned.to(device), encoded, device) - reference(base.to(device), encoded, device)
    margins = PreferenceModel.margins(gains)
    return {
        "loss": float(-torch.nn.functional.logsigmoid(recipe.task.beta * margins).mean()),
        "margin": float(margins.mean()),
        **share(int((margins > 0).sum()), len(margins), "preferred"),
    }


def _forgetting(places: Places, device: torch.device) -> Json | None:
    """Return bits per byte of the base model's own held-out text before and after; None where there is none of its tokens."""
    if not (places.held_out / "index.json").is_file():
        return None
    reader = TokenReader(places.held_out, "validation")
    base, tuned = (load_model(folder, device)[0] for folder in (places.base, places.model))
    before, after = (split_likelihood(model, reader).bits_per_byte for model in (base, tuned))
    return {"bytes": reader.text_bytes, "before": before, "after": after}
