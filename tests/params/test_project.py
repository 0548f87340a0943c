import copy
import re
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from gpt.errors import UserError
from gpt.params.project import Params, load_params
from tests import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
VALUES: dict[str, Any] = YAML(typ="safe", pure=True).load(TEXT)
HASH = "0" * 64


def load(tmp_path: Path, text: str) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path)


def load_values(tmp_path: Path, values: object) -> Params:
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(values, file)
    return load_params(tmp_path / "params.yaml")


def faults(tmp_path: Path, values: object) -> list[str]:
    """Return the lines of the error, without the file's folder."""
    with pytest.raises(UserError) as caught:
        load_values(tmp_path, values)
    return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    for section, keys in sections.items():
        values[section] |= keys
    return values


def key_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from key_paths(value[key], (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            for key in item:
                yield from key_paths(item[key], (*path, number, key))


def test_the_repositorys_own_params_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.section("register") == VALUES["register"]


def test_a_section_is_the_values_of_the_file() -> None:
    params = load_params(ROOT / "params.yaml")
    assert {name: params.section(name) for name in VALUES} == VALUES


@pytest.mark.parametrize("place", list(key_paths(VALUES)), ids=lambda place: ".".join(map(str, place)))
def test_every_value_is_required(tmp_path: Path, place: tuple[Any, ...]) -> None:
    values = copy.deepcopy(VALUES)
    holder = values
    for key in place[:-1]:
        holder = holder[key]
    del holder[place[-1]]
    (line,) = faults(tmp_path, values)
    if place[-2:-1] == ("min_improvement",):  # one metric has to be there, whichever
        assert line.startswith("params.yaml: register.gate.min_improvement = {}: must name at least one metric")
    else:
        assert line.startswith(f"params.yaml: {'.'.join(map(str, place))} is missing")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("base.name", ""),
        ("base.name", "../elsewhere"),
        ("base.name", 3),
        ("base.seed", -1),
        ("base.seed", 2**63),
        ("base.seed", 1.5),
        ("base.seed", True),
        ("fetch.sources", []),
        ("prepare.engine.kind", "threads"),
        ("prepare.engine.workers", -1),
        ("prepare.engine.memory_gb", 0),
        ("prepare.engine.slurm_time", "soon"),
        ("prepare.shards", 0),
        ("prepare.read.text_field", ""),
        ("prepare.read.pattern", "("),
        ("prepare.read.format", "excel"),
        ("prepare.malformed", "ignore"),
        ("prepare.max_document_bytes", 300_000_001),
        ("prepare.deduplicate.hashes", 0),
        ("prepare.decontaminate.action", "cut"),
        ("prepare.decontaminate.action.benchmarks", "mask"),
        ("prepare.decontaminate.action.held_out", ""),
        ("prepare.decontaminate.max_documents", -1),
        ("prepare.clean.unescape_html", "auto"),
        ("prepare.hold_out", "end"),
        ("prepare.decontaminate.ngram", 1),
        ("prepare.validation_fraction", -0.1),
        ("prepare.validation_fraction", 1),
        ("prepare.test_fraction", -0.1),
        ("prepare.split_seed", -1),
        ("tokenizer.kind", "words"),
        ("tokenizer.train_bytes", 0),
        ("tokenize.shuffle_seed", -1),
        ("tokenizer.vocab_size", 257),
        ("tokenizer.vocab_size", "4096"),
        ("tokenizer.vocab_size", 4096.0),
        ("tokenize.shard_tokens", 1023),
        ("model.n_layer", 0),
        ("model.n_head", -4),
        ("model.n_embd", 0),
        ("model.block_size", 1),
        ("model.dropout", 1),
        ("model.dropout", float("nan")),
        ("model.bias", 1),
        ("model.bias", "no"),
        ("model.position", "absolute"),
        ("model.tie_embeddings", None),
        ("model.n_kv_head", -1),
        ("model.norm", "batchnorm"),
        ("model.activation", "tanh"),
        ("model.qk_norm", 1),
        ("model.init", "xavier"),
        ("train.optimizer", "sgd"),
        ("train.muon_learning_rate", 0),
        ("train.schedule", "linear"),
        ("train.decay_fraction", 0),
        ("train.decay_fraction", 1.5),
        ("train.learning_rate", 0),
        ("train.learning_rate", float("inf")),
        ("train.learning_rate", "fast"),
        ("train.min_lr", -1e-4),
        ("train.warmup_fraction", 1),
        ("train.weight_decay", -0.1),
        ("train.beta1", 1),
        ("train.beta2", -0.1),
        ("train.grad_clip", -1),
        ("train.max_steps", -1),
        ("train.batch_size", 0),
        ("train.log_interval", 0),
        ("train.precision", "fp8"),
        ("train.precision", "auto"),
        ("train.precision", 16),
        ("train.eval_interval", -5),
        ("train.checkpoint_interval", 0),
        ("train.sample_interval", 2.5),
        ("train.benchmark_interval", -1),
        ("evaluate.limit", -1),
        ("evaluate.num_fewshot", "five"),
        ("evaluate.prompts", []),
        ("evaluate.max_new_tokens", 0),
        ("evaluate.temperature", -1),
        ("evaluate.temperatures", 0.5),
        ("evaluate.top_k", -1),
        ("register.name", "a/b"),
        ("register.gate.automatic", "yes"),
        ("register.gate.confidence", 1.0),
        ("register.gate.confidence", 0.1),
        ("register.gate.max_bits_per_byte", 0),
        ("register.gate.min_improvement", {}),
        ("register.gate.max_regression", -0.1),
        ("register.gate.max_contamination", 1.5),
        ("register.gate.max_repetition", -1),
        ("register.gate.max_empty", 2),
        ("register.gate.max_unended", "all"),
        ("register.gate.max_size_mb", -1),
        ("register.gate.max_time_ratio", -0.5),
        ("launch.num_processes", 0),
        ("launch.num_machines", 0),
        ("launch.strategy", "zero"),
        ("launch.compile", "yes"),
        ("launch.compile", 1),
        ("launch.compile", None),
        ("launch.activation_checkpointing", "auto"),
        ("launch.micro_batch_size", 0),
    ],
)
def test_a_wrong_value_is_named_with_its_key(tmp_path: Path, place: str, value: object) -> None:
    values = copy.deepcopy(VALUES)
    *holders, key = place.split(".")
    reduce(getitem, holders, values)[key] = value
    (line,) = faults(tmp_path, values)
    if isinstance(value, list):
        value = ()  # lists of the file are tuples here: nobody can change them
    assert re.match(rf"params\.yaml: {re.escape(place)} = {re.escape(repr(value))}: \S", line.replace("[]", "()")), line


