"""Compared with transformers itself: its classes are the reference for logits, its tokenizers for ids."""

import ast
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt.commands.main import main
from gpt.files import sha256_tree, write_json
from gpt.model.convert.architectures import ARCHITECTURES
from gpt.model.convert.huggingface import export_huggingface
from gpt.model.storage import load_model, save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.tokens import Tokenizer
from gpt.tokens.tokenizer import END_OF_TEXT, GPT2_PATTERN, build_tokenizer, load_tokenizer
from tests import ROOT

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

WORDS = [
    "the",
    "queen",
    "don't",
    "I'LL",
    "über-naïve",
    "Ωmega",
    "漢字",
    "42",
    "1999",
    "3.14",
    "😀",
    "e\u0301te\u0301",
    "\u200dzwj",
]
DOCUMENTS = [" ".join(random.Random(seed).choices(WORDS, k=80)) + "\n\n  End.\n" for seed in range(20)]
DOCUMENTS += [file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("gpt/**/*.py"))]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Our tokenizer folders: bpe, char, and one that cuts text as GPT-2's does (its own ranks would need the network)."""
    folder = tmp_path_factory.mktemp("tokenizers")
    build_tokenizer(
        Tokenizer(kind="bpe", vocab_size=900, train_bytes=10**9, special_tokens=()), DOCUMENTS, folder / "bpe"
    )
    build_tokenizer(
        Tokenizer(kind="char", vocab_size=900, train_bytes=10**9, special_tokens=()), DOCUMENTS, folder / "char"
    )
    build_tokenizer(
        Tokenizer(kind="bpe", vocab_size=1000, train_bytes=10**9, special_tokens=()), DOCUMENTS, folder / "gpt2"
    )
    change_json(folder / "gpt2" / "tokenizer.json", kind="gpt2", pattern=GPT2_PATTERN)
    return {kind: folder / kind for kind in ("bpe", "char", "gpt2")}


@pytest.fixture(scope="module")
def exported(tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Hugging Face folder for each kind of tokenizer. To copy, not to change."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in tokenizers:
        make_model(folder / f"{kind}-model", tokenizers[kind])
        export_huggingface(folder / f"{kind}-model", folder / kind)
    return {kind: folder / kind for kind in tokenizers}


def change_json(file: Path, **values: Any) -> None:
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | values)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Give every weight, bias and norm a value of its own, so that none can be forgotten or swapped unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)


def make_model(folder: Path, tokenizer: Path, seed: int = 0, **choices: Any) -> GPTModel:
    size: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24}
    model = GPTModel(GPTConfig(load_tokenizer(tokenizer).n_vocab, **size | choices)).eval()
    randomise(model, seed)
    save_model(model, tokenizer, folder)
    return model


