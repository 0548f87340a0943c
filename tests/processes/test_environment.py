import os
import re
from collections.abc import Iterator
from pathlib import Path

import accelerate
import pytest

from gpt.errors import UserError
from gpt.params.project import Params, load_params
from gpt.processes.environment import check_environment, hide_from_accelerate
from tests import ROOT

PARAMS = load_params(ROOT / "params.yaml")
WORKER = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
# What `accelerate launch --cpu` leaves behind on a machine without GPUs.
LAUNCHED = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}


def changed(**sections: dict[str, object]) -> Params:
    updates = {name: getattr(PARAMS, name).model_copy(update=keys) for name, keys in sections.items()}
    return PARAMS.model_copy(update=updates)


def faults(params: Params, variables: dict[str, str], *, on_gpu: bool = False) -> list[str]:
    try:
        check_environment(params, on_gpu=on_gpu, environment=variables)
    except UserError as error:
        return str(error).splitlines()
    return []


CONTRADICTIONS = [
    ({"ACCELERATE_USE_FSDP": "true"}, {}, "launch.strategy"),
    ({"ACCELERATE_USE_FSDP": "1"}, {}, "launch.strategy"),
    ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "launch.strategy"),
    ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "launch.strategy"),
    ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, {}, "launch.strategy"),
    ({"ACCELERATE_USE_SAGEMAKER": "true", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "DATA_PARALLEL"}, {}, "unset it"),
    ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, "train.precision: bf16"),
    ({"ACCELERATE_MIXED_PRECISION": "fp8"}, {"train": {"precision": "bf16"}}, "train.precision"),
    ({"ACCELERATE_MIXED_PRECISION": "fp16"}, {"train": {"precision": "bf16"}}, "train.precision: fp16"),
    ({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, {}, "train.precision: tf32"),
    ({"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, {}, "train.precision (fp32)"),
    ({"DNNL_DEFAULT_FPMATH_MODE": "ANY"}, {"train": {"precision": "bf16"}}, "train.precision (bf16)"),
    ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, {}, "launch.compile: true"),
    ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, {"launch": {"compile": "auto"}}, "launch.compile: true"),
    ({"ACCELERATE_DYNAMO_BACKEND": "EAGER"}, {"launch": {"compile": True}}, "launch.compile: true"),
    ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {}, "launch.micro_batch_size"),
    ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto"}, {}, "launch.micro_batch_size"),
    ({"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, {}, "train.grad_clip: 0.5"),
    ({"ACCELERATE_TORCH_DEVICE": "meta"}, {}, "CUDA_VISIBLE_DEVICES"),
    ({"ACCELERATE_USE_CPU": "maybe"}, {}, "must be true or false"),
    ({"ACCELERATE_DEBUG_MODE": "2"}, {}, "must be true or false"),
    ({"FORK_LAUNCHED": "x"}, {}, "must be true or false"),
    ({"ACCELERATE_LOG_LEVEL": "chatty"}, {}, "debug, info"),
    ({"ACCELERATE_LOG_LEVEL": ""}, {}, "debug, info"),
    ({"LOCAL_RANK": "0"}, {}, "RANK and WORLD_SIZE"),
    ({"LOCAL_RANK": "first"}, {}, "must be a number"),
    ({"WORLD_SIZE": "", "RANK": "0"}, {}, "must be a number"),
    ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, {}, "less than WORLD_SIZE"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, "start `gpt pretrain` once"),
    ({"PMI_SIZE": "4"}, {"launch": {"num_processes": 2}}, "start `gpt pretrain` once"),
    (WORKER | {"MASTER_PORT": "0"}, {}, "--standalone"),
    (WORKER | {"MASTER_PORT": "tcp://10.0.0.1:80"}, {}, "must be a port"),
    (WORKER | {"MASTER_ADDR": ""}, {}, "is not set, but RANK"),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "change", "advice"), CONTRADICTIONS)
def test_a_variable_that_contradicts_params_yaml_is_refused_by_name(
    variables: dict[str, str], change: dict[str, dict[str, object]], advice: str
) -> None:
    (fault,) = faults(changed(**change), variables)
    assert fault.split(" ")[0] in variables
    assert advice in fault


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FSDP_OFFLOAD_PARAMS", "true"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true"),
        ("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD", "true"),
        ("FSDP_SHARDING_STRATEGY", "NO_SHARD"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false"),
    ],
)
def test_of_fsdps_settings_those_that_cost_memory_are_obeyed_or_refused(name: str, value: str) -> None:
    params = changed(launch={"strategy": "fsdp"})
    assert not faults(params, {"ACCELERATE_USE_FSDP": "true"})
    (fault,) = faults(params, {"ACCELERATE_USE_FSDP": "true", name: value})
    assert fault.startswith(f"{name} = '{value}'")
    assert not faults(params, {name: value}), "Accelerate reads it for FSDP alone"


