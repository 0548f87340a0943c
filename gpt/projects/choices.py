"""What a project's params.yaml says for a text: each value with the reason, from the survey of the text and the template.

A reason is the comment beside its key, and a line of what `gpt init` prints.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gpt.errors import UserError
from gpt.params.project import Params
from gpt.params.tokens import Tokenizer
from gpt.projects.survey import Survey, choose_prompts
from gpt.projects.templates import Template

# Fewer documents than this are held out by their ends: of whole ones a split could get none, or most of the text.
FEWEST_DOCUMENTS = 40
_HELD_OUT, _LARGEST_HELD_OUT = 0.05, 0.2
"Share of documents that a split gets, and the largest that it gets where there are few."
_FEWEST_HELD_OUT = 10  # documents: by chance it could have none of fewer
_BPE_SAMPLE = 2_000_000  # characters that a tokenizer is tried on
_SIZES = ((50_000, 320), (1_000_000, 512), (20_000_000, 1024))
"Bytes of text below which a tokenizer of the demo's size, 1,024 entries, would have too little to learn from, or could be larger."
_LARGER = 2048
_VOCABULARIES = (2048, 1024, 512, 384, 320, 288, 260)
_TRIED = 0.5  # of each document: less than the train split has, also where chance holds out more than its share
_FEWEST_STEPS = 200
_PROMPTS = 3


class Limits(NamedTuple):
    """What a template can do with a text."""

    least_bytes: int
    "Of text, below which there is no project."
    held_out_bytes: int
    "Of a split that are enough: training validates several times, which must take less than training itself."
    epochs: int
    """How often the text is read at most, 0: as often as the template's steps do. A token's fifth reading is worth less than a new
    one (Muennighoff et al. 2023); what `tiny` is for is small, and read twice as often."""


LIMITS = {
    "tiny": Limits(10_000, 500_000, epochs=8),
    "classic": Limits(10_000, 500_000, epochs=0),
    "short": Limits(10_000, 500_000, epochs=0),
    "gpt2-124m": Limits(100_000_000, 10_000_000, epochs=4),
    "1b": Limits(1_000_000_000, 10_000_000, epochs=4),
}


@dataclass(frozen=True)
class Choice:
    """A value of params.yaml, and why it is that: `comment` stands beside it, "" leaves what the template says."""

    key: str
    value: Any
    comment: str = ""
    told: str = ""
    "A line for the summary, if it is worth one."


def choose(template: Template, params: Params, found: Survey, source: dict[str, Any], name: str) -> list[Choice]:
    """Return what the project's params.yaml has otherwise than the template's; raise `UserError` if the text is too small."""
    _check_size(template, found)
    choices = [*named(name), Choice("fetch.sources", [source]), *_reading(found), *_splits(template, found)]
    choices += [Choice("prepare.shards", _shards(found.text_bytes))]
    assert isinstance(params.tokenizer, Tokenizer), "no template has a tokenizer that is the user's own"
    settings, tokens_per_byte = _tokenizer(template, params.tokenizer, found)
    if settings != params.tokenizer:
        why = f"about {1 / tokens_per_byte:.1f} bytes of this text a token"
        choices.append(
            Choice("tokenizer.vocab_size", settings.vocab_size, why, f"{settings.vocab_size} entries, {why}")
        )
    tokens = round(found.text_bytes * (1 - _held_out(template, choices)) * tokens_per_byte)
    choices += _steps(template, params, tokens)
    if prompts := choose_prompts(found.sample, _PROMPTS):
        choices.append(Choice("evaluate.prompts", prompts, told=f"beginnings from the text: {', '.join(prompts)}"))
    return [*choices, _threshold(found)]


def named(name: str) -> list[Choice]:
    """Return the keys that bear a project's own name."""
    return [Choice("base.name", name), Choice("register.name", name)]


def _check_size(template: Template, found: Survey) -> None:
    least = LIMITS[template.name].least_bytes
    if found.text_bytes >= least:
        return
    size = f"{found.text_bytes:,} bytes of text in {found.documents:,} document(s)"
    other = "take --template tiny, or bring more text" if least > LIMITS["tiny"].least_bytes else "bring more text"
    raise UserError(
        f"--data {found.name}: holds {size}; template {template.name} needs {least:,} bytes at least: {other}"
    )


def _reading(found: Survey) -> list[Choice]:
    told = {
        "read.separator": f"files are cut into documents at {found.read.get('read.separator', '')!r}",
        "read.text_field": f"the field with the text is {found.read.get('read.text_field', '')}",
        "read.delimiter": f"{found.read.get('read.delimiter', '')!r} stands between the columns, by the header",
        "read.message": "a chat, each of its messages in a line",
        "read.format": "the file's name does not say that it is text",
        "max_document_bytes": "the largest file is one document",
    }
    return [Choice(f"prepare.{key}", value, told=told[key]) for key, value in found.read.items()]


