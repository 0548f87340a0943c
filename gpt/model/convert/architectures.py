"""Which architecture of transformers computes the same as a GPTModel, and how it names settings and weights.

One table for both directions of huggingface.py. Each row was compared with transformers' own class, logit by logit.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from gpt.model.transformer import GPTConfig

Modules = dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Architecture:
    """One architecture of transformers: which of our choices it computes, and what it calls settings and weights."""

    model_type: str
    class_name: str
    choices: dict[str, tuple[Any, ...]]
    "What our settings may be there, the usual first; one that is not named may be anything."
    settings: dict[str, str]
    "Their settings, and what of GPTConfig they hold."
    constants: dict[str, Any]
    "Their settings of which we have one value only."
    defaults: dict[str, Any]
    "What a setting means that is not in config.json, where that is not what we have."
    modules: Modules
    "Their modules ({}: the layer's number), and which of ours they hold, one below the other."
    prefix: str = "model."
    "Before the names of all modules but the head."
    activation: str = "hidden_act"
    width: str = "intermediate_size"
    dropout: tuple[str, ...] = ("attention_dropout",)
    biased: str = "$^"
    "Their modules, as a regular expression, that have a bias even if ours do not; one of zeros adds nothing."
    transposed: tuple[str, ...] = ()
    "Ends of the names of their weights that are (in, out), not (out, in) as nn.Linear's."

    def obstacles(self, config: GPTConfig) -> list[str]:
        """Say for each of our settings that this architecture does not have what it has instead."""
        if config.kv_heads == config.n_head:
            config = replace(config, n_kv_head=0)
        return [
            f"{name} {' or '.join(map(str, allowed))}, not {getattr(config, name)}"
            for name, allowed in self.choices.items()
            if getattr(config, name) not in allowed
        ]

    def describe(self, config: GPTConfig, ours: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Return all of their settings that decide what a model computes."""
        activation = next(theirs for theirs, name in ACTIVATIONS.items() if name == config.activation)
        middle = {self.activation: activation, self.width: ours["trf_blocks.0.ff.expand.weight"].shape[0]}
        return {theirs: getattr(config, name) for theirs, name in self.settings.items()} | middle | self.constants

    def pairs(self, n_layer: int, ours: Container[str]) -> list[tuple[str, list[str]]]:
        """Pair the names of their tensors with the names of ours that they hold."""
        pairs: list[tuple[str, list[str]]] = []
        for module, parts in self.modules.items():
            for layer in range(n_layer if "{}" in module else 1):
                theirs = ("" if module == "lm_head" else self.prefix) + module.format(layer)
                for suffix, synonym in (("weight", "scale"), ("bias", "shift")):
                    names = [f"{part.format(layer)}.{end}" for part in parts for end in (suffix, synonym)]
                    if held := [name for name in names if name in ours]:
                        pairs.append((f"{theirs}.{suffix}", held))
        return pairs


ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu2": "relu2", "silu": "swiglu"}
# What old checkpoints hold beside weights: the causal mask, the rotary frequencies.
BUFFERS = re.compile(r"(.+\.)?(attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)")


def _modules(rest: Mapping[str, str], layers: str, block: Mapping[str, str]) -> Modules:
    inside = {
        f"{layers}.{{}}.{theirs}": tuple(f"trf_blocks.{{}}.{part}" for part in ours.split())
        for theirs, ours in block.items()
    }
    return {theirs: (ours,) for theirs, ours in rest.items()} | inside | {"lm_head": ("out_head",)}


