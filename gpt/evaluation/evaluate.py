"""What a finished model is worth on documents it never saw: figures, and samples of what it writes."""

import json
from typing import Any

import tiktoken

from gpt import paths
from gpt.evaluation.benchmarks.answers import score_benchmarks
from gpt.evaluation.likelihood import split_likelihood
from gpt.files import atomic_file, atomic_folder, sha256_file, write_json
from gpt.model.generation import Sampling, generate_texts
from gpt.model.storage import default_device, load_model
from gpt.model.transformer import GPTModel
from gpt.params.project import Params
from gpt.processes.cores import bound_threads
from gpt.tokens.shards import TokenReader
from gpt.tokens.tokenizer import check_tokenizer
from gpt.tokens.verification import verify_shards

HELD_OUT = ("validation", "test")


def evaluate(params: Params) -> dict[str, Any]:
    """Measure models/base on the held-out splits and the benchmarks; return the metrics.

    Writes metrics/evaluate.json, reports/samples.json and reports/scores.
    """
    bound_threads()
    model, encoding = load_model(paths.BASE_MODEL, default_device())
    check_tokenizer(paths.TOKENS, paths.BASE_MODEL / "tokenizer", "run `gpt pretrain` again")
    verify_shards(paths.TOKENS, HELD_OUT)
    metrics: dict[str, Any] = {}
    for split in HELD_OUT:
        reader = TokenReader(paths.TOKENS, split)
        figures = split_likelihood(model, reader).to_dict()
        metrics[split] = figures | {"documents": reader.documents, "documents_sha256": reader.documents_sha256}
    answers, items = score_benchmarks(params, model, encoding)
    metrics |= answers
    metrics["parameters"] = model.count_parameters()
    metrics["weights_sha256"] = sha256_file(paths.BASE_MODEL / "model.safetensors")
    samples = _samples(params, model, encoding)
    with atomic_folder(paths.SCORES) as scores, atomic_file(paths.SAMPLES) as partial:
        items.write(scores / "items.parquet")
        partial.write_text(json.dumps(samples, indent=2) + "\n", encoding="utf-8")
        write_json(paths.EVALUATE_METRICS, metrics)  # in here: if it cannot be written, the old samples stay
    return metrics


def score_all_items(params: Params) -> dict[str, Any]:
    """Return the benchmarks' figures of models/base on all their items, whatever the limit; write nothing."""
    bound_threads()
    model, encoding = load_model(paths.BASE_MODEL, default_device())
    return score_benchmarks(params, model, encoding, all_items=True)[0]


def _samples(params: Params, model: GPTModel, encoding: tiktoken.Encoding) -> list[dict[str, str]]:
    settings = params.evaluate
    sampling = Sampling(
        settings.max_new_tokens, temperature=settings.temperature, top_k=settings.top_k, seed=params.base.seed
    )
    completions = generate_texts(model, encoding, settings.prompts, sampling)
    return [
        {"prompt": prompt, "completion": completion}
        for prompt, completion in zip(settings.prompts, completions, strict=True)
    ]
