"""`gpt finetune evaluate`: how good a fine-tuned model is on examples that it was not trained on, and beside what.

A classifier: accuracy with its interval and the confusion matrix, beside naive Bayes. Answers: bits per byte beside the base
model's, exact matches of tasks that have one answer, how many end by themselves. Preferences: how often the better answer has
gained more. Of all: how much worse the base model's own held-out text is predicted now. And of each example what came of it
(gpt/finetuning/judging/outcomes.py), for the gate.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gpt import paths
from gpt.evaluation.likelihood import split_likelihood
from gpt.files import read_json, sha256_file, write_json
from gpt.finetuning.data.encoded import Encoded
from gpt.finetuning.data.examples import Example
from gpt.finetuning.data.prepare import read_lines
from gpt.finetuning.jobs.prefer import reference
from gpt.finetuning.judging import outcomes as of_examples
from gpt.finetuning.judging.answers import answer, plain_answers
from gpt.finetuning.judging.classes import baseline_predictions, describe_predictions, share
from gpt.finetuning.judging.exchanges import asked_part, exact_matches, wanted_answer
from gpt.finetuning.judging.likelihood import plain_nats, target_nats
from gpt.finetuning.judging.outcomes import Outcomes
from gpt.finetuning.methods.classes import class_probabilities
from gpt.finetuning.methods.models import PreferenceModel, build_model
from gpt.finetuning.methods.saving import load_answering, load_classifier
from gpt.finetuning.places import Places
from gpt.model.storage import default_device, load_model
from gpt.params.finetuning import Recipe, load_recipe
from gpt.processes.agreement import Share
from gpt.processes.cores import bound_threads
from gpt.tokens.shards import TokenReader

Json = dict[str, Any]


def evaluate(name: str) -> Json:
    """Judge the model of a recipe on its test examples; write and return its evaluation. Raises `UserError`."""
    recipe, places = load_recipe(name), Places(name)
    bound_threads()
    test = read_lines(places.data / "test.jsonl")
    encoded = Encoded.load(places.data / "test.safetensors")
    device = default_device()
    match recipe.task.kind:
        case "classify":
            judged, outcomes = _judge_classes(places, test, encoded, device)
        case "instruct":
            judged, outcomes = _judge_answers(recipe, places, test, encoded, device)
        case "preference":
            judged, outcomes = _judge_preferences(recipe, places, test, encoded, device)
    evaluation = {
        "recipe": name,
        "task": recipe.task.kind,
        "method": recipe.method.kind,
        "weights_sha256": sha256_file(places.model / "model.safetensors"),
        "base": read_json(places.base / paths.INITIAL_SOURCE, "run `gpt finetune data` again"),
        "examples": len(test),
        "test_sha256": sha256_file(places.data / "test.jsonl"),
        "judge": recipe.judge.model_dump(mode="json"),
        "model": read_json(places.model / "config.json", "run `gpt finetune train` again"),
        **judged,
        "forgetting": _forgetting(places, device),
    }
    outcomes.write(places.outcomes)
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


def _judge_classes(
    places: Places, test: Sequence[Example], encoded: Encoded, device: torch.device
) -> tuple[Json, Outcomes]:
    model, _, labels = load_classifier(places.model, device)
    probabilities = class_probabilities(model, [encoded[number].ids for number in range(len(encoded))])
    said, wanted = probabilities.argmax(1), encoded.labels
    baseline = baseline_predictions(read_lines(places.data / "train.jsonl"), test, labels)
    judged = {
        "labels": labels,
        **describe_predictions(said, wanted, labels),
        "loss": float(-np.log(probabilities[np.arange(len(test)), wanted].clip(1e-12)).mean()),
        "baseline": describe_predictions(baseline, wanted, labels),
        "mistakes": [
            {"text": test[number]["text"], "is": test[number]["label"], "said": labels[said[number]]}
            for number in np.flatnonzero(said != wanted)[:20]
        ],
    }
    floor = (baseline == wanted, np.ones(len(test)))
    return judged, of_examples.tabulate(of_examples.ACCURACY, test, said == wanted, floor=floor)


def _judge_answers(
    recipe: Recipe, places: Places, test: Sequence[Example], encoded: Encoded, device: torch.device
) -> tuple[Json, Outcomes]:
    model, template = load_answering(places.model, device)
    nats, sizes = target_nats(model, encoded, template.encoding)
    base, base_encoding = load_model(places.base, device)
    plain, plain_sizes = plain_nats(base, base_encoding, [(asked_part(each), wanted_answer(each)) for each in test])
    settings = recipe.judge
    chosen = test[: settings.answers] if settings.answers else test
    asked = [asked_part(example) for example in chosen]
    answers = answer(
        model, template, asked, settings.max_new_tokens, temperature=settings.temperature, seed=recipe.seed
    )
    after, before = _bits_per_byte(nats, sizes), _bits_per_byte(plain, plain_sizes)
    tasks = exact_matches(chosen, answers)
    scored = [example for example in chosen if "task" in example]
    of_base = plain_answers(base, base_encoding, [asked_part(each) for each in scored], settings.max_new_tokens)
    judged = {
        "bits_per_byte": after,
        "base_bits_per_byte": before,
        "gain": None if not before or after is None else 1 - after / before,
        **_describe_exact(tasks, exact_matches(scored, of_base)),
        **share(sum(said.ended for said in answers), len(answers), "ended"),
        "answered": len(answers),
        "answer_tokens": float(np.mean([said.tokens for said in answers])),
        "samples": [
            {"asked": asked[number], "answer": answers[number].text, "wanted": wanted_answer(chosen[number])}
            for number in range(min(recipe.judge.samples, len(answers)))
        ],
    }
    floor = (plain / math.log(2), plain_sizes)
    tables = [of_examples.tabulate(of_examples.BITS_PER_BYTE, test, nats / math.log(2), sizes, floor)]
    for task, right in tasks.items():
        of_task = [example for example in chosen if example.get("task") == task]
        tables.append(of_examples.tabulate(f"{of_examples.EXACT_MATCH}.{task}", of_task, np.array(right)))
    return judged, Outcomes.join(tables)


def _bits_per_byte(nats: np.ndarray, sizes: np.ndarray) -> float | None:
    return float(nats.sum() / math.log(2) / sizes.sum()) if sizes.sum() else None


def _describe_exact(right: dict[str, list[bool]], of_base: dict[str, list[bool]]) -> Json:
    if not right:
        return {}
    tasks = {
        task: {
            **share(sum(each), len(each), of_examples.EXACT_MATCH),
            "base_exact_match": sum(of_base[task]) / len(each),
        }
        for task, each in right.items()
    }
    return {"exact_match": float(np.mean([each["exact_match"] for each in tasks.values()])), "tasks": tasks}


def _judge_preferences(
    recipe: Recipe, places: Places, test: Sequence[Example], encoded: Encoded, device: torch.device
) -> tuple[Json, Outcomes]:
    assert recipe.task.kind == "preference"
    model, encoding = load_model(places.model)
    base = build_model(recipe, places.base, encoding.n_vocab)
    tuned = PreferenceModel(model.config, recipe.task.beta)
    tuned.load_state_dict(model.state_dict())
    assert isinstance(base, PreferenceModel)
    gains = reference(tuned.to(device), encoded, Share()) - reference(base.to(device), encoded, Share())
    margins = PreferenceModel.margins(gains)
    judged = {
        "loss": float(-torch.nn.functional.logsigmoid(recipe.task.beta * margins).mean()),
        "margin": float(margins.mean()),
        **share(int((margins > 0).sum()), len(margins), "preferred"),
    }
    coin = (np.full(len(test), 0.5), np.ones(len(test)))
    return judged, of_examples.tabulate(of_examples.PREFERRED, test, (margins > 0).numpy(), floor=coin)


def _forgetting(places: Places, device: torch.device) -> Json | None:
    """Return bits per byte of the base model's own held-out text before and after; None where there is none of its tokens."""
    if not (places.held_out / "index.json").is_file():
        return None
    reader = TokenReader(places.held_out, "validation")
    base, tuned = (load_model(folder, device)[0] for folder in (places.base, places.model))
    before, after = (split_likelihood(model, reader).bits_per_byte for model in (base, tuned))
    return {"bytes": reader.text_bytes, "before": before, "after": after}
