"""The gate's verdicts on models that were really trained: of five seeds, each as it must be. With -s it prints the figures."""

import random
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gpt import paths
from gpt.corpus.documents import read_documents
from gpt.files import sha256_file
from gpt.params.project import Params, load_params
from gpt.registry.package import register
from gpt.registry.promotion import Promotion, promote
from gpt.sources import fetch as sources
from tests.conftest import merge, prepare_data
from tests.registry.conftest import make_model

STEPS = 300
SMALL = {"n_layer": 2, "n_embd": 32, "block_size": 32}


def made_up_words(seed: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 8))) for _ in range(200)]


def documents(words: list[str], seed: int, count: int = 300) -> list[str]:
    """Return documents of 80 words, some of which are much more frequent than others, as in a language (Zipf)."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return [" ".join(chance.choices(words, weights, k=80)) for _ in range(count)]


def use_texts(project: Path, texts: list[str], **change: dict[str, Any]) -> Params:
    """Let the project learn from other texts."""
    file = project / "text.jsonl"
    file.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts), encoding="utf-8")
    entry = {"name": "made-up", "kind": "local", "path": str(file), "sha256": sha256_file(file), "licence": "none"}
    yaml, settings = YAML(), project / "params.yaml"
    values = yaml.load(settings.read_text(encoding="utf-8"))
    merge(values, {"fetch": {"sources": [entry]}, "model": SMALL, **change})
    with settings.open("w", encoding="utf-8") as writer:
        yaml.dump(values, writer)
    params = load_params(settings)
    sources.fetch(params.fetch.sources, project / paths.RAW)
    prepare_data(project)
    return params


def offer(project: Path, steps: int, seed: int) -> Promotion:
    """Train a model, register it, and try to promote it."""
    params = load_params(project / "params.yaml")
    make_model(project, steps, seed)
    register(params, project)
    return promote(params, project)


def planted(test: list[str], seed: int) -> list[str]:
    """Return documents that each hold half of some test documents: no copies, so that deduplication lets them pass."""
    chance = random.Random(seed)
    halves = [half for text in test for half in (text[: len(text) // 2], text[len(text) // 2 :])]
    chance.shuffle(halves)
    return [" ".join(halves[start : start + 3]) for start in range(0, len(halves), 3)]


def show(what: str, seed: int, result: Promotion) -> list[str]:
    """Print a verdict and its figures; return the checks that failed."""
    failed = [reason.check for reason in result.reasons if not reason.passed]
    (reason,) = [each for each in result.reasons if each.check == "test_bits_per_byte"] or [None]
    figures = ""
    if reason and reason.figure and reason.threshold and reason.low is not None and reason.high is not None:
        gain = reason.threshold - reason.figure
        figures = (
            f"{reason.threshold:.4f} → {reason.figure:.4f}, gain {gain:+.4f} ({reason.low:+.4f} to {reason.high:+.4f})"
        )
    print(f"seed {seed}  {what:<14} {result.verdict:<9} {', '.join(failed) or '-':<20} {figures}")
    return failed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_worse_same_contaminated_and_foreign_models_are_refused_and_better_ones_promoted(
    project: Path, seed: int
) -> None:
    texts = documents(made_up_words(seed), seed)
    use_texts(project, texts)
    assert offer(project, STEPS, seed).verdict == "promoted"

    worse = offer(project, STEPS * 9 // 10, seed)
    assert show("10 % fewer", seed, worse) == ["test_bits_per_byte"]

    use_texts(project, texts, train={"max_steps": 5})  # other settings, so another version
    assert show("same weights", seed, offer(project, STEPS, seed)) == ["other_weights"]

    test = [document["text"] for document in read_documents(project / paths.DOCUMENTS, "test")]
    report = {"decontaminate": {"action": {"held_out": "report"}}}
    use_texts(project, texts + planted(test, seed), prepare=report)
    assert show("contaminated", seed, offer(project, 2 * STEPS, seed)) == ["contamination"], "its loss is lower"

    use_texts(project, documents(made_up_words(seed + 100), seed))
    assert show("other texts", seed, offer(project, 2 * STEPS, seed)) == ["test_data"]

    use_texts(project, texts, prepare={"decontaminate": {"action": {"held_out": "cut"}}})
    better = offer(project, 2 * STEPS, seed)
    assert show("2 × steps", seed, better) == []
    assert better.verdict == "promoted"
