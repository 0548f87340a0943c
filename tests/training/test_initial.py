"""A training that starts from weights: they are the named ones to the last bit, and what does not fit is told before any work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from gpt import paths
from gpt.errors import UserError
from gpt.files import read_json, sha256_file, write_json
from gpt.model.convert.huggingface import export_huggingface
from gpt.model.storage import load_model, save_model
from gpt.model.transformer import GPTConfig, GPTModel
from gpt.params.project import Params, load_params
from gpt.registry.initial import weights
from gpt.registry.initial.origin import describe_origin, named_by_params
from gpt.registry.initial.weights import bring_weights
from gpt.tokens.batches import Batches
from gpt.tokens.tokenizer import load_tokenizer
from gpt.training.checkpoints import checkpoint as checkpoints
from gpt.training.checkpoints.fingerprint import fingerprint
from gpt.training.checkpoints.stable import STABLE
from gpt.training.initial import describe_misfits, load_optimizer
from gpt.training.pretrain import pretrain
from tests.conftest import merge, small_change, write_params
from tests.training.checkpoints.test_checkpoint import save_in_format
from tests.training.conftest import TRAIN
from tests.training.test_trainer import Killed, Poison

WEIGHTS = paths.BASE_MODEL / "model.safetensors"
GPT2 = {
    "position": "learned", "norm": "layernorm", "activation": "gelu", "qk_norm": False, "tie_embeddings": True, "bias": True,
    "dropout": 0.0,
}  # fmt: skip


def change(model: dict[str, Any] | None = None, **train: Any) -> Params:
    """Set values of `model` and `train` in the current project; return its settings."""
    merged = small_change(Path(load_params().fetch.sources[0].model_dump()["path"]))
    merge(merged, {"train": TRAIN | train, "model": model or {}})
    write_params(Path.cwd(), merged)
    return load_params()


def make_model(folder: Path, seed: int = 5) -> GPTModel:
    """Write a model of the current project's shape, with weights of its own, to a folder."""
    config = GPTConfig(vocab_size=load_tokenizer(paths.TOKENIZER).n_vocab, **load_params().section("model"))
    model = GPTModel(config)
    model.init_weights(seed)
    save_model(model, paths.TOKENIZER, folder)
    return model


def start_from(named: str, model: dict[str, Any] | None = None, **train: Any) -> bytes:
    """Bring what is named, train from it, and return the weights file."""
    params = change(model, init_from=named, **train)
    bring_weights(params)
    pretrain(params)
    return WEIGHTS.read_bytes()