def some_tokens(model: GPTModel) -> torch.Tensor:
    shape = (3, model.config.block_size)
    return torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def logits_of_ours(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return load_model(folder)[0](tokens)


def logits_of_theirs(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    assert not any(report.values()), report  # nothing missing, nothing left over
    with torch.no_grad():
        return model.eval()(tokens).logits


def assert_same(logits: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.01  # or any two would be alike
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0.0)


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


# Models


@pytest.mark.parametrize("seed", range(5))
def test_gpt2_of_hugging_face_is_ours_logit_for_logit_and_back(
    tmp_path: Path, exported: dict[str, Path], seed: int
) -> None:
    pick = random.Random(seed)
    n_head = pick.choice([1, 2, 3, 6])
    config = transformers.GPT2Config(
        vocab_size=1000,
        n_positions=pick.randint(8, 40),
        n_embd=n_head * pick.choice([4, 5, 16]),
        n_layer=pick.randint(1, 4),
        n_head=n_head,
        activation_function=pick.choice(["gelu_new", "gelu_pytorch_tanh", "relu2"]),
        tie_word_embeddings=pick.random() < 0.7,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    randomise(theirs, seed)
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(exported["gpt2"]).save_pretrained(tmp_path / "theirs")

    assert run("import", "--from", "huggingface", tmp_path / "theirs", "--output", tmp_path / "ours") == 0
    model, _ = load_model(tmp_path / "ours")
    tokens = some_tokens(model)
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert_same(logits_of_ours(tmp_path / "ours", tokens), expected)

    export_huggingface(tmp_path / "ours", tmp_path / "again")
    assert_same(logits_of_theirs(tmp_path / "again", tokens), expected)
    before, after = load_file(tmp_path / "theirs/model.safetensors"), load_file(tmp_path / "again/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


ROTARY = {"position": "rotary", "n_kv_head": 2}
RMS = {"norm": "rmsnorm", **ROTARY}
EXPORTS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"bias": False, "n_kv_head": 4}),
    ("gpt2", {"activation": "relu2", "tie_embeddings": False}),
    ("gpt2", {"pad_vocab": 128}),
    ("gpt2", {"pad_vocab": 128, "tie_embeddings": False}),
    ("gpt2", {"position": "sinusoidal", "n_embd": 20}),
    ("llama", {"activation": "swiglu", "bias": False, **RMS}),
    ("llama", {"activation": "swiglu", "n_embd": 24, "tie_embeddings": False, "norm": "rmsnorm", "position": "rotary"}),
    ("qwen3", {"activation": "swiglu", "bias": False, "qk_norm": True, **RMS}),
    ("arcee", {"activation": "relu2", "bias": False, **RMS}),
    ("arcee", {"activation": "gelu", "tie_embeddings": False, **RMS}),
    ("apertus", {"activation": "relu2", "bias": False, "qk_norm": True, **RMS}),
    ("apertus", {"activation": "gelu", "bias": False, "qk_norm": True, "tie_embeddings": False, **RMS}),
    ("starcoder2", {"activation": "gelu", **ROTARY}),
    ("starcoder2", {"activation": "relu2", "bias": False, "tie_embeddings": False, **ROTARY}),
    ("stablelm", {"activation": "swiglu", "bias": False, **ROTARY}),
]


@pytest.mark.parametrize(("model_type", "choices"), EXPORTS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_transformers_can_compute_it_computes_alike(
    tmp_path: Path, tokenizers: dict[str, Path], model_type: str, choices: dict[str, Any]
) -> None:
    model = make_model(tmp_path / "ours", tokenizers["bpe"], **choices)
    tokens = some_tokens(model)
    expected = logits_of_ours(tmp_path / "ours", tokens)

    assert export_huggingface(tmp_path / "ours", tmp_path / "theirs").model_type == model_type
    assert (
        len({file.stat().st_mode for file in (tmp_path / "theirs").iterdir()}) == 1
    )  # the weights can be read by others too
    assert_same(logits_of_theirs(tmp_path / "theirs", tokens), expected)
    text = DOCUMENTS[0]
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")(text)["input_ids"]
    ours = load_tokenizer(tokenizers["bpe"])
    assert ids == [ours.eot_token, *ours.encode_ordinary(text)]

    # transformers writes its own kind of config.json and names; those come back too.
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "saved")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "saved")
    for folder in ("theirs", "saved"):
        assert run("import", tmp_path / folder, "--output", tmp_path / "back" / folder) == 0
        assert_same(logits_of_ours(tmp_path / "back" / folder, tokens), expected)


def test_every_architecture_of_the_table_is_compared() -> None:
    assert {model_type for model_type, _ in EXPORTS} == {architecture.model_type for architecture in ARCHITECTURES}


