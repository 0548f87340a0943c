from typing import Any

import pytest
import torch

from gpt.finetuning.methods.lora import LoraLinear, adapter_weights, add_lora, merged_model
from gpt.model.generation import generate_tokens
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.finetuning import Lora

VOCABULARY, KNOWN = 30, 27
SETTINGS = Lora(kind="lora", rank=3, alpha=6.0, dropout=0.0)
CHOICES: list[dict[str, Any]] = [
    {"position": "rotary", "activation": "swiglu", "bias": False, "tie_embeddings": False},
    {"position": "learned", "activation": "gelu", "bias": True, "tie_embeddings": True},
    {"position": "sinusoidal", "activation": "relu2", "bias": False, "tie_embeddings": True, "n_kv_head": 1},
]


def make_model(choice: dict[str, Any], known: int = KNOWN) -> tuple[GPTModel, GPTModel]:
    """Return a base model and the same with adapters, which add nothing yet."""
    base, model = (GPTModel(GPTConfig(VOCABULARY, 2, 2, 16, 16, **choice)) for _ in range(2))
    for each in (base, model):
        each.init_weights(5)
    add_lora(model, SETTINGS, seed=1, known=known)
    return base.eval(), model.eval()


def train_a_little(model: GPTModel) -> None:
    """Give the adapters something to add."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


TOKENS = torch.randint(VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("choice", CHOICES)
def test_a_model_with_new_adapters_computes_what_it_did(choice: dict[str, Any]) -> None:
    base, model = make_model(choice)
    torch.testing.assert_close(model(TOKENS), base(TOKENS))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("known", [KNOWN, VOCABULARY])
def test_merged_weights_compute_what_the_adapters_do(choice: dict[str, Any], known: int) -> None:
    base, model = make_model(choice, known)
    train_a_little(model)
    merged = merged_model(model)
    assert merged.state_dict().keys() == base.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(merged(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged(TOKENS), base(TOKENS), atol=1e-2)
    said = list(generate_tokens(merged, [[1, 2]], Sampling(3, temperature=0.0)))
    with torch.no_grad():
        assert said[0][0] == int(model(torch.tensor([[1, 2]]))[0, -1].argmax())


@pytest.mark.parametrize("choice", CHOICES)
def test_only_adapters_and_rows_of_new_tokens_learn(choice: dict[str, Any]) -> None:
    base, model = make_model(choice)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    loss, _ = model(TOKENS, TOKENS.roll(-1, 1))
    loss.backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert (
        learning == adapter_weights(model).keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= learning
    assert "tok_emb.new" in changed
    merged = merged_model(model.eval())
    assert torch.equal(merged.tok_emb.weight[:KNOWN], base.tok_emb.weight[:KNOWN])


def test_every_linear_layer_of_the_blocks_has_adapters_and_they_are_few() -> None:
    base, model = make_model({"position": "rotary", "activation": "swiglu"}, VOCABULARY)
    linears = [module for module in base.trf_blocks.modules() if isinstance(module, torch.nn.Linear)]
    found = [module for module in model.trf_blocks.modules() if isinstance(module, LoraLinear)]
    assert len(found) == len(linears) == 2 * 7
    added = sum(tensor.numel() for tensor in adapter_weights(model).values())
    assert added == sum(3 * (each.in_features + each.out_features) for each in linears)
    assert all(torch.equal(module.lora_B, torch.zeros_like(module.lora_B)) for module in found)
