"""The base model's own held-out text, by which a recipe tells how much of it is forgotten."""

import shutil
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import atomic_folder, write_json
from gpt.tokens.shards import data_id, read_index
from gpt.tokens.tokenizer import tokenizer_id

SPLIT = "validation"


def describe_held_out(tokenizer: Path, tokens: Path = paths.TOKENS) -> str | None:
    """Return what identifies the project's tokens, if they are those of a tokenizer's folder; else None."""
    try:
        return data_id(tokens) if read_index(tokens)["tokenizer_id"] == tokenizer_id(tokenizer) else None
    except (UserError, OSError):
        return None


def copy_held_out(tokenizer: Path, output: Path, tokens: Path = paths.TOKENS) -> None:
    """Copy the validation split of the project's tokens to the folder `output`; it stays empty if they are of another tokenizer."""
    with atomic_folder(output) as folder:
        if describe_held_out(tokenizer, tokens) is None:
            return
        index: dict[str, Any] = read_index(tokens)
        for shard in index["splits"][SPLIT]["shards"]:
            target = folder / shard["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tokens / shard["file"], target)
        write_json(folder / "index.json", index | {"splits": {SPLIT: index["splits"][SPLIT]}})