@pytest.mark.parametrize(
    ("section", "key"), [("train", "lerning_rate"), ("base", "device"), ("model", "vocab_size"), ("launch", "url")]
)
def test_an_unknown_key_is_named(tmp_path: Path, section: str, key: str) -> None:
    (line,) = faults(tmp_path, changed(**{section: {key: 3}}))
    assert line.startswith(f"params.yaml: {section}.{key} = 3 is not a known key")


def test_a_metric_that_is_none_is_named_by_its_place(tmp_path: Path) -> None:
    (line,) = faults(
        tmp_path, changed(register={"gate": VALUES["register"]["gate"] | {"min_improvement": {"bpb": 0.0}}})
    )
    assert line.startswith("params.yaml: register.gate.min_improvement.bpb = 'bpb': must be test_bits_per_byte, or")


def test_an_unknown_section_is_named(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, VALUES | {"finetune": {"epochs": 3}})
    assert line.startswith("params.yaml: finetune = {'epochs': 3} is not a known key")


def test_faults_in_a_source_name_the_sources_number_and_key(tmp_path: Path) -> None:
    url = {"name": "web", "kind": "url", "sha256": HASH, "members": [], "licence": "CC0"}
    local = {"name": "disk", "kind": "local", "path": "text", "sha256": HASH.upper() + "G", "licence": "none"}
    lines = faults(tmp_path, changed(fetch={"sources": [url, local | {"branch": "main"}]}))
    assert [line.split(" = ")[0].split(" is ")[0] for line in lines] == [
        "params.yaml: fetch.sources.0.url",
        "params.yaml: fetch.sources.1.sha256",
        "params.yaml: fetch.sources.1.branch",
    ]


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    values = changed(train={"max_steps": -1, "lerning_rate": 1.0}, model={"n_layer": "four"})
    del values["base"]["seed"]
    lines = faults(tmp_path, values)
    keys = ("base.seed", "model.n_layer", "train.max_steps", "train.lerning_rate")
    assert len(lines) == 4
    for line, key in zip(lines, keys, strict=True):
        assert line.startswith(f"params.yaml: {key} ")