GPT2 = Architecture(
    "gpt2",
    "GPT2LMHeadModel",
    choices={
        "norm": ("layernorm",),
        "position": ("learned", "sinusoidal"),
        "activation": ("gelu", "relu2"),
        "n_kv_head": (0,),
        "qk_norm": (False,),
    },
    settings={
        "vocab_size": "vocab_size",
        "n_positions": "block_size",
        "n_embd": "n_embd",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "tie_word_embeddings": "tie_embeddings",
    },
    constants={
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    defaults={"tie_word_embeddings": True, "activation_function": "gelu_new"},
    modules=_modules(
        {"wte": "tok_emb", "wpe": "pos_emb", "ln_f": "final_norm"},
        "h",
        {
            "ln_1": "norm1",
            "attn.c_attn": "att.W_query att.W_key att.W_value",
            "attn.c_proj": "att.out_proj",
            "ln_2": "norm2",
            "mlp.c_fc": "ff.expand",
            "mlp.c_proj": "ff.out_proj",
        },
    ),
    prefix="transformer.",
    activation="activation_function",
    width="n_inner",
    dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    biased=r".*\b(ln_.|c_attn|c_proj|c_fc)",
    transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
)


def _like_llama(
    model_type: str, class_name: str, block: Mapping[str, str], choices: Mapping[str, tuple[Any, ...]], **more: Any
) -> Architecture:
    """Return an architecture with rotary positions and, where `block` and `more` do not say otherwise, Llama's names."""
    settings = {
        "vocab_size": "vocab_size",
        "max_position_embeddings": "block_size",
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "kv_heads",
        "head_dim": "head_size",
        "tie_word_embeddings": "tie_embeddings",
    }
    attention = {
        "self_attn.q_proj": "att.W_query",
        "self_attn.k_proj": "att.W_key",
        "self_attn.v_proj": "att.W_value",
        "self_attn.o_proj": "att.out_proj",
    }
    return Architecture(
        model_type,
        class_name,
        choices={"position": ("rotary",), "qk_norm": (False,)} | dict(choices),
        settings=settings | more.pop("settings", {}),
        constants={"rope_theta": 10_000.0, "rope_type": "default"} | more.pop("constants"),
        defaults={"tie_word_embeddings": False} | more.pop("defaults", {}),
        modules=_modules({"embed_tokens": "tok_emb", "norm": "final_norm"}, "layers", attention | dict(block)),
        **more,
    )


_NORMS = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
_QK_NORM = {"self_attn.q_norm": "att.query_norm", "self_attn.k_norm": "att.key_norm"}
_GATED = {"mlp.gate_proj": "ff.gate", "mlp.up_proj": "ff.expand", "mlp.down_proj": "ff.out_proj"}
_PLAIN = {"mlp.up_proj": "ff.expand", "mlp.down_proj": "ff.out_proj"}
_RMS = {"norm": ("rmsnorm",)}
_LAYER = {"norm": ("layernorm",)}
_NO_BIAS = {"bias": (False,)}
_SWIGLU = {"activation": ("swiglu",)}
_SIMPLE = {"activation": ("relu2", "gelu")}
_EPS = {"rms_norm_eps": 1e-5}
_OTHER_EPS = {"rms_norm_eps": 1e-6}
_BIASES = {"attention_bias": "bias", "mlp_bias": "bias"}
_ABSENT_BIASES = {"attention_bias": False, "mlp_bias": False}

ARCHITECTURES = (
    GPT2,
    _like_llama(
        "llama", "LlamaForCausalLM", _NORMS | _GATED, _RMS | _SWIGLU,
        settings=_BIASES, constants=_EPS, defaults=_OTHER_EPS | _ABSENT_BIASES,
    ),
    _like_llama(
        "qwen3", "Qwen3ForCausalLM", _NORMS | _GATED | _QK_NORM, _RMS | _SWIGLU | _NO_BIAS | {"qk_norm": (True,)},
        constants=_EPS | {"attention_bias": False, "use_sliding_window": False}, defaults=_OTHER_EPS | {"head_dim": 128},
    ),
    _like_llama(
        "arcee", "ArceeForCausalLM", _NORMS | _PLAIN, _RMS | _SIMPLE,
        settings=_BIASES, constants=_EPS, defaults=_ABSENT_BIASES | {"hidden_act": "relu2"},
    ),
    _like_llama(
        "apertus", "ApertusForCausalLM",
        {"attention_layernorm": "norm1", "feedforward_layernorm": "norm2"} | _PLAIN | _QK_NORM,
        _RMS | _SIMPLE | _NO_BIAS | {"qk_norm": (True,)},
        constants=_EPS | {"attention_bias": False}, defaults={"hidden_act": "xielu", "rope_theta": 12_000_000.0},
    ),
    _like_llama(
        "starcoder2", "Starcoder2ForCausalLM",
        _NORMS | {"mlp.c_fc": "ff.expand", "mlp.c_proj": "ff.out_proj"}, _LAYER | _SIMPLE,
        settings={"use_bias": "bias"}, constants={"norm_epsilon": 1e-5, "sliding_window": None},
        defaults={"use_bias": True, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
        dropout=("residual_dropout", "embedding_dropout", "attention_dropout"), biased=".*norm",
    ),
    _like_llama(
        "stablelm", "StableLmForCausalLM", _NORMS | _GATED, _LAYER | _SWIGLU | _NO_BIAS,
        constants={
            "layer_norm_eps": 1e-5, "use_qkv_bias": False, "qk_layernorm": False, "use_parallel_residual": False,
            "partial_rotary_factor": 1.0,
        },
        defaults={"partial_rotary_factor": 0.25}, dropout=("hidden_dropout", "attention_dropout"), biased=".*norm",
    ),
)  # fmt: skip
ROPE = ("rope_type", "rope_theta", "partial_rotary_factor")
