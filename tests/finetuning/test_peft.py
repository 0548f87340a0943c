"""Adapters under PEFT's own loader, and PEFT's under ours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt.errors import UserError
from gpt.files import write_json
from gpt.finetuning.methods.lora import add_lora
from gpt.finetuning.methods.models import grow_tables
from gpt.finetuning.methods.peft import export_peft, import_merged, merge_peft
from gpt.finetuning.methods.saving import save_fine
from gpt.model.convert.huggingface import export_huggingface
from gpt.model.storage import load_model, save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.finetuning import load_recipe
from gpt.tokens.tokenizer import extend_tokenizer, load_tokenizer
from tests import ROOT
from tests.finetuning.test_lora import SETTINGS, train_a_little

CHOICES: dict[str, dict[str, Any]] = {
    "gpt2": {"position": "learned", "activation": "gelu", "bias": True, "tie_embeddings": True},
    "nanochat": {
        "position": "rotary", "activation": "relu2", "norm": "rmsnorm", "bias": False, "qk_norm": True, "tie_embeddings": False
    },
    "llama": {"position": "rotary", "activation": "swiglu", "norm": "rmsnorm", "bias": False, "tie_embeddings": False},
}  # fmt: skip


@pytest.fixture(params=CHOICES)
def tuned(
    request: pytest.FixtureRequest, prepared_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[GPTModel, Path]:
    """Return a model with adapters that have learned something, and the folder that holds it and its base."""
    tokenizer = prepared_project / "models/tokenizer"
    known = load_tokenizer(tokenizer).n_vocab
    base = GPTModel(GPTConfig(known, 2, 2, 16, 16, **CHOICES[request.param]))
    base.init_weights(1)
    save_model(base, tokenizer, tmp_path / "base")
    encoding = extend_tokenizer(tokenizer, ["<|user|>", "<|assistant|>", "<|end|>"], tmp_path / "tokenizer")
    config = replace(base.config, vocab_size=encoding.n_vocab)
    model = GPTModel(config)
    model.load_state_dict(grow_tables(base.state_dict(), known, config))
    add_lora(model, SETTINGS, seed=1, known=known)
    train_a_little(model)
    monkeypatch.chdir(ROOT)
    recipe = load_recipe("spam").model_copy(update={"method": SETTINGS})
    save_fine(model, recipe, [], tmp_path / "tokenizer", tmp_path / "tuned")
    monkeypatch.chdir(tmp_path)
    return model.eval(), tmp_path


def test_pefts_loader_gives_the_same_logits(tuned: tuple[GPTModel, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, folder = tuned
    export_peft(folder / "tuned", folder / "base", folder / "out")
    theirs: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("out/base"), "out/adapter").eval()
    tokens = torch.randint(model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-5, rtol=1e-4)
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merged(tokens).logits, model(tokens), atol=1e-5, rtol=1e-4)


def test_an_adapter_of_pefts_own_is_merged_to_the_same_logits(tuned: tuple[GPTModel, Path]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    _, folder = tuned
    export_huggingface(folder / "base", folder / "theirs")
    network: Any = AutoModelForCausalLM.from_pretrained(folder / "theirs")
    settings = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=True)
    adapted: Any = get_peft_model(network, settings)
    train_a_little(adapted)
    adapted.save_pretrained(str(folder / "adapter"))
    model, _ = load_model(folder / "base")
    before = model(torch.tensor([[1, 2, 3]]))
    merge_peft(model, folder / "adapter", folder / "base" / "config.json")
    tokens = torch.randint(model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(3))
    imported = import_merged(folder / "theirs", folder / "adapter", folder / "imported")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), adapted.eval()(tokens).logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(imported(tokens), model(tokens))
        assert not torch.allclose(model(torch.tensor([[1, 2, 3]])), before, atol=1e-2)


def test_what_is_no_adapter_of_the_model_is_told(tuned: tuple[GPTModel, Path]) -> None:
    _, folder = tuned
    with pytest.raises(UserError, match="has no adapters"):
        export_peft(folder / "base", folder / "base", folder / "out")
    model, _ = load_model(folder / "base")
    file = folder / "base" / "config.json"
    with pytest.raises(UserError, match=r"adapter_config.json: not found"):
        merge_peft(model, folder / "base", file)
    export_peft(folder / "tuned", folder / "base", folder / "out")
    other = GPTModel(replace(model.config, n_layer=1))
    with pytest.raises(UserError, match="is of no weight of"):
        merge_peft(other, folder / "out/adapter", file)
    wide = GPTModel(replace(model.config, n_embd=32))
    with pytest.raises(UserError, match="its product for"):
        merge_peft(wide, folder / "out/adapter", file)
    write_json(folder / "out/adapter/adapter_config.json", {"peft_type": "IA3", "r": 1, "lora_alpha": 1})
    with pytest.raises(UserError, match="not plain LoRA"):
        merge_peft(model, folder / "out/adapter", file)