def test_a_hugging_face_model_trained_for_0_steps_gives_the_same_logits(make_project: Callable[..., Path]) -> None:
    make_project(model=GPT2)
    make_model(Path("mine"))
    export_huggingface(Path("mine"), Path("theirs"))
    start_from("theirs", GPT2, max_steps=0)
    model, encoding = load_model(paths.BASE_MODEL)
    tokens = torch.randint(encoding.n_vocab, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained("theirs")(tokens).logits
        torch.testing.assert_close(model(tokens), expected, rtol=1e-5, atol=1e-6)
    assert load_file(WEIGHTS).keys() == load_file(Path("mine/model.safetensors")).keys()
    assert sha256_file(WEIGHTS) == sha256_file(Path("mine/model.safetensors")), "not a bit was lost on both ways"
    assert paths.TRAINING_PLOT.read_text() == "step,train_loss,learning_rate,gradient_norm\n"
    assert [line.split(",")[0] for line in paths.VALIDATION_PLOT.read_text().splitlines()] == ["step", "0"]
    assert read_json(paths.RUN, "")["initial"]["form"] == "gpt2"


def test_an_imported_model_may_be_padded_and_a_padded_one_need_not_stay_so(make_project: Callable[..., Path]) -> None:
    make_project(model=GPT2)
    make_model(Path("mine"))
    export_huggingface(Path("mine"), Path("theirs"))
    wide = GPT2 | {"pad_vocab": 128}
    plain = start_from("theirs", GPT2, max_steps=0)
    start_from("theirs", wide, max_steps=0)
    model, encoding = load_model(paths.BASE_MODEL)
    assert (model.config.vocab_size, len(model.tok_emb.weight)) == (encoding.n_vocab, 384)
    assert read_json(paths.INITIAL / "config.json", "")["vocab_size"] == encoding.n_vocab
    shutil.copytree(paths.BASE_MODEL, "padded")
    assert start_from("padded", GPT2, max_steps=0) == plain, "and back, to the last bit"
    start_from("theirs", wide, max_steps=12)
    trained = load_file(WEIGHTS)
    assert not trained["tok_emb.weight"][encoding.n_vocab :].any(), "nothing trains the padding"
    start_from("theirs", GPT2, max_steps=12)
    for name, expected in load_file(WEIGHTS).items():
        torch.testing.assert_close(trained[name][: len(expected)], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_padded_checkpoint_goes_on_unpadded_with_its_optimizers_state(
    make_project: Callable[..., Path], tied: bool
) -> None:
    make_project()
    tables: dict[str, Any] = {"tie_embeddings": tied, "pad_vocab": 64}
    pretrain(change(tables, schedule="wsd", warmup_fraction=0.0, decay_fraction=0.5, max_steps=20))
    (state,) = (paths.CHECKPOINTS / STABLE).glob("*/step_*")
    child: dict[str, Any] = {"init_optimizer": True, "max_steps": 5, "checkpoint_keep_stable": 0}
    start_from(str(state), tables, **child)
    padded, n_vocab = load_file(WEIGHTS), load_tokenizer(paths.TOKENIZER).n_vocab
    config = read_json(paths.INITIAL / "config.json", "")
    assert (config["vocab_size"], config["pad_vocab"]) == (n_vocab, 64), "its padding is the model's own affair"
    assert len(padded["tok_emb.weight"]) == 320 > n_vocab
    start_from(str(state), tables | {"pad_vocab": 1}, **child)
    for name, tensor in load_file(WEIGHTS).items():
        torch.testing.assert_close(padded[name][: len(tensor)], tensor, rtol=1e-4, atol=1e-5)


def test_training_begins_with_the_named_weights_whatever_they_are_called(make_project: Callable[..., Path]) -> None:
    make_project()
    make_model(Path("mine"))
    whole = start_from("mine", max_steps=12)
    first = float(paths.VALIDATION_PLOT.read_text().splitlines()[1].split(",")[1])
    drawn = change(max_steps=12)
    pretrain(drawn)
    assert WEIGHTS.read_bytes() != whole
    # Named otherwise, the same bytes are the same training.
    shutil.copytree("mine", "a copy")
    assert start_from("a copy", max_steps=12) == whole
    assert float(paths.VALIDATION_PLOT.read_text().splitlines()[1].split(",")[1]) == first


def test_the_optimizer_goes_on_from_a_checkpoint_that_has_its_state(make_project: Callable[..., Path]) -> None:
    make_project()
    steady: dict[str, Any] = {"schedule": "wsd", "warmup_fraction": 0.0, "decay_fraction": 0.5, "max_steps": 20}
    pretrain(change(**steady))
    (state,) = (paths.CHECKPOINTS / STABLE).glob("*/step_*")
    child: dict[str, Any] = {"max_steps": 5, "checkpoint_keep_stable": 0}  # or its own state would take the place
    with_state = start_from(str(state), init_optimizer=True, **child)
    source = read_json(paths.RUN, "")["initial"]
    assert (source["form"], source["step"], source["optimizer"]) == ("checkpoint", 10, "muon")
    saved, brought = (load_file(folder / "optimizer.safetensors") for folder in (state, paths.INITIAL))
    assert saved.keys() == brought.keys() and all(torch.equal(saved[name], brought[name]) for name in saved)
    assert start_from(str(state), **child) != with_state
    assert start_from(str(state.parent), init_optimizer=True, **child) == with_state, "its run's newest"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"n_layer": 3}, r"params.yaml: model.n_layer = 3: the weights of train.init_from have 1; set it to that"),
        ({"n_embd": 32, "n_head": 4}, r"model.n_head = 4: .* have 2; set it to that\nparams.yaml: model.n_embd = 32: .* have 16"),
        ({"activation": "swiglu"}, r"model.activation = swiglu: .* have relu2"),
        ({"bias": True}, r"model.bias = true: .* have false; set it to that"),
    ],
)  # fmt: skip
def test_each_setting_that_the_weights_do_not_have_is_named(
    make_project: Callable[..., Path], model: dict[str, Any], told: str
) -> None:
    make_project()
    make_model(Path("mine"))
    bring_weights(change(init_from="mine"))
    with pytest.raises(UserError, match=told):
        bring_weights(change(model, init_from="mine"))
    with pytest.raises(UserError, match=told):
        pretrain(load_params())
    assert not paths.CHECKPOINTS.exists(), "before any work"


