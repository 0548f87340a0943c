"""Small models to serve: of random weights that all have a say, and a tokenizer whose tokens may be parts of characters."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gpt.files import write_json
from gpt.finetuning.data.templates import TOKENS, template_source
from gpt.finetuning.methods.models import Classifier
from gpt.finetuning.methods.saving import HEAD, LABELS
from gpt.model.storage import save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import load_params
from gpt.tokens.encoding import CHAT_TEMPLATE
from gpt.tokens.tokenizer import build_tokenizer, extend_tokenizer
from tests import ROOT

CONTEXT = 64
TEXT = "To be, or not to be: that is the question. Naïve queens cross the Größe of 東京 — said the king.\n"
LABELS_OF = ["ham", "spam"]


def random_model(vocab_size: int, model: type[GPTModel] = GPTModel, *more: int, **change: object) -> GPTModel:
    """Return a model whose next tokens depend strongly on those before."""
    values = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_kv_head": 2, "block_size": CONTEXT, "position": "rotary"}
    made = model(GPTConfig(vocab_size, **(values | change)), *more)  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return made


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base model."""
    folder = tmp_path_factory.mktemp("serving")
    settings = load_params(ROOT / "params.yaml").tokenizer.model_copy(update={"vocab_size": 300})
    encoding = build_tokenizer(settings, [TEXT * 20], folder / "tokenizer")
    save_model(random_model(encoding.n_vocab), folder / "tokenizer", folder / "base")
    return folder / "base"


@pytest.fixture(scope="session")
def chat_folder(base_folder: Path) -> Path:
    """The folder of a model that knows a chat template."""
    folder = base_folder.parent
    encoding = extend_tokenizer(base_folder / "tokenizer", TOKENS["turns"], folder / "chat_tokenizer")
    (folder / "chat_tokenizer" / CHAT_TEMPLATE).write_text(template_source("turns"), encoding="utf-8")
    save_model(random_model(encoding.n_vocab), folder / "chat_tokenizer", folder / "chat")
    return folder / "chat"


@pytest.fixture(scope="session")
def classifier_folder(base_folder: Path) -> Path:
    """The folder of a classifier."""
    folder = base_folder.parent / "classifier"
    shutil.copytree(base_folder, folder)
    weights = random_model(300, Classifier, len(LABELS_OF))
    assert isinstance(weights, Classifier)
    save_file(dict(weights.label_head.state_dict()), folder / HEAD)
    write_json(folder / LABELS, LABELS_OF)
    return folder


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor
