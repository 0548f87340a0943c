"""What a finished model is worth on documents it never saw: figures, and samples of what it writes."""

import json
from typing import Any

import tiktoken

from gpt import paths
from gpt.evaluation.likelihood import split_likelihood
from gpt.files import atomic_file, sha256_file, write_json
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
    """Measure models/base on the held-out splits; write metrics/evaluate.json and reports/samples.json; return the metrics."""
    bound_threads()
    model, encoding = load_model(paths.BASE_MODEL, default_device())
    check_tokenizer(paths.TOKENS, paths.BASE_MODEL / "tokenizer", "run `gpt pretrain` again")
    verify_shards(paths.TOKENS, HELD_OUT)
    metrics: dict[str, Any] = {}
    for split in HELD_OUT:
        reader = TokenReader(paths.TOKENS, split)
        figures = split_likelihood(model, reader).to_dict()
        metrics[split] = figures | {"documents": reader.documents, "documents_sha256": reader.documents_sha256}
    metrics["parameters"] = model.count_parameters()
    metrics["weights_sha256"] = sha256_file(paths.BASE_MODEL / "model.safetensors")
    samples = _samples(params, model, encoding)
    with atomic_file(paths.SAMPLES) as partial:
        partial.write_text(json.dumps(samples, indent=2) + "\n", encoding="utf-8")
        write_json(paths.EVALUATE_METRICS, metrics)  # in here: if it cannot be written, the old samples stay
    return metrics


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