def test_a_longer_context_is_another_model_only_where_positions_are_weights() -> None:
    shape = {"n_head": 2, "n_kv_head": 0, "block_size": 64, "dropout": 0.1, "init": "zero"}
    has = {"n_head": 2, "n_kv_head": 2, "block_size": 32, "dropout": 0.0, "init": "gpt2"}
    assert describe_misfits(shape, has | {"position": "rotary"}) == []
    assert describe_misfits(shape, has | {"position": "learned"}) == [
        "model.block_size = 64: the weights of train.init_from have 32; set it to that"
    ]


def test_weights_that_know_other_tokens_are_refused(make_project: Callable[..., Path]) -> None:
    make_project()
    make_model(Path("mine"))
    tokenizer = Path("mine/tokenizer")
    description = read_json(tokenizer / "tokenizer.json", "")
    ranks = (tokenizer / "ranks.tiktoken").read_text().splitlines()
    ranks[65], ranks[66] = (f"{ranks[n].split()[0]} {m}" for n, m in ((66, 65), (65, 66)))  # two letters change places
    (tokenizer / "ranks.tiktoken").write_text("\n".join(ranks) + "\n")
    write_json(tokenizer / "tokenizer.json", description | {"ranks_sha256": sha256_file(tokenizer / "ranks.tiktoken")})
    params = change(init_from="mine")
    bring_weights(params)
    with pytest.raises(
        UserError, match=r"tokenizer.kind = char: the weights of train.init_from = mine know other tokens"
    ):
        pretrain(params)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"init_from": "nothing"}, "train.init_from = nothing: no such folder"),
        ({"init_from": "data"}, "train.init_from = data: holds no config.json; name a model folder"),
        ({"init_from": "models/base"}, "training itself writes there; copy the model to another folder"),
        ({"init_from": "models:/a/b/c"}, "models:/a/b/c: not a registered model; write models:/NAME@ALIAS"),
        ({"init_from": "mine", "init_optimizer": True}, "mine is a model without its optimizer's state"),
    ],
)
def test_what_cannot_be_started_from_is_told(
    make_project: Callable[..., Path], train: dict[str, Any], told: str
) -> None:
    make_project()
    make_model(Path("mine"))
    with pytest.raises(UserError, match=told):
        bring_weights(change(**train))
    assert not paths.INITIAL.exists()