WHOLE = {"shakespeare": 1.0}


def mixed(*phases: tuple[int, dict[str, float]]) -> dict[str, Any]:
    return {"train": {"mixture": [{"from_step": step, "shares": shares} for step, shares in phases]}}


@pytest.mark.parametrize(("split", "shares", "told"), [
    ("validation", {"wiki": 0.2, "shakespeare": 0.8}, True), ("test", {"wiki": 1.0}, True),
    ("test", {"wiki": 0.0, "shakespeare": 1.0}, False), ("train", {"wiki": 0.5, "shakespeare": 0.5}, False),
])  # fmt: skip
def test_a_share_for_a_source_that_is_held_out_is_told_before_any_work(
    tmp_path: Path, split: str, shares: dict[str, float], told: bool
) -> None:
    (shakespeare,) = VALUES["fetch"]["sources"]
    sources = [shakespeare, shakespeare | {"name": "wiki"}]
    values = changed(
        fetch={"sources": sources}, prepare={"by_source": {"wiki": {"split": split}}}, **mixed((0, shares))
    )
    if not told:
        assert load_values(tmp_path, values).train.mixture[0].shares == shares
        return
    (line,) = faults(tmp_path, values)
    assert line.startswith(f"params.yaml: train.mixture: wiki is given as {split}")


def test_a_fault_in_a_phase_names_its_number_and_key(tmp_path: Path) -> None:
    phases = [{"from_step": -1, "shares": {"shakespeare": "all"}, "until": 3}, {"shares": WHOLE}]
    lines = faults(tmp_path, changed(train={"mixture": phases}))
    assert [line.split(" = ")[0].split(" is ")[0] for line in lines] == [
        "params.yaml: train.mixture.0.from_step",
        "params.yaml: train.mixture.0.shares.shakespeare",
        "params.yaml: train.mixture.0.until",
        "params.yaml: train.mixture.1.from_step",
    ]


def test_weights_of_tokenize_have_become_the_mixture(tmp_path: Path) -> None:
    values = changed(tokenize={"weights": {"shakespeare": 2.0}})
    del values["train"]["mixture"]
    (line,) = faults(tmp_path, values)
    assert line == (
        "params.yaml: tokenize.weights = {'shakespeare': 2.0}: the key has moved to train.mixture; write it there, with a value"
        " that is allowed there"
    )