@pytest.mark.parametrize(
    ("variables", "precision", "refused"),
    [
        ({"NVIDIA_TF32_OVERRIDE": "0"}, "tf32", True),
        ({"NVIDIA_TF32_OVERRIDE": "0"}, "fp32", False),
        ({"NVIDIA_TF32_OVERRIDE": "1"}, "bf16", True),
        ({"NVIDIA_TF32_OVERRIDE": "1"}, "tf32", False),
        ({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "tf32", False),
        ({"ACCELERATE_USE_CPU": "true"}, "fp32", True),
        ({"ACCELERATE_TORCH_DEVICE": "cuda:1"}, "fp32", True),
        ({"ACCELERATE_TORCH_DEVICE": "cpu"}, "fp32", True),
    ],
)
def test_on_a_gpu_nothing_but_params_yaml_chooses_numbers_and_device(
    variables: dict[str, str], precision: str, refused: bool
) -> None:
    assert bool(faults(changed(train={"precision": precision}), variables, on_gpu=True)) is refused
    if next(iter(variables)) != "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE":
        assert variables == {"ACCELERATE_TORCH_DEVICE": "cuda:1"} or not faults(PARAMS, variables), "without a GPU"


@pytest.mark.parametrize(
    ("variables", "change"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "FULL_SHARD"}, {"launch": {"strategy": "fsdp"}}),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {"train": {"precision": "bf16"}}),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, {"train": {"precision": "bf16"}}),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_MODE": "default"}, {"launch": {"compile": True}}),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}, {}),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {"launch": {"micro_batch_size": 2}}),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, {}),
        ({"ACCELERATE_USE_FSDP": "", "ACCELERATE_MIXED_PRECISION": "", "ACCELERATE_DEBUG_MODE": ""}, {}),
        ({"ACCELERATE_USE_SAGEMAKER": "true", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "NO"}, {}),
        ({"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"}, {}),
        ({"MASTER_PORT": "tcp://10.0.0.1:80", "MASTER_SERVICE_HOST": "10.0.0.1"}, {}),  # of a service named master
        (LAUNCHED, {}),
        (WORKER, {}),
    ],
)
def test_a_variable_that_says_what_params_yaml_says_is_welcome(
    variables: dict[str, str], change: dict[str, dict[str, object]]
) -> None:
    assert not faults(changed(**change), variables)


def test_all_contradictions_are_told_at_once() -> None:
    told = faults(
        PARAMS, {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}
    )
    assert [line.split(" ")[0] for line in told] == ["ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION"]


def test_accelerate_is_shown_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "MEGATRON_LM_TP_DEGREE": "2", "FORK_LAUNCHED": " "}
    kept = {"ACCELERATE_LOG_LEVEL": "INFO", "ACCELERATE_DEBUG_MODE": "true", "FORK_LAUNCHED_TOO": ""}
    for name, value in (shown | kept).items():
        monkeypatch.setenv(name, value)
    hide_from_accelerate()
    assert not shown.keys() & os.environ.keys()
    assert kept.items() <= dict(os.environ).items()


# Variables that Accelerate reads and training need not look at, and why.
HARMLESS = {
    **dict.fromkeys(("ACCELERATE_LOG_LEVEL", "ACCELERATE_ENABLE_RICH"), "how it writes"),
    **dict.fromkeys(("ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "ACCELERATE_DEBUG_RDV_FILE"), "where, what it checks"),
    **dict.fromkeys(("ACCELERATE_BYPASS_DEVICE_MAP", "ACCELERATE_INIT_INCLUDE_BUFFERS"), "for models that it loads itself"),
    **dict.fromkeys(("ACCELERATE_CONFIG_DS_FIELDS", "ACCELERATE_ALLOW_CP_STANDALONE"), "hidden, and of what is refused"),
    **dict.fromkeys(("ACCELERATE_DOWNCAST_BF16", "ACCELERATE_DYNAMO_", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION"), "hidden"),
}  # fmt: skip
REFUSED_WITH = ("ACCELERATE_DEEPSPEED_", "ACCELERATE_FP8_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")


def accelerates_variables() -> Iterator[str]:
    folder = Path(accelerate.__file__).parent
    for file in folder.rglob("*.py"):
        if "test_utils" not in file.parts:
            yield from re.findall(
                r"[\"'](ACCELERATE_\w+|FSDP_\w+|MEGATRON_LM_\w*)[\"']", file.read_text(encoding="utf-8")
            )


def test_every_variable_that_accelerate_reads_was_looked_at() -> None:
    ours = Path(ROOT / "gpt/processes/environment.py").read_text(encoding="utf-8")
    found = set(accelerates_variables())
    assert len(found) > 50
    dynamo = {f"ACCELERATE_DYNAMO_{name}" for name in ("MODE", "USE_FULLGRAPH", "USE_DYNAMIC")}
    unknown = {
        name for name in found - HARMLESS.keys() - dynamo if name not in ours and not name.startswith(REFUSED_WITH)
    }
    assert not unknown, "a new version of Accelerate reads these: do they change what is computed?"
