"""What a finished model is worth on documents it never saw: figures, the scores behind them, and samples of what it writes."""

import json
from collections.abc import Callable
from typing import Any

import torch

from gpt import paths
from gpt.corpus.documents import describe_documents
from gpt.evaluation.attention import describe_attention
from gpt.evaluation.benchmarks.answers import score_benchmarks
from gpt.evaluation.held_out import HELD_OUT, read_held_out
from gpt.evaluation.metrics import main_figures
from gpt.evaluation.passages import Scored, score_documents
from gpt.evaluation.scores import ITEMS_FILE, PASSAGES_FILE, Items, Passages
from gpt.files import atomic_file, atomic_folder, sha256_file, write_json
from gpt.model.generation import generate_texts
from gpt.model.sampling import Sampling
from gpt.model.storage import default_device, load_model
from gpt.model.transformer import GPTModel
from gpt.params.project import Params
from gpt.processes.agreement import Share
from gpt.processes.cores import bound_threads
from gpt.processes.environment import check_products
from gpt.processes.precision import autocast_type, check_precision, matmul_precision, warn_if_emulated
from gpt.tokens.encoding import Encoding

Sample = dict[str, str | float]


def evaluate(
    params: Params, share: Share | None = None, before_writing: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Measure models/base on the held-out splits and the benchmarks; return all figures.

    Writes reports/evaluate.json, its main figures to metrics/evaluate.json, reports/samples.json, reports/attention.json and
    reports/scores/, all or nothing; `before_writing` is called first. Processes that share the work all call this and get the
    figures; the first of them writes.
    """
    share = share or Share()
    model, encoding = _load(params)
    with matmul_precision(params.evaluate.precision):
        # First, as a benchmark that is not there is told before anything is computed.
        answers, items = score_benchmarks(params, model, encoding, autocast=_autocast(params), share=share)
        scored = {split: _score(params, model, encoding, split, share) for split in HELD_OUT}
    described = describe_documents(paths.DOCUMENTS)
    metrics: dict[str, Any] = {
        split: result.figures() | {f"split_{key}": described[split][key] for key in ("documents", "bytes")}
        for split, result in scored.items()
    }
    metrics |= answers
    metrics["parameters"] = model.count_parameters()
    metrics["weights_sha256"] = sha256_file(paths.BASE_MODEL / "model.safetensors")
    if share.is_first:
        samples = _samples(params, model, encoding)
        attention = describe_attention(model, encoding, params.evaluate.prompts[0])
        before_writing()
        _write(metrics, scored, items, samples, attention)
    return metrics


def _score(params: Params, model: GPTModel, encoding: Encoding, split: str, share: Share) -> Scored:
    documents = read_held_out(paths.DOCUMENTS, split, encoding, params.evaluate.max_tokens)
    return score_documents(model, documents, encoding, split, autocast=_autocast(params), share=share)


def _write(
    metrics: dict[str, Any], scored: dict[str, Scored], items: Items, samples: list[Sample], attention: dict[str, Any]
) -> None:
    with (
        atomic_folder(paths.SCORES) as scores,
        atomic_file(paths.SAMPLES) as written,
        atomic_file(paths.ATTENTION) as maps,
        atomic_file(paths.EVALUATION) as figures,
    ):
        Passages.join([result.passages for result in scored.values()]).write(scores / PASSAGES_FILE)
        items.write(scores / ITEMS_FILE)
        written.write_text(json.dumps(samples, indent=2) + "\n", encoding="utf-8")
        maps.write_text(json.dumps(attention) + "\n", encoding="utf-8")
        write_json(figures, metrics)
        write_json(paths.METRICS, main_figures(metrics))  # in here: if it cannot be written, all stays as it was


def score_all_items(params: Params, share: Share | None = None) -> dict[str, Any]:
    """Return the benchmarks' figures of models/base on all their items, whatever the limit; write nothing."""
    model, encoding = _load(params)
    with matmul_precision(params.evaluate.precision):
        return score_benchmarks(params, model, encoding, autocast=_autocast(params), share=share, all_items=True)[0]


def _load(params: Params) -> tuple[GPTModel, Encoding]:
    """Return models/base with its tokenizer, ready to be scored in `evaluate.precision` on this machine."""
    precision, device = params.evaluate.precision, default_device()
    check_products("evaluate.precision", precision, on_gpu=device.type == "cuda")
    check_precision("evaluate.precision", precision)
    bound_threads()
    warn_if_emulated("evaluate.precision", precision, device)
    return load_model(paths.BASE_MODEL, device)


def _autocast(params: Params) -> torch.dtype | None:
    return autocast_type(params.evaluate.precision)


def _samples(params: Params, model: GPTModel, encoding: Encoding) -> list[Sample]:
    """Return what the model writes after each prompt: at evaluate.temperature first, then at evaluate.temperatures."""
    settings = params.evaluate
    samples: list[Sample] = []
    for temperature in settings.all_temperatures():
        sampling = Sampling(
            settings.max_new_tokens, temperature=temperature, top_k=settings.top_k, seed=params.base.seed
        )
        completions = generate_texts(model, encoding, settings.prompts, sampling)
        samples += [
            {"prompt": prompt, "temperature": temperature, "completion": completion}
            for prompt, completion in zip(settings.prompts, completions, strict=True)
        ]
    return samples