def test_a_fault_in_a_tokenizer_of_another_kind_names_its_key(tmp_path: Path) -> None:
    values = copy.deepcopy(VALUES)
    values["tokenizer"] = {
        "kind": "huggingface",
        "file": "",
        "sha256": HASH,
        "special_tokens": [],
        "train_bytes": 1,
        "vocab_size": 9,
    }
    lines = faults(tmp_path, values)
    assert [line.split(" = ")[0].split(" is ")[0] for line in lines] == [
        "params.yaml: tokenizer.file",
        "params.yaml: tokenizer.end_of_text",
        "params.yaml: tokenizer.vocab_size",
    ]
    values["tokenizer"] = {"kind": "sentencepiece"}
    (line,) = faults(tmp_path, values)
    assert line.startswith(
        "params.yaml: tokenizer.kind = 'sentencepiece': must be one of 'bpe', 'gpt2', 'char', 'tiktoken'"
    )
    values["tokenizer"] = {"vocab_size": 300}
    (line,) = faults(tmp_path, values)
    assert line.startswith("params.yaml: tokenizer.kind is missing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"n_embd": 250, "n_head": 4}}, "model: n_embd (250) must be divisible by n_head (4)"),
        (
            {"model": {"n_embd": 12, "n_head": 4, "position": "rotary"}},
            "model: rotary positions need an even head size",
        ),
        ({"model": {"n_head": 6, "n_kv_head": 4}}, "model: n_head (6) must be divisible by n_kv_head (4)"),
        (
            {"train": {"schedule": "wsd", "warmup_fraction": 0.4, "decay_fraction": 0.7}},
            "train: warmup_fraction + decay_fraction (0.4 + 0.7) must not exceed 1",
        ),
        (
            {"train": {"warmup_steps": 20, "warmup_fraction": 0.02}},
            "train: warmup_steps (20) and warmup_fraction (0.02) both say how long the warm-up is; set one of them to 0",
        ),
        (
            {"train": {"warmup_steps": 400, "warmup_fraction": 0.0, "decay_fraction": 0.7, "max_steps": 1000}},
            "train: warmup_steps (400) and the 700 steps of the decay do not fit into max_steps (1000)",
        ),
        (
            {"train": {"max_steps": 0}},
            "train: max_steps = 0: a model from scratch needs training; raise it, or name weights in init_from",
        ),
        (
            {"train": {"init_optimizer": True}},
            "train: init_optimizer is true, and init_from = scratch has no optimizer's state; set it to false",
        ),
        ({"train": {"min_lr": 0.1, "learning_rate": 0.01}}, "train: min_lr (0.1) must not exceed learning_rate (0.01)"),
        (
            {"train": {"batch_size": 24}, "launch": {"micro_batch_size": 16}},
            "train.batch_size (24) must be divisible by",
        ),
        ({"train": {"batch_size": 16}, "launch": {"num_processes": 3, "micro_batch_size": 16}}, "(3 × 1 × 16 = 48)"),
        (
            {"prepare": {"validation_fraction": 0.5, "test_fraction": 0.5}},
            "prepare: validation_fraction + test_fraction",
        ),
        ({"tokenizer": {"kind": "gpt2"}}, "tokenizer: vocab_size of kind gpt2 is 50257"),
        (
            {"tokenizer": {"special_tokens": ["<a>", "<b>", "<a>"]}},
            "tokenizer.special_tokens = ['<a>', '<b>', '<a>']: names <a> twice",
        ),
        ({"tokenizer": {"special_tokens": ["<|endoftext|>"]}}, "names <|endoftext|>, which every tokenizer here has"),
        (mixed((0, {"shakespeare": 0.7})), "train.mixture.0: shares add up to 0.7, not 1: 0.7 (shakespeare)"),
        (mixed((0, {})), "train.mixture.0: shares names no source"),
        (mixed((0, {"wiki": 1.0})), "train.mixture: wiki is no source of fetch.sources; known are shakespeare"),
        (mixed((5, WHOLE)), "train: mixture: its first phase must begin with from_step: 0, not 5"),
        (
            mixed((0, WHOLE), (9, WHOLE), (9, WHOLE)),
            "mixture: phases must begin one after the other, not at from_step [0, 9, 9]",
        ),
        ({"fetch": {"sources": VALUES["fetch"]["sources"] * 2}}, "fetch: two sources are named shakespeare"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (line,) = faults(tmp_path, changed(**change))
    assert line.startswith("params.yaml: ")
    assert message in line


GOPHER = {"kind": "gopher_quality", "min_doc_words": "many"}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"separator": "|"},
            "by_source.shakespeare: separator cannot differ; split, read, clean, filters, deduplicate can",
        ),
        ({"read": {"seperator": "|"}}, "by_source.shakespeare.read.seperator = '|': extra inputs are not permitted"),
        ({"read": {"separator": "|", "pattern": "a"}}, "separator and pattern both say"),
        ({"read": "text"}, "by_source.shakespeare.read = 'text': must be keys of read with their values"),
        ({"clean": {"repair_unicode": "no"}}, "by_source.shakespeare.clean.repair_unicode = 'no'"),
        ({"filters": [GOPHER]}, "by_source.shakespeare.filters.0.gopher_quality.min_doc_words = 'many'"),
        ({"filters": {}}, "by_source.shakespeare.filters = {}"),
        (
            {"filters": [{"kind": "length"}]},
            "a filter has `kind` gopher_quality, gopher_repetition, c4, fineweb or language, or",
        ),
        ({"filters": [{"field": "score"}]}, "says nothing of its field; give at_least, at_most, equals or one_of"),
        ({"filters": [{"field": "score", "at_least": "3"}]}, "filters.0.field.at_least = '3'"),
        ({"filters": [{"field": "score", "one_of": []}]}, "must have at least one item"),
        ({"filters": [{"url_list": "list.txt"}]}, "filters.0.url_list.field"),
        ({"split": "dev"}, "by_source.shakespeare.split = 'dev'"),
        ({"split": ["train"]}, "by_source.shakespeare.split = ['train']"),
        ({"read": {"quote": ","}}, "quote and delimiter are both ','; change one of them"),
        ({"read": {"delimiter": "\n"}}, "delimiter and quote stand in a line and cannot be its end"),
        ({"read": {"template": "{title"}}, "by_source.shakespeare.read.template = '{title': is no template"),
        ({"read": {"template": "{title!r}"}}, "between braces stands the name of a field and nothing else"),
        ({"read": {"message": "content"}}, "names no field, as in {title}; leave it empty for none"),
        ({"deduplicate": {"exact": 1}}, "by_source.shakespeare.deduplicate.exact = 1"),
        ({"deduplicate": {"ngram": 4}}, "deduplicate: ngram must be the same for all sources"),
        ({"decontaminate": {}}, "by_source.shakespeare: decontaminate cannot differ"),
    ],
)
def test_what_a_source_has_otherwise_is_checked_and_named(tmp_path: Path, own: dict[str, Any], message: str) -> None:
    (line,) = faults(tmp_path, changed(prepare={"by_source": {"shakespeare": own}}))
    assert line.startswith("params.yaml: prepare: by_source")
    assert message in line


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            {"by_source": {"shakespeare": {"split": "train"}}},
            "prepare.by_source: every source is given as another split than validation (shakespeare: train); add one",
        ),
        ({"test_fraction": 0.0}, "prepare: test_fraction is 0, and no source is given as test; raise it, or say which"),
        ({"validation_fraction": 0}, "prepare: validation_fraction is 0, and no source is given as validation"),
    ],
)
def test_every_split_has_a_source(tmp_path: Path, prepare: dict[str, Any], message: str) -> None:
    (line,) = faults(tmp_path, changed(prepare=prepare))
    assert line.startswith(f"params.yaml: {message}")