def test_weights_that_were_not_brought_or_are_damaged_are_told(make_project: Callable[..., Path]) -> None:
    make_project()
    make_model(Path("mine"))
    params = change(init_from="mine")
    with pytest.raises(UserError, match=r"models/initial/source.json: not found; run `gpt fetch weights`"):
        pretrain(params)
    bring_weights(params)
    with pytest.raises(UserError, match=r"holds the weights of train.init_from = mine, and params.yaml now has other"):
        pretrain(change(init_from="other"))
    tensors = load_file(paths.INITIAL / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, paths.INITIAL / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors: damaged \(its SHA-256 is not the one in source.json\)"):
        pretrain(change(init_from="mine"))


def test_a_folder_that_is_gone_is_stood_for_by_what_was_brought_of_it(
    make_project: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    make_project()
    make_model(Path("mine"))
    params = change(init_from="mine")
    before = bring_weights(params)
    shutil.rmtree("mine")
    assert describe_origin(named_by_params(params)).items() <= before.items()
    assert bring_weights(params) == before
    assert "no such folder; models/initial holds it, and stands for it" in caplog.text


def test_a_folder_that_changes_while_it_is_copied_is_told(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project()
    make_model(Path("mine"))
    params = change(init_from="mine")

    def replaced_meanwhile(place: Path) -> None:
        make_model(place, seed=6)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "load_model", replaced_meanwhile)
        with pytest.raises(UserError, match=r"train.init_from = mine: has changed while it was looked at and copied"):
            bring_weights(params)
    assert not paths.INITIAL.exists()
    assert bring_weights(params)["weights_sha256"] == sha256_file(Path("mine/model.safetensors"))


def test_checkpoints_that_another_version_of_gpt_wrote_are_told(make_project: Callable[..., Path]) -> None:
    make_project()
    run = fingerprint(load_params())
    folder = paths.CHECKPOINTS / run.id
    folder.mkdir(parents=True)
    run.save(folder)
    save_in_format(folder, 7, None)
    with pytest.raises(UserError, match=r"step_00000007: of format 1, which this version of gpt does not read"):
        bring_weights(change(init_from=str(folder)))
    tensors = {"tok_emb.weight": torch.zeros(3, 16)}
    checkpoints.save(folder, checkpoints.Checkpoint(8, tensors, {}, {"run": None}))
    settings = run.parts["settings"] | {"model.experts": 4}
    write_json(folder / "fingerprint.json", {"name": run.name, "parts": run.parts | {"settings": settings}})
    with pytest.raises(UserError, match=r"of a model that this version of gpt does not know .*experts"):
        bring_weights(change(init_from=str(folder)))


def test_what_the_weights_could_do_stays_in_the_curve_of_a_run_that_goes_back_to_them(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not measured twice by a run that goes on there: killed after it went back, with the checkpoint of step 0."""
    settings: dict[str, Any] = {"max_skips": 3, "checkpoint_interval": 20}
    plots = []
    for name, killed_at in (("whole", None), ("killed", 8)):
        make_project(name)
        make_model(Path("mine"))
        with monkeypatch.context() as patch:
            Poison(patch, bad=range(2, 6), kill_at=killed_at)
            if killed_at:
                with pytest.raises(Killed):
                    start_from("mine", **settings)
                (state,) = paths.CHECKPOINTS.glob("*/step_*/state.json")
                assert read_json(state, "")["step"] == 0
            start_from("mine", **settings)
        plots.append(paths.VALIDATION_PLOT.read_text())
    assert [line.split(",")[0] for line in plots[0].splitlines()] == ["step", "0", "15", "30"]
    assert plots[0] == plots[1]


def test_a_run_does_not_go_back_to_weights_that_were_brought_for_another(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although these are called as its own are: an alias may have moved meanwhile."""
    make_project()
    make_model(Path("mine"))
    make_model(Path("other"), seed=6)
    read = Batches.read

    def reading(batches: Batches, number: int, first: int, last: int) -> Any:
        if number == 7:
            shutil.copyfile("other/model.safetensors", paths.INITIAL / "model.safetensors")
            source = read_json(paths.INITIAL / "source.json", "")
            digest = sha256_file(paths.INITIAL / "model.safetensors")
            write_json(paths.INITIAL / "source.json", source | {"weights_sha256": digest})
        return read(batches, number, first, last)

    monkeypatch.setattr(Batches, "read", reading)
    Poison(monkeypatch, bad=range(2, 6))
    with pytest.raises(UserError, match="models/initial: holds other weights than those that this run began with"):
        start_from("mine", max_skips=3, checkpoint_interval=20)


def test_a_damaged_state_of_the_optimizer_is_told(make_project: Callable[..., Path]) -> None:
    make_project()
    make_model(Path("mine"))
    bring_weights(change(init_from="mine"))
    params = change(init_from="mine", init_optimizer=True)
    config = GPTConfig(vocab_size=30, **params.section("model"))
    for content in (None, b"no safetensors"):
        if content:
            (paths.INITIAL / "optimizer.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"optimizer.safetensors: missing or damaged .* run `gpt fetch weights`"):
            load_optimizer(params.train, config)
