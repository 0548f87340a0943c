import re
import sys

import pytest
import torch

from gpt.errors import UserError
from gpt.params.launch import Launch
from gpt.params.project import load_params
from gpt.training.steps.compilation import choose_compile, eager_blocks, missing_for_compile, worth_compiling
from gpt.training.steps.step import ReadBatch
from tests import ROOT
from tests.training.test_step import difference, make_model, make_settings, make_step, read, read_documents

needs_compiler = pytest.mark.skipif(missing_for_compile() is not None, reason="torch.compile finds no compiler")


def launch(compile: object) -> Launch:
    return load_params(ROOT / "params.yaml").launch.model_copy(update={"compile": compile})


@pytest.mark.parametrize(
    ("eager_seconds", "steps_left", "worth"),
    [
        (0.05, 1200, False),
        (0.05, 2000, True),
        (5.0, 10, False),
        (5.0, 100, True),
        (0.001, 10_000, False),
        (1.0, 0, False),
    ],
)
def test_auto_compiles_only_when_the_steps_left_can_repay_it(
    eager_seconds: float, steps_left: int, worth: bool
) -> None:
    assert worth_compiling(eager_seconds, steps_left) is worth


def test_auto_stays_eager_for_a_short_run_and_says_why() -> None:
    step, _ = make_step(make_model(), make_settings(), micro_batch_size=2)
    choice = choose_compile(launch("auto"), step, 0, 30, read)
    assert choice.value == "eager"
    assert ("30 steps of" in choice.reason) is (missing_for_compile() is None)
    assert step.bare_model.trf_blocks[0]._compiled_call_impl is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs other compilers")
def test_without_a_compiler_auto_stays_eager_and_true_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    step, _ = make_step(make_model(), make_settings())
    choice = choose_compile(launch("auto"), step, 0, 10**9, read)
    assert str(choice) == "eager (there is no C++ compiler (no-such-compiler))"
    with pytest.raises(UserError, match=r"launch\.compile = True, but there is no C\+\+ compiler .*; change that"):
        choose_compile(launch(True), step, 0, 10, read)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs other compilers")
@pytest.mark.parametrize("folder", ["/my models/torch", "/it's/torch", '/a "b"/torch', "/back\\slash/torch"])
def test_a_folder_that_the_linker_would_take_for_several_is_told(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(torch, "__file__", "/modelle/ü/$HOME/torch/__init__.py")
    assert missing_for_compile() is None
    monkeypatch.setattr(torch, "__file__", f"{folder}/__init__.py")
    assert missing_for_compile() == f"torch cannot link what lies under a space or a quote ({folder})"


@pytest.mark.parametrize("before", ["eager", "compiled"])
def test_a_resumed_run_measures_nothing(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if before == "compiled" and missing_for_compile():
        pytest.skip("torch.compile finds no compiler")
    step, _ = make_step(make_model(), make_settings(), micro_batch_size=2)

    def measured(*_: object) -> bool:
        raise AssertionError("the choice was made when the run began")

    monkeypatch.setattr("gpt.training.steps.compilation.worth_compiling", measured)
    steps_left = 10**9 if before == "eager" else 1  # measuring would say the other
    choice = choose_compile(launch("auto"), step, 0, steps_left, read, before=before)
    assert choice.value == before
    assert (step.bare_model.trf_blocks[0]._compiled_call_impl is not None) is (before == "compiled")
    assert choose_compile(launch(False), step, 0, 1, read, before=before).reason == "as params.yaml says"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs other compilers")
def test_a_compiled_run_goes_on_eager_with_one_warning_where_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    step, _ = make_step(make_model(), make_settings())
    choice = choose_compile(launch("auto"), step, 0, 10, read, before="compiled")
    assert choice.value == "eager"
    (warning,) = caplog.messages
    assert "there is no C++ compiler (no-such-compiler)" in warning
    assert "its weights may differ in the last digits" in warning


@pytest.mark.parametrize("variable", ["TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"])
def test_where_torch_would_not_compile_auto_stays_eager_and_true_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    step, _ = make_step(make_model(), make_settings())
    assert str(choose_compile(launch("auto"), step, 0, 10**9, read)) == f"eager ({variable}=1 forbids it)"
    with pytest.raises(UserError, match=rf"launch\.compile = True, but {variable}=1 forbids it; change that"):
        choose_compile(launch(True), step, 0, 10, read)


@needs_compiler
@pytest.mark.slow
def test_auto_measures_both_and_keeps_the_faster() -> None:
    model = make_model()
    step, _ = make_step(model, make_settings(), micro_batch_size=4)
    choice = choose_compile(launch("auto"), step, 0, 10**9, read)
    chosen, other = (float(figure) for figure in re.findall(r"([0-9.e-]+) s(?: a step|;|$|\))", choice.reason)[:2])
    assert chosen <= other
    assert (model.trf_blocks[0]._compiled_call_impl is not None) is (choice.value == "compiled")


@needs_compiler
@pytest.mark.slow
def test_a_compiler_that_fails_leaves_auto_eager_and_training_going(caplog: pytest.LogCaptureFixture) -> None:
    import torch._inductor.config as inductor

    model = make_model()
    step, seen = make_step(model, make_settings())
    with inductor.patch({"cpp.cxx": (None, "false"), "force_disable_caches": True}):
        choice = choose_compile(launch("auto"), step, 0, 10**9, read)
        assert choice.value == "eager"
        assert choice.reason.startswith("compiling failed: ")
        assert all(parameter.grad is None for parameter in model.parameters())
        step(0, read)
        assert seen
        with pytest.raises(UserError, match=r"launch\.compile = True, but compiling failed: .*; use false"):
            choose_compile(launch(True), step, 0, 10, read)
        assert choose_compile(launch("auto"), step, 0, 10, read, before="compiled").value == "eager"
        assert "which cannot be done now (compiling failed: " in caplog.text
        assert step.bare_model.trf_blocks[0]._compiled_call_impl is None


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("read", [read, read_documents], ids=["stream", "documents"])
def test_compiled_blocks_compute_the_same_gradient(checkpointed: bool, read: ReadBatch) -> None:
    gradients = []
    for compile in (False, True):
        model = make_model(n_layer=3, norm="rmsnorm", position="rotary", activation="swiglu")
        model.checkpoint_activations = checkpointed
        step, seen = make_step(model, make_settings(), micro_batch_size=4)
        names = list(model.state_dict())
        choice = choose_compile(launch(compile), step, 0, 10, read)
        assert choice.value == ("compiled" if compile else "eager")
        step(0, read)
        gradients.append(seen[0])
        assert list(model.state_dict()) == names, "a checkpoint does not know whether blocks were compiled"
        with eager_blocks(model), torch.inference_mode():
            model(read(0, 3).tensors["tokens"][:, :7])  # another shape: compiled it would take seconds
    assert difference(*gradients) < 1e-5