def test_a_source_has_what_all_have_but_for_its_own(tmp_path: Path) -> None:
    own = {"read": {"separator": "|"}, "clean": {"unescape_html": True}, "deduplicate": {"minhash": False}}
    prepare = load_values(tmp_path, changed(prepare={"by_source": {"shakespeare": own}})).prepare
    found = prepare.of("shakespeare")
    assert (found.read.separator, found.clean.unescape_html, found.deduplicate.minhash) == ("|", True, False)
    assert (found.clean.repair_unicode, found.deduplicate.exact) == (True, True)
    assert prepare.of("another") == prepare.of("a third")
    assert prepare.of("another").read == prepare.read


@pytest.mark.parametrize(("key", "name"), [("prepare.by_source", "by_source"), ("prepare.read_by_source", "moved")])
def test_an_unknown_source_and_the_former_key_are_named(tmp_path: Path, key: str, name: str) -> None:
    if name == "moved":
        values = changed(prepare={"read_by_source": {}})
        del values["prepare"]["by_source"]
        (line,) = faults(tmp_path, values)
        assert "prepare.read_by_source = {}: the key has moved to prepare.by_source" in line
    else:
        (line,) = faults(tmp_path, changed(prepare={"by_source": {"wikipedia": {}}}))
        assert "prepare.by_source: wikipedia is no source of fetch.sources; known are shakespeare" in line


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, changed(base={"seed": "x" * 1000}))
    assert len(line) < 200