def _splits(template: Template, found: Survey) -> list[Choice]:
    """Return how text is held out, so that validation and test are neither empty nor larger than they need be."""
    split_seed = Choice("prepare.split_seed", 1, "another one puts other documents into validation and test")
    enough = LIMITS[template.name].held_out_bytes / found.text_bytes
    if found.documents < FEWEST_DOCUMENTS:
        few = "is one document" if found.documents == 1 else f"are only {found.documents} documents"
        usual = template["prepare.validation_fraction"]
        fractions = (
            [] if enough >= usual else _fractions(_round(enough), "more would take longer to validate on than to train")
        )
        told = f"the last {100 * _held_out(template, fractions):.3g}% of each document: there {few}"
        return [Choice("prepare.hold_out", "ends", told=told), *fractions, split_seed]
    share = _round(max(min(_HELD_OUT, enough), min(_LARGEST_HELD_OUT, _FEWEST_HELD_OUT / found.documents)))
    each = f"about {share * found.documents:,.0f} of {found.documents:,} documents"
    told = f"{share:.2%} of the documents each for validation and test: {each}"
    whole = [
        Choice(f"prepare.{key}", value)
        for key, value in (
            ("deduplicate.exact", True),
            ("deduplicate.minhash", True),
            ("decontaminate.action.held_out", "cut"),
        )
        if f"prepare.{key}" in template.values  # a template for one text leaves them out
    ]
    return [Choice("prepare.hold_out", "documents", told=told), *_fractions(share, each), split_seed, *whole]


def _fractions(share: float, why: str) -> list[Choice]:
    return [Choice("prepare.validation_fraction", share, why), Choice("prepare.test_fraction", share, why)]


def _held_out(template: Template, choices: list[Choice]) -> float:
    """Return the share of the text that validation and test get together."""
    chosen = {choice.key: choice.value for choice in choices}
    keys = ("prepare.validation_fraction", "prepare.test_fraction")
    return sum(chosen.get(key, template[key]) for key in keys)


def _round(share: float) -> float:
    """Return a share in two significant digits, not below what they say."""
    step = 10.0 ** (math.floor(math.log10(share)) - 1)
    return float(f"{math.ceil(share / step - 1e-9) * step:.2g}")


def _shards(text_bytes: int) -> int:
    """Return into how many pieces preparing is cut: of 32 MB or more, but enough for the cores of a large machine."""
    return max(1, min(256, text_bytes // 32_000_000))


def _tokenizer(template: Template, settings: Tokenizer, found: Survey) -> tuple[Tokenizer, float]:
    """Return a tokenizer that the text is large enough for, and how many tokens a byte of it takes then."""
    if settings.kind != "bpe" or "tokenizer.vocab_size" in template.values:
        return settings, measure_tokens(settings, found)
    wanted = next((size for below, size in _SIZES if found.text_bytes < below), _LARGER)
    for size in (each for each in _VOCABULARIES if each <= wanted):
        smaller = settings.model_copy(update={"vocab_size": size})
        try:
            return smaller, measure_tokens(smaller, found)
        except UserError:  # a text that says little has few pairs to merge, whatever its length
            continue
    raise UserError(
        f"--data {found.name}: says the same again and again, too little for {_VOCABULARIES[-1]} tokens; bring other text"
    )


def measure_tokens(settings: Tokenizer, found: Survey) -> float:
    """Return how many tokens a byte of the text takes, by trying the tokenizer on less of it than there is to train on.

    Raises `UserError` if that has too little for its entries, or too many characters.
    """
    from gpt.tokens.tokenizer import build_tokenizer

    if settings.kind == "gpt2":
        return 1 / 4.2  # of English; GPT-2's ranks may have to be downloaded first
    sample, length = list[str](), 0
    for text in found.sample:
        sample.append(text[: min(_BPE_SAMPLE - length, max(1, round(_TRIED * len(text))))])
        length += len(sample[-1])
        if length >= _BPE_SAMPLE:
            break
    with tempfile.TemporaryDirectory() as folder:
        try:
            encoding = build_tokenizer(settings, sample, Path(folder, "tokenizer"))
        except UserError as error:
            raise UserError(f"--data {found.name}: {str(error).removeprefix('params.yaml: ')}") from None
    tokens = sum(len(encoding.encode_ordinary(text)) for text in sample)
    return tokens / sum(len(text.encode()) for text in sample)


def _steps(template: Template, params: Params, tokens: int) -> list[Choice]:
    """Return how long to train on so many tokens: as the template, or shorter where the text would be read too often."""
    a_step = params.train.batch_size * params.model.block_size
    steps = params.train.max_steps
    if most := LIMITS[template.name].epochs:
        steps = max(_FEWEST_STEPS, min(steps, round(most * tokens / a_step / 100) * 100))
    epochs = f"{steps * a_step:,} tokens, {steps * a_step / tokens:.2g} times the training text"
    if steps == params.train.max_steps:
        return [Choice("train.max_steps", steps, told=f"{steps:,} steps: {epochs}")]
    shorter = [
        Choice(f"train.{key}", max(1, steps // 4))
        for key in ("eval_interval", "sample_interval")
        if getattr(params.train, key) > steps // 2
    ]
    return [Choice("train.max_steps", steps, epochs, told=f"{steps:,} steps: {epochs}"), *shorter]


def _threshold(found: Survey) -> Choice:
    bound = math.ceil(10 * found.table_bits_per_byte) / 10
    why = "on the test split: a first champion must be below what a table of byte pairs reaches"
    return Choice(
        "register.gate.max_bits_per_byte", bound, why, told=f"a first champion must be below {bound} bits per byte"
    )
