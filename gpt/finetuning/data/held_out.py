"""The base model's own held-out text, by which a recipe tells how much of it is forgotten."""

import shutil
from pathlib import Path
from typing import Any

from gpt import paths
from gpt.errors import UserError
from gpt.files import atomic_folder, write_json
from gpt.tokens.shards import read_index
from gpt.tokens.tokenizer import tokenizer_id

SPLIT = "validation"


def are_of(tokenizer: Path, tokens: Path) -> bool:
    """Whether a folder of tokens is there and was made by the tokenizer of another folder."""
    try:
        return read_index(tokens)["tokenizer_id"] == tokenizer_id(tokenizer)
    except (UserError, OSError):
        return False


def copy_held_out(tokenizer: Path, output: Path, tokens: Path = paths.TOKENS) -> None:
    """Copy the validation split of the project's tokens to the folder `output`; it stays empty if they are of another tokenizer."""
    with atomic_folder(output) as folder:
        if not are_of(tokenizer, tokens):
            return
        index: dict[str, Any] = read_index(tokens)
        for shard in index["splits"][SPLIT]["shards"]:
            target = folder / shard["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tokens / shard["file"], target)
        write_json(folder / "index.json", index | {"splits": {SPLIT: index["splits"][SPLIT]}})
