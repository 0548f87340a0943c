"""The whole way of a project whose tokenizer is a file of Hugging Face's library: tokens, training, evaluation, generation."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gpt import paths
from gpt.commands.main import main
from gpt.corpus.documents import read_documents
from gpt.files import sha256_file
from gpt.model.storage import load_model
from gpt.tokens.shards import TokenReader
from tests.tokens.kinds.made import save, sentencepiece_bpe


def use_tokenizer(file: Path, **change: object) -> None:
    """Let params.yaml name a tokenizer of another kind."""
    values = YAML().load(Path("params.yaml").read_text(encoding="utf-8"))
    values["tokenizer"] = {
        "kind": "huggingface",
        "file": str(file),
        "sha256": sha256_file(file),
        "end_of_text": "</s>",
        "special_tokens": ["<|im_start|>"],
        "train_bytes": 1000,
    }
    values["model"] |= change
    with Path("params.yaml").open("w", encoding="utf-8") as output:
        YAML().dump(values, output)


@pytest.mark.slow
def test_a_model_of_ones_own_tokenizer_is_trained_scored_and_asked(
    prepared_project: Path, copy_project: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_project(prepared_project)
    file = save(sentencepiece_bpe(), tmp_path / "tokenizer.json")
    use_tokenizer(file, pad_vocab=128)
    assert main(["pretrain"]) == 0, "the tokens that are there are of the tokenizer that is there"
    assert main(["tokenizer"]) == 0
    size = sentencepiece_bpe().get_vocab_size() + 1
    said = capsys.readouterr().out
    assert f"models/tokenizer: huggingface, {size} tokens" in said
    assert "gives back the bytes of all" in said
    assert main(["pretrain"]) == 2
    assert (
        "data/tokens: made by another tokenizer than models/tokenizer; run `gpt tokenize` again"
        in capsys.readouterr().err
    )
    for command in ("tokenize", "pretrain", "evaluate"):
        assert main([command]) == 0, capsys.readouterr().err
    for split in ("train", "validation", "test"):
        reader = TokenReader(paths.TOKENS, split)
        assert reader.text_bytes == sum(len(each["text"].encode()) for each in read_documents(paths.DOCUMENTS, split))
    model, encoding = load_model(paths.BASE_MODEL)
    assert (model.config.vocab_size, model.config.padded_vocab_size) == (encoding.n_vocab, -(-size // 128) * 128)
    figures = json.loads(paths.EVALUATION.read_text(encoding="utf-8"))["test"]
    bits = figures["loss"] * figures["tokens"] / math.log(2)
    assert figures["bits_per_byte"] == pytest.approx(bits / figures["bytes"])
    capsys.readouterr()
    assert main(["generate", "to be", "--max-new-tokens", "5"]) == 0
    assert len(capsys.readouterr().out) > 5
    assert main(["tokens", "show", "--sequences", "1"]) == 0
    assert f"vocabulary of {size:,} tokens" in capsys.readouterr().out