@pytest.mark.parametrize(
    ("named", "choices"),
    [
        ("gpt2 has norm layernorm, not rmsnorm", {"norm": "rmsnorm"}),
        ("gpt2 has activation gelu or relu2, not swiglu", {"activation": "swiglu"}),
        ("gpt2 has n_kv_head 0, not 2; starcoder2 has position rotary, not learned", {"n_kv_head": 2}),
        ("starcoder2 has qk_norm False, not True", {"qk_norm": True, "position": "rotary"}),
        ("arcee has position rotary, not sinusoidal", {**RMS, "position": "sinusoidal"}),
        ("stablelm has bias False, not True", {**ROTARY, "activation": "swiglu"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_architecture_computes_is_refused_by_name(
    tmp_path: Path,
    tokenizers: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    named: str,
    choices: dict[str, Any],
) -> None:
    make_model(tmp_path / "ours", tokenizers["bpe"], **choices)
    monkeypatch.chdir(ROOT)  # for params.yaml
    assert run("export", "--model", tmp_path / "ours", tmp_path / "theirs") == 2
    assert named in one_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_project_exports_its_model_and_imports_it_again(
    trained_project: Path, copy_project: Callable[..., Path]
) -> None:
    copy_project(trained_project)
    assert run("export", "--format", "huggingface", "theirs") == 0
    assert run("import", "--from", "huggingface", "theirs") == 0
    before, encoding = load_model(Path("models/base"))
    after, encoding_after = load_model(Path("models/imported"))
    assert encoding_after.name == encoding.name
    tokens = some_tokens(before)
    with torch.no_grad():
        assert_same(after(tokens), before.eval()(tokens))


def old_names(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """GPT-2's first files: no prefix, the causal mask among the weights, the tied head written out."""
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(24, 24).tril()[None, None]
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors | {"lm_head.weight": tensors["wte.weight"].clone()}, folder / "model.safetensors")


def in_parts(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    (folder / "model.safetensors").unlink()
    where = {name: f"model-0000{1 + number % 3}-of-00003.safetensors" for number, name in enumerate(tensors)}
    for part in set(where.values()):
        save_file({name: tensor for name, tensor in tensors.items() if where[name] == part}, folder / part)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})


def least_config(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """What transformers would assume anyway need not be said."""
    sizes = ("model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {key: config[key] for key in sizes} | {"n_inner": None, "n_ctx": 24})


def old_tokenizer(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The tokenizer.json of GPT-2's own page: what later versions of the library added is not in it."""
    value = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for part, key in (
        ("model", "type"),
        ("model", "byte_fallback"),
        ("model", "ignore_merges"),
        ("pre_tokenizer", "use_regex"),
    ):
        del value[part][key]
    value["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    write_json(folder / "tokenizer.json", value)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')


@pytest.mark.parametrize("change", [old_names, in_parts, least_config, old_tokenizer])
def test_gpt2_is_read_in_every_form_it_comes_in(
    tmp_path: Path, exported: dict[str, Path], change: Callable[[Path, dict[str, torch.Tensor]], None]
) -> None:
    folder = copy_of(exported["gpt2"], tmp_path / "theirs")
    change(folder, load_file(folder / "model.safetensors"))
    assert run("import", folder, "--output", tmp_path / "ours") == 0
    tokens = some_tokens(load_model(tmp_path / "ours")[0])
    original = exported["gpt2"].parent / "gpt2-model"
    assert_same(logits_of_ours(tmp_path / "ours", tokens), logits_of_ours(original, tokens))
    assert sha256_tree(tmp_path / "ours/tokenizer") == sha256_tree(original / "tokenizer")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(tmp_path: Path, exported: dict[str, Path], dtype: torch.dtype) -> None:
    folder = copy_of(exported["gpt2"], tmp_path / "theirs")
    halves = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    assert run("import", folder, "--output", tmp_path / "ours") == 0
    ours = load_file(tmp_path / "ours/model.safetensors")
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    assert torch.equal(ours["tok_emb.weight"], halves["transformer.wte.weight"].float())


# Tokenizers


def random_text(pick: random.Random) -> str:
    """Text that a tokenizer can stumble over, from every plane of Unicode, without surrogates (they are no text)."""
    pieces: list[Callable[[], str]] = [
        lambda: pick.choice(WORDS),
        lambda: "".join(pick.choices(" \t\n\r\u00a0\u3000\u2028\u0085\u000b", k=pick.randint(1, 6))),
        lambda: pick.choice(["\n", "\r\n", "\n\n", "  \n", " \n ", "."]) * pick.randint(1, 3),
        lambda: "".join(pick.choices("0123456789٣५𝟗Ⅷ½²", k=pick.randint(1, 7))),
        lambda: "'" + pick.choice(["s", "S", "ſ", "ll", "lL", "VE", "re", "d", "M", "t", "x", ""]),
        lambda: (
            pick.choice(["e", "a", " "]) + "".join(pick.choices("\u0301\u0308\u0335\u20e3\ufe0f", k=pick.randint(1, 4)))
        ),
        lambda: "".join(chr(pick.randrange(0x4E00, 0x9FFF)) for _ in range(pick.randint(1, 4))),
        lambda: pick.choice(["👩\u200d👩\u200d👧", "🏳️\u200d🌈", "🇩🇪", "😀😀", "👍🏽"]),
        lambda: pick.choice(
            [END_OF_TEXT, "<|", "|>", "\ufeff", "\0", "\ufffd", "\U0010ffff", "-" * 70, "aaaa" * 40, " " * 90]
        ),
        lambda: "".join(pick.choices("!?.,;:-_()[]{}<>|/\\\"'`~@#$%^&*+=", k=pick.randint(1, 6))),
        lambda: "".join(map(any_character, range(pick.randint(1, 6)))),
    ]

    def any_character(_: int) -> str:
        while (
            0xD800
            <= (code := pick.choice([pick.randrange(0x300), pick.randrange(0x10000), pick.randrange(0x110000)]))
            < 0xE000
        ):
            pass
        return chr(code)

    return "".join(pick.choice(pieces)() for _ in range(pick.randint(0, 12)))


@pytest.mark.parametrize("kind", ["bpe", "char", "gpt2"])
def test_their_tokenizer_gives_the_same_ids_for_any_text(
    tokenizers: dict[str, Path], exported: dict[str, Path], kind: str
) -> None:
    ours, theirs = load_tokenizer(tokenizers[kind]), transformers.AutoTokenizer.from_pretrained(exported[kind])
    pick = random.Random(0)
    texts = [random_text(pick) for _ in range(10_000)]
    expected = [ours.encode_ordinary(text) for text in texts]
    found = theirs(texts, add_special_tokens=False)["input_ids"]
    assert [text for text, a, b in zip(texts, expected, found, strict=True) if a != b] == []
    assert [theirs.decode(ids) for ids in found] == texts
    assert (len(theirs), theirs.eos_token_id, theirs.bos_token_id) == (ours.n_vocab, ours.eot_token, ours.eot_token)


@pytest.mark.parametrize("kind", ["bpe", "char", "gpt2"])
def test_a_tokenizer_comes_back_the_same(
    tmp_path: Path, tokenizers: dict[str, Path], exported: dict[str, Path], kind: str
) -> None:
    assert run("import", exported[kind], "--output", tmp_path / "ours") == 0
    assert sha256_tree(tmp_path / "ours/tokenizer") == sha256_tree(tokenizers[kind])


def test_gpt2s_vocab_and_merges_give_the_ids_of_their_own_tokenizer(tmp_path: Path, exported: dict[str, Path]) -> None:
    folder = copy_of(exported["gpt2"], tmp_path / "theirs")
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(model["merges"]) + "\n", encoding="utf-8")
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder)
    assert run("import", folder, "--output", tmp_path / "ours") == 0
    ours = load_tokenizer(tmp_path / "ours/tokenizer")
    pick = random.Random(1)
    texts = [random_text(pick).replace(END_OF_TEXT, "") for _ in range(500)]
    assert theirs(texts)["input_ids"] == [ours.encode_ordinary(text) for text in texts]
    assert ours.eot_token == theirs.eos_token_id


# Bad input


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    return line


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", **values)


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(value)
        write_json(folder / "tokenizer.json", value)

    return apply


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder.parent / "evil",)

    (folder / "model.safetensors").unlink()
    torch.save({"wte.weight": Evil()}, folder / "pytorch_model.bin")


def outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"wte.weight": "../elsewhere.safetensors"}})


def cut_off(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def swap_merges(value: dict[str, Any]) -> None:
    merges = value["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


BAD: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "another model": ("config.json: model_type is 'bert'", config(model_type="bert")),
    "no model type": ("config.json: has no model_type", lambda folder: write_json(folder / "config.json", {})),
    "another activation": ("activation_function is 'gelu'", config(activation_function="gelu")),
    "another epsilon": ("layer_norm_epsilon is 1e-06", config(layer_norm_epsilon=1e-6)),
    "scores by layer": ("scale_attn_by_inverse_layer_idx is True", config(scale_attn_by_inverse_layer_idx=True)),
    "scores unscaled": ("scale_attn_weights is False", config(scale_attn_weights=False)),
    "another width": ("n_inner is 64", config(n_inner=64)),
    "cross attention": ("add_cross_attention is True", config(add_cross_attention=True)),
    "quantized": ("quantization_config is {'bits': 4}", config(quantization_config={"bits": 4})),
    "a size that is none": ("n_embd is '32', not a number", config(n_embd="32")),
    "no layers": ("n_layer is 0, not a number above 0", config(n_layer=0)),
    "heads that do not fit": ("its sizes do not fit each other", config(n_head=5)),
    "tied or not": ("tie_word_embeddings is 'yes', not true or false", config(tie_word_embeddings="yes")),
    "another vocabulary": ("vocab_size is 1008, but the tokenizer has 1000", config(vocab_size=1008)),
    "no config": ("config.json: not found", remove("config.json")),
    "config is no JSON": ("config.json: not valid JSON", lambda folder: (folder / "config.json").write_text("{")),
    "no weights": ("model.safetensors: not found", remove("model.safetensors")),
    "weights cut off": ("model.safetensors: damaged", cut_off),
    "a pickle": ("pytorch_model.bin: a pickle", pickled),
    "weights elsewhere": ("model.safetensors.index.json: weight_map does not name files", outside),
    "a weight missing": (
        "has no weight transformer.h.1.mlp.c_fc.bias",
        weights(lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.bias")),
    ),
    "a weight too much": (
        "weight transformer.h.2.ln_1.weight is unknown",
        weights(lambda tensors: tensors.update({"transformer.h.2.ln_1.weight": torch.ones(32)})),
    ),
    "another shape": (
        "weight transformer.wpe.weight is float32 [23, 32], its config.json means floats [24, 32]",
        weights(lambda tensors: tensors.update({"transformer.wpe.weight": torch.ones(23, 32)})),
    ),
    "whole numbers": (
        "weight transformer.ln_f.weight is int8 [32]",
        weights(lambda tensors: tensors.update({"transformer.ln_f.weight": torch.ones(32, dtype=torch.int8)})),
    ),
    "a head that is not tied": (
        "weight lm_head.weight is not the embedding",
        weights(lambda tensors: tensors.update({"lm_head.weight": torch.ones(1000, 32)})),
    ),
    "no tokenizer": ("tokenizer.json: not found", remove("tokenizer.json")),
    "half a tokenizer": (
        "merges.txt: not found",
        lambda folder: (folder / "tokenizer.json").rename(folder / "vocab.json"),
    ),
    "a tokenizer of nothing": (
        "tokenizer.json: not a byte-level BPE",
        lambda folder: write_json(folder / "tokenizer.json", {}),
    ),
    "another kind of tokenizer": (
        "model.type is WordPiece",
        tokenizer(lambda value: value["model"].update(type="WordPiece")),
    ),
    "normalised text": (
        "normalizer is {'type': 'NFC'}",
        tokenizer(lambda value: value.update(normalizer={"type": "NFC"})),
    ),
    "another way to cut": (
        "pre_tokenizer is {'type': 'Whitespace'}",
        tokenizer(lambda value: value.update(pre_tokenizer={"type": "Whitespace"})),
    ),
    "a space before": (
        "tokenizer_config.json: add_prefix_space is true",
        lambda folder: change_json(folder / "tokenizer_config.json", add_prefix_space=True),
    ),
    "words added": (
        "added_tokens.special is False",
        tokenizer(lambda value: value["added_tokens"].append({"id": 1000, "content": "queen", "special": False})),
    ),
    "merges in disorder": ("merges are not in the order", tokenizer(swap_merges)),
    "a byte missing": (
        "has no token for byte 33",
        tokenizer(lambda value: value["model"]["vocab"].update({"ĠÿĠ": value["model"]["vocab"].pop("!")})),
    ),
    "an id twice": ("ids are not 0, 1, 2", tokenizer(lambda value: value["model"]["vocab"].update({"!": 40}))),
    "no end of text": (
        "has no special token <|endoftext|>",
        tokenizer(lambda value: value.update(no_end_of_text(value))),
    ),
}


def no_end_of_text(value: dict[str, Any]) -> dict[str, Any]:
    value["added_tokens"][0]["content"] = "</s>"
    del value["model"]["vocab"][END_OF_TEXT]
    return value


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_one_clear_error_and_writes_nothing(
    tmp_path: Path, exported: dict[str, Path], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    expected, damage = BAD[case]
    folder = copy_of(exported["gpt2"], tmp_path / "theirs")
    damage(folder)
    before = {path.name for path in tmp_path.iterdir()}
    assert run("import", "--from", "huggingface", folder, "--output", tmp_path / "made" / "ours") == 2
    assert expected in one_error(capsys)
    assert {path.name for path in tmp_path.iterdir()} == before


LLAMA_BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "another base": ("rope_theta is 500000.0", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "an old form of it": ("rope_theta is 500000.0", {"rope_parameters": None, "rope_theta": 5e5}),
    "stretched positions": (
        "rope_type is 'linear'",
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    "another epsilon": ("rms_norm_eps is 1e-06", {"rms_norm_eps": None}),
    "biases here and not there": ("attention_bias is False", {"attention_bias": False, "mlp_bias": True}),
    "another head size": ("head_dim is 16", {"head_dim": 16}),
    "another width": ("intermediate_size is 90", {"intermediate_size": 90}),
}


@pytest.mark.parametrize("case", LLAMA_BAD)
def test_a_llama_that_is_not_ours_is_refused_by_name(
    tmp_path: Path, tokenizers: dict[str, Path], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    expected, change = LLAMA_BAD[case]
    make_model(tmp_path / "ours", tokenizers["bpe"], activation="swiglu", bias=False, **RMS)
    export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    change_json(tmp_path / "theirs" / "config.json", **change)
    assert run("import", tmp_path / "theirs", "--output", tmp_path / "back") == 2
    assert expected in one_error(capsys)
    assert not (tmp_path / "back").exists()


def test_a_bias_that_is_not_ours_is_dropped_only_if_it_is_zero(
    tmp_path: Path, tokenizers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(tmp_path / "ours", tokenizers["bpe"], activation="gelu", bias=False, **ROTARY)
    export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    name = "model.layers.1.input_layernorm.bias"
    weights(lambda tensors: tensors[name][7].fill_(0.5))(tmp_path / "theirs")
    assert run("import", tmp_path / "theirs", "--output", tmp_path / "back") == 2
    assert f"weight {name} is unknown to GPTModel" in one_error(capsys)
    weights(lambda tensors: tensors[name].zero_())(tmp_path / "theirs")
    assert run("import", tmp_path / "theirs", "--output", tmp_path / "back") == 0


def test_a_setting_that_is_not_said_means_what_transformers_takes_it_for(
    tmp_path: Path, tokenizers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(tmp_path / "ours", tokenizers["bpe"], activation="gelu", bias=False, qk_norm=True, **RMS)
    export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    change_json(tmp_path / "theirs" / "config.json", hidden_act=None)
    assert run("import", tmp_path / "theirs", "--output", tmp_path / "back") == 2
    assert "hidden_act is 'xielu'" in one_error(capsys)


@pytest.mark.parametrize("command", ["import", "export"])
@pytest.mark.parametrize("obstacle", ["a folder with a file", "a file", "a link"])
def test_what_is_in_the_way_stays_as_it_is(
    tmp_path: Path,
    exported: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    obstacle: str,
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("years of work")
    match obstacle:
        case "a folder with a file":
            target = tmp_path / "there"
        case "a file":
            target = tmp_path / "there" / "thesis.txt"
        case _:
            target = tmp_path / "link"
            target.symlink_to(tmp_path / "there")
    monkeypatch.chdir(ROOT)
    ours = exported["gpt2"].parent / "gpt2-model"
    arguments = ["--output", target, exported["gpt2"]] if command == "import" else ["--model", ours, target]
    assert run(command, *arguments) == 2
    assert f"error: {target}: is there already" in one_error(capsys)
    assert (tmp_path / "there" / "thesis.txt").read_text() == "years of work"


def test_a_model_that_cannot_be_exported_leaves_nothing(
    tmp_path: Path, tokenizers: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "ours", tokenizers["bpe"])
    change_json(tmp_path / "ours/tokenizer/tokenizer.json", pattern=r"\p{L}{1}+|(?s:.)")  # letters; in Oniguruma words
    monkeypatch.chdir(ROOT)
    assert run("export", "--model", tmp_path / "ours", tmp_path / "theirs") == 2
    assert "its pattern cuts" in one_error(capsys)
    assert run("export", "--model", tmp_path / "nothing", tmp_path / "theirs") == 2
    assert "nothing/config.json: not found" in one_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_no_production_code_imports_a_library_of_hugging_faces_models() -> None:
    for file in ROOT.glob("gpt/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.split(".")[0] for name in names} & {"transformers", "tokenizers"}
            assert not found or (found == {"tokenizers"} and file.match("gpt/tokens/kinds/huggingface.py")), file
