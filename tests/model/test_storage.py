import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gpt.errors import UserError
from gpt.files import sha256_tree, write_json
from gpt.model.storage import load_model, save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.tokens import Tokenizer
from gpt.tokens.tokenizer import build_tokenizer
from tests.model.test_transformer import CONFIG, VARIANTS, describe, make

TEXT = "to be, or not to be: naïve"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tokenizer"
    build_tokenizer(Tokenizer(kind="char", vocab_size=300, train_bytes=10**9, special_tokens=()), [TEXT], folder)
    return folder


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Path) -> Path:
    save_model(make(replace(CONFIG, vocab_size=258)), tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("config", VARIANTS, ids=describe)
def test_a_loaded_model_gives_the_same_logits(tmp_path: Path, tokenizer: Path, config: GPTConfig) -> None:
    model = make(replace(config, vocab_size=258, dropout=0.5), seed=5)
    save_model(model.train(), tokenizer, tmp_path / "base")
    loaded, encoding = load_model(tmp_path / "base")
    assert loaded.config == model.config
    assert not loaded.training
    x = torch.tensor([encoding.encode_ordinary(TEXT[:12])])
    assert torch.equal(loaded(x), model.eval()(x))
    assert encoding.decode(x[0].tolist()) == TEXT[:12]


def test_a_folder_holds_all_that_a_model_needs(saved: Path, tmp_path: Path) -> None:
    files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert files == {"model.safetensors", "config.json", "tokenizer/ranks.tiktoken", "tokenizer/tokenizer.json"}
    assert set(load_file(saved / "model.safetensors")) == set(make(CONFIG).state_dict())
    moved = shutil.move(saved, tmp_path / "elsewhere")
    load_model(Path(moved))


def test_saving_the_same_model_gives_the_same_bytes(tmp_path: Path, tokenizer: Path) -> None:
    for name in ("a", "b"):
        save_model(make(replace(CONFIG, vocab_size=258)), tokenizer, tmp_path / name)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")


def test_saving_that_fails_leaves_the_earlier_model(saved: Path, tmp_path: Path) -> None:
    before = sha256_tree(saved)
    with pytest.raises(FileNotFoundError):
        save_model(GPTModel(CONFIG), tmp_path / "no tokenizer", saved)
    assert sha256_tree(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["base"]


def test_a_full_disk_is_a_clear_error_and_leaves_the_earlier_model(saved: Path) -> None:
    before = sha256_tree(saved)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"base: .*File too large.*make room"):
            save_model(make(replace(CONFIG, vocab_size=258)), saved / "tokenizer", saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert sha256_tree(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["base"]


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    write_json(path, json.loads(path.read_text()) | values)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def retrain_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    build_tokenizer(
        Tokenizer(kind="char", vocab_size=300, train_bytes=10**9, special_tokens=()), ["äöü"], folder / "tokenizer"
    )


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "no folder": ("config.json: not found", shutil.rmtree),
    "no config": ("config.json: not found", lambda folder: (folder / "config.json").unlink()),
    "config cut off": ("config.json: not valid JSON", lambda folder: cut(folder / "config.json")),
    "config is empty": ("config.json: not a GPTModel's", lambda folder: (folder / "config.json").write_text("{}")),
    "config is a list": ("config.json: not a GPTModel's", lambda folder: (folder / "config.json").write_text("[]")),
    "config has more": ("config.json: not a GPTModel's", lambda folder: change_config(folder, alibi=True)),
    "config is of words": ("config.json: not a GPTModel's", lambda folder: change_config(folder, n_layer="two")),
    "no heads": ("config.json: not a GPTModel's", lambda folder: change_config(folder, n_head=0)),
    "heads that do not divide": ("config.json: not a GPTModel's", lambda folder: change_config(folder, n_head=3)),
    "another width": ("model.safetensors: damaged or not of", lambda folder: change_config(folder, n_embd=32)),
    "another depth": ("model.safetensors: damaged or not of", lambda folder: change_config(folder, n_layer=3)),
    "no weights": ("model.safetensors: not found", lambda folder: (folder / "model.safetensors").unlink()),
    "weights cut off": ("model.safetensors: damaged", lambda folder: cut(folder / "model.safetensors")),
    "weights emptied": ("model.safetensors: damaged", lambda folder: (folder / "model.safetensors").write_bytes(b"")),
    "weights of zeros": (
        "model.safetensors: damaged",
        lambda folder: (folder / "model.safetensors").write_bytes(bytes(5000)),
    ),
    "no tokenizer": ("tokenizer.json: not found", lambda folder: shutil.rmtree(folder / "tokenizer")),
    "another tokenizer": ("config.json has vocab_size 258, the tokenizer 260", retrain_tokenizer),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_a_clear_error(saved: Path, message: str, damage: Callable[[Path], Any]) -> None:
    damage(saved)
    with pytest.raises(UserError) as caught:
        load_model(saved)
    assert message in str(caught.value)
    assert str(saved) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_is_unpickled(saved: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (saved / "evil",)

    torch.save({"tok_emb.weight": Evil()}, saved / "model.safetensors")
    with pytest.raises(UserError, match="damaged"):
        load_model(saved)
    assert not (saved / "evil").exists()