@pytest.mark.parametrize(("written", "value"), [("1e-3", 1e-3), ("1E-3", 1e-3), ("5e-4", 5e-4), ("1", 1.0)])
def test_numbers_are_yaml_1_2(tmp_path: Path, written: str, value: float) -> None:
    text = re.sub(r"learning_rate: \S+", f"learning_rate: {written}", re.sub(r"min_lr: \S+", "min_lr: 0", TEXT))
    assert load(tmp_path, text).train.learning_rate == value


@pytest.mark.parametrize(("written", "value"), [("auto", "auto"), ("true", True), ("false", False)])
def test_compile_is_true_false_or_auto(tmp_path: Path, written: str, value: object) -> None:
    assert load(tmp_path, re.sub(r"  compile: \S+", f"  compile: {written}", TEXT)).launch.compile == value


def test_a_wrong_compile_is_one_fault_that_says_what_is_allowed(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, changed(launch={"compile": "sometimes"}))
    assert line == "params.yaml: launch.compile = 'sometimes': must be true, false or auto"


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: not valid YAML: .*duplicate key \"n_layer\""):
        load(tmp_path, TEXT.replace("  n_layer:", "  n_layer: 8\n  n_layer:"))


@pytest.mark.parametrize(
    "text",
    [
        "base: [",
        "base: {seed: 1",
        "\tbase: 1",
        "a: b: c",
        "base: !!python/object:os.system x",
        "base: 2024-13-45",
        "\0",
    ],
)
def test_broken_yaml_is_one_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: not valid YAML: ") as caught:
        load(tmp_path, text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "- base", "base", "3", "1: 2"])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: "):
        load(tmp_path, text)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"base: \xff\xfe")
    with pytest.raises(UserError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: not found"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(UserError, match=r"params\.yaml: is a folder"):
        load_params(tmp_path / "params.yaml")


def test_params_cannot_be_changed() -> None:
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.train.max_steps = 3
    with pytest.raises(ValidationError, match="frozen"):
        params.train = params.train  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(params.evaluate.prompts, tuple)


def test_a_key_that_moved_is_one_fault_that_names_where_it_is_now(tmp_path: Path) -> None:
    both, old = changed(launch={"precision": "auto"}), changed(launch={"precision": "auto"})
    del old["train"]["precision"]
    for values in (both, old):
        (line,) = faults(tmp_path, values)
        assert line.startswith(
            "params.yaml: launch.precision = 'auto': the key has moved to train.precision; write it there"
        )
    del old["launch"]["precision"]
    (line,) = faults(tmp_path, old)
    assert "train.precision is missing" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["lambada"]}, "benchmarks and tasks: lambada is named twice"),
        ({"by_benchmark": {"nowhere": {"limit": 1}}}, "by_benchmark.nowhere: is neither among benchmarks nor tasks"),
        ({"by_benchmark": {"piqa": {"limits": 1}}}, "by_benchmark.piqa.limits = 1: not a known key"),
        ({"by_benchmark": {"piqa": {"limit": -1}}}, "by_benchmark.piqa.limit = -1: input should be greater"),
    ],
)
def test_what_differs_for_a_benchmark_is_checked(tmp_path: Path, change: dict[str, object], message: str) -> None:
    (line,) = faults(tmp_path, changed(evaluate=change))
    assert line.startswith(f"params.yaml: evaluate: {message}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, -0.1], "evaluate.temperatures.1 = -0.1: input should be greater than or equal to 0"),
        ([0.5, True], "evaluate.temperatures.1 = True: input should be a valid number"),
        ([0.5, 0.5], "evaluate: temperatures: 0.5 is named twice"),
    ],
)
def test_further_temperatures_are_numbers_named_once(tmp_path: Path, values: list[object], message: str) -> None:
    assert faults(tmp_path, changed(evaluate={"temperatures": values})) == [f"params.yaml: {message}"]


def test_a_benchmark_has_its_own_settings_and_else_those_of_all() -> None:
    settings = load_params(ROOT / "params.yaml").evaluate.model_copy(
        update={"limit": 9, "num_fewshot": 1, "by_benchmark": {"piqa": {"num_fewshot": 5}}}
    )
    assert settings.of("piqa").model_dump() == {"limit": 9, "num_fewshot": 5}
    assert settings.of("sciq").model_dump() == {"limit": 9, "num_fewshot": 1}
