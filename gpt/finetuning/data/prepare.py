"""`gpt finetune data`: the labelled examples of a recipe, from their sources to tokens, split and clean of duplicates.

In finetuning/NAME/data: each split as JSON lines for people and as tokens for training, the tokenizer with the special tokens of
the recipe's template, and report.json, which says what was left out and why.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import atomic_folder, read_json, sha256_file, sha256_json, write_json
from gpt.finetuning.data.benchmarks import describe_matches, read_passages
from gpt.finetuning.data.encoded import Encoder, TooLong, join
from gpt.finetuning.data.examples import Example, read_example, shown
from gpt.finetuning.data.files import read_rows
from gpt.finetuning.data.selection import SPLITS, Selection, kind_of, select
from gpt.finetuning.data.templates import TOKENS, load_template, template_source
from gpt.finetuning.places import Places
from gpt.model.transformer import GPTConfig
from gpt.params.finetuning import Classify, Data, Recipe
from gpt.sources.fetch import fetch
from gpt.tokens.encoding import CHAT_TEMPLATE, Encoding
from gpt.tokens.tokenizer import extend_tokenizer, load_tokenizer

Json = dict[str, Any]


def prepare_examples(recipe: Recipe, places: Places, benchmarks: tuple[str, ...]) -> Json:
    """Write the recipe's examples to `places.data`; return what report.json says. `benchmarks` are those of params.yaml.

    Raises `UserError` if sources or benchmarks cannot be had, a row is not of the form, or a split is empty.
    """
    names = benchmarks if recipe.data.decontaminate.ngram else ()
    passages = read_passages(recipe.data.decontaminate, names, paths.BENCHMARKS)
    with tempfile.TemporaryDirectory() as raw:
        fetch(recipe.data.sources, Path(raw))
        selection = select(_examples(Path(raw), recipe.data), recipe.data, passages)
    with atomic_folder(places.data) as folder:
        encoding = _write_tokenizer(recipe, places.base / "tokenizer", folder / "tokenizer")
        labels = _labels(selection) if isinstance(recipe.task, Classify) else []
        report = {
            "settings_sha256": data_settings_hash(recipe),
            "labels": labels,
            "splits": _write_splits(recipe, selection, folder, encoding, labels, _room(recipe, places.base)),
            "left_out": dict(selection.left_out),
            "benchmarks": describe_matches(names, passages, selection.matches),
            "sources": [
                {"name": source.name, source.identity_key: source.identity, "licence": source.licence}
                for source in recipe.data.sources
            ],
        }
        for split in SPLITS:
            if not report["splits"][split]["examples"]:
                raise UserError(
                    f"{places.recipe}: data: the {split} split has no example ({_told(report['left_out'])}); add some, or raise its"
                    " fraction"
                )
        write_json(folder / "report.json", report)
    return report


def data_settings_hash(recipe: Recipe) -> str:
    """Return a hash of the settings that decide which examples there are, as what tokens: not of licences."""
    values = recipe.model_dump(mode="json", include={"base", "block_size", "data", "task"})
    for source in values["data"]["sources"]:
        del source["licence"]
    return sha256_json(values)


def _examples(raw: Path, settings: Data) -> Iterator[Example]:
    """Yield the examples of all sources; raise `UserError` that says which row of which file is none."""
    for source in settings.sources:
        try:
            for place, row in read_rows(raw / source.name):
                try:
                    yield from read_example(row, settings)
                except UserError as error:
                    raise UserError(f"{place}: {error}") from None
        except UserError as error:
            raise UserError(f"source {source.name}: {error}") from None


def _write_tokenizer(recipe: Recipe, base: Path, output: Path) -> Encoding:
    task = recipe.task
    if isinstance(task, Classify):
        shutil.copytree(base, output)
        return load_tokenizer(output)
    extend_tokenizer(base, TOKENS[task.template], output, by_characters=task.cut == "characters")
    (output / CHAT_TEMPLATE).write_text(template_source(task.template), encoding="utf-8")
    return load_tokenizer(output)


def _labels(selection: Selection) -> list[str]:
    found = sorted({example["label"] for examples in selection.splits.values() for example in examples})
    if len(found) < 2:
        raise UserError(f"data: all examples are of one class ({', '.join(found)}); a classifier needs two")
    return found


def _room(recipe: Recipe, base: Path) -> int:
    """Return the longest context in tokens; raise `UserError` for one that the base's learned positions do not reach."""
    config = GPTConfig(**read_json(base / "config.json", "run `gpt finetune data` again"))
    if recipe.block_size > config.block_size and config.position == "learned":
        raise UserError(
            f"block_size = {recipe.block_size}: {recipe.base} has learned {config.block_size} positions and no more; lower it"
        )
    return recipe.block_size or config.block_size


def _write_splits(
    recipe: Recipe, selection: Selection, folder: Path, encoding: Encoding, labels: list[str], room: int
) -> Json:
    encoder = Encoder(recipe, encoding, load_template(folder / "tokenizer", encoding), room)
    told = {}
    for split, examples in selection.splits.items():
        kept, sequences, numbers = [], [], []
        for example in chain.from_iterable(encoder.parts(each) for each in examples):
            try:
                piece, encoded = encoder.encode(example)
            except TooLong:
                if recipe.data.too_long == "error":
                    raise UserError(
                        f"data: an example has more than {room} tokens ({shown(example)}); raise block_size, or set"
                        " data.too_long to drop or crop"
                    ) from None
                selection.left_out["too long"] += 1
                continue
            kept.append(piece)
            sequences += encoded
            if labels:
                numbers.append(labels.index(piece["label"]))
        whole = join(sequences, numbers)
        whole.save(folder / f"{split}.safetensors")
        write_lines(folder / f"{split}.jsonl", kept)
        told[split] = {
            "examples": len(kept),
            "tokens": len(whole.ids),
            "with_loss": int(whole.mask.sum()),
            "longest": int(whole.lengths.max(initial=0)),
            "of_each": dict(sorted(Counter(str(kind_of(example)) for example in kept).items())),
            "sha256": sha256_file(folder / f"{split}.jsonl"),
        }
    return told


def write_lines(path: Path, examples: list[Example]) -> None:
    """Write examples as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)


def read_lines(path: Path) -> list[Example]:
    """Return the examples of a split; raise `UserError` if they are not there."""
    try:
        # Not splitlines(): a text may hold what Unicode counts as the end of a line.
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); run `gpt finetune data` again") from None


def _told(left_out: Json) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none was left out"
