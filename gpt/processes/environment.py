"""Variables of the environment that would change what training or evaluation computes, which params.yaml alone decides.

`accelerate launch` passes its options to a trainer as variables, which Accelerate obeys by itself; torch and oneDNN read some of
their own. One that agrees with params.yaml is welcome, one that does not is refused by its name, and Accelerate is shown none.
"""

import os
from collections.abc import Iterator, Mapping

from gpt.errors import UserError
from gpt.params.project import Params

# Accelerate reads these, and whatever `accelerate launch` was told stands in them.
_OPTIONS = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
# How it logs, checks its collectives and binds a process to cores changes no result, and stays.
_KEPT = ("ACCELERATE_LOG_LEVEL", "ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_ENABLE_RICH")
_SWITCHES = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "FORK_LAUNCHED")
_UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context and sequence parallelism",
}
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *_MPI_SIZES)
_LEVELS = ("debug", "info", "warning", "error", "critical")
_TRUE, _FALSE = ("1", "true", "yes", "y", "t", "on"), ("0", "false", "no", "n", "f", "off", "")


def check_environment(params: Params, *, on_gpu: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `UserError`, a line for each variable that contradicts params.yaml or that no launcher would set."""
    variables = {name: value.strip() for name, value in environment.items()}
    faults = [*_find_malformed(variables)] or [
        *_find_unsupported(variables),
        *_find_other_strategy(params, variables),
        *_find_other_numbers(params, variables, on_gpu),
        *_find_other_steps(params, variables),
        *_find_other_device(variables, on_gpu),
        *_find_lost_processes(params, variables),
    ]
    if faults:
        raise UserError("\n".join(faults))


def check_products(key: str, precision: str, *, on_gpu: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `UserError`, a line for each variable by which products would not be computed as the setting `key` says."""
    variables = {name: value.strip() for name, value in environment.items()}
    if faults := [*_find_other_products(key, precision, variables, on_gpu)]:
        raise UserError("\n".join(faults))


def hide_from_accelerate() -> None:
    """Remove the variables in which Accelerate looks for settings; `check_environment` has compared them with params.yaml."""
    for name in list(os.environ):
        is_option = name.startswith(_OPTIONS) and name not in _KEPT
        if is_option or (name in _SWITCHES and not os.environ[name].strip()):
            del os.environ[name]


def _find_malformed(variables: Mapping[str, str]) -> Iterator[str]:
    switches = [name for name in variables if name.startswith("ACCELERATE_USE_")]
    for name in sorted({*switches, *_SWITCHES} & variables.keys()):
        if variables[name].lower() not in (*_TRUE, *_FALSE):
            yield f"{name} = {variables[name]!r}: must be true or false; correct it, or unset it"
    level = variables.get("ACCELERATE_LOG_LEVEL")
    if level is not None and level.lower() not in _LEVELS:
        yield f"ACCELERATE_LOG_LEVEL = {level!r}: must be one of {', '.join(_LEVELS)}; correct it, or unset it"
    for name in _NUMBERS:
        value = variables.get(name)
        if value is not None and not (value.isascii() and value.isdecimal()):
            yield f"{name} = {value!r}: must be a number, as torchrun sets it; unset it where no launcher runs"


def _find_unsupported(variables: Mapping[str, str]) -> Iterator[str]:
    for name, what in _UNSUPPORTED.items():
        if _is_on(variables, name):
            yield f"{_said(variables, name)}: training has no {what}; leave that out, and choose launch.strategy: ddp or fsdp"
    if _is_on(variables, "ACCELERATE_USE_SAGEMAKER") and variables.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE") != "NO":
        yield "ACCELERATE_USE_SAGEMAKER is set: training has none of SageMaker's parallelism; unset it"


def _find_other_strategy(params: Params, variables: Mapping[str, str]) -> Iterator[str]:
    if not _is_on(variables, "ACCELERATE_USE_FSDP"):
        return
    launch = params.launch
    if launch.strategy != "fsdp":
        yield _refuse(variables, "ACCELERATE_USE_FSDP", "launch.strategy", launch.strategy, "fsdp")
        return
    # Of FSDP's own settings those that decide how much memory it takes; the others say how Accelerate would wrap a model.
    if _is_on(variables, "FSDP_ACTIVATION_CHECKPOINTING") and not launch.activation_checkpointing:
        yield _refuse(variables, "FSDP_ACTIVATION_CHECKPOINTING", "launch.activation_checkpointing", "false", "true")
    for name in ("FSDP_OFFLOAD_PARAMS", "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD"):
        if _is_on(variables, name):
            yield f"{_said(variables, name)}: training offloads nothing to the CPU; unset it"
    for name in ("FSDP_SHARDING_STRATEGY", "FSDP_RESHARD_AFTER_FORWARD"):
        if variables.get(name, "").upper() not in ("", "1", "TRUE", "FULL_SHARD"):
            yield f"{_said(variables, name)}: training shards weights, gradients and optimizer state (FULL_SHARD); unset it"


def _find_other_numbers(params: Params, variables: Mapping[str, str], on_gpu: bool) -> Iterator[str]:
    """Find what would compute in another precision, or compile."""
    precision, compiles = params.train.precision, params.launch.compile
    mixed = variables.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if mixed not in ("", "no", precision):  # `no` is also what `accelerate launch` says where it was told nothing
        known = mixed if mixed in ("bf16", "fp16") else "fp32, tf32, bf16 or fp16"
        yield _refuse(variables, "ACCELERATE_MIXED_PRECISION", "train.precision", precision, known)
    yield from _find_other_products("train.precision", precision, variables, on_gpu)
    backend = variables.get("ACCELERATE_DYNAMO_BACKEND", "").lower()
    if backend in ("", "no"):
        return
    if backend != "inductor" or compiles is not True:
        yield _refuse(
            variables, "ACCELERATE_DYNAMO_BACKEND", "launch.compile", str(compiles).lower(), "true (inductor)"
        )
    for name, usual in (("MODE", ("", "default")), ("USE_FULLGRAPH", _FALSE), ("USE_DYNAMIC", _FALSE)):
        if variables.get(f"ACCELERATE_DYNAMO_{name}", "").lower() not in usual:
            yield f"{_said(variables, f'ACCELERATE_DYNAMO_{name}')}: training compiles each block in torch's default mode; unset it"


def _find_other_products(key: str, precision: str, variables: Mapping[str, str], on_gpu: bool) -> Iterator[str]:
    """Find what would let matrix products be computed in another precision."""
    if _is_on(variables, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE") and precision != "tf32":
        yield _refuse(variables, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", key, precision, "tf32")
    override = variables.get("NVIDIA_TF32_OVERRIDE", "")  # 0 forbids TF32, anything else demands it
    if on_gpu and override and (precision == "tf32") == (override == "0"):
        other = "fp32" if override == "0" else "tf32"
        yield _refuse(variables, "NVIDIA_TF32_OVERRIDE", key, precision, other)
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
        if variables.get(name, "").lower() not in ("", "strict"):
            value = variables[name]
            yield f"{name} = {value!r}: oneDNN would round numbers that {key} ({precision}) leaves as they are; unset it"


def _find_other_steps(params: Params, variables: Mapping[str, str]) -> Iterator[str]:
    train, launch = params.train, params.launch
    processes = launch.num_processes * launch.num_machines
    steps = train.batch_size // (processes * launch.micro_batch_size)
    asked = variables.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "")
    if asked not in ("", str(steps)):
        yield (
            f"{_said(variables, 'ACCELERATE_GRADIENT_ACCUMULATION_STEPS')}: params.yaml says {steps}, which is train.batch_size"
            f" ({train.batch_size}) / (processes ({processes}) × launch.micro_batch_size ({launch.micro_batch_size}));"
            " leave that out, and change these"
        )
    clipping = variables.get("ACCELERATE_GRADIENT_CLIPPING", "")
    if clipping not in ("", str(train.grad_clip)):
        yield _refuse(variables, "ACCELERATE_GRADIENT_CLIPPING", "train.grad_clip", str(train.grad_clip), clipping)


def _find_other_device(variables: Mapping[str, str], on_gpu: bool) -> Iterator[str]:
    device = variables.get("ACCELERATE_TORCH_DEVICE", "")
    if device and (on_gpu or device != "cpu"):
        yield (
            f"ACCELERATE_TORCH_DEVICE = {device!r}: unset it; training takes the GPUs that it sees, and CUDA_VISIBLE_DEVICES"
            " says which these are (empty: none)"
        )
    if on_gpu and _is_on(variables, "ACCELERATE_USE_CPU"):
        yield (
            f"ACCELERATE_USE_CPU = {variables['ACCELERATE_USE_CPU']!r} (accelerate launch --cpu): training takes the GPUs that"
            " it sees; hide them with CUDA_VISIBLE_DEVICES= (empty)"
        )


def _find_lost_processes(params: Params, variables: Mapping[str, str]) -> Iterator[str]:
    """Find what says of other processes than there will be."""
    launch = params.launch
    if {"RANK", "WORLD_SIZE"} <= variables.keys():
        yield from _find_bad_rank(variables)
        return
    if "LOCAL_RANK" in variables:
        yield "LOCAL_RANK is set, but not RANK and WORLD_SIZE: unset it, or start training with torchrun, which sets all"
    # On CPUs `accelerate launch` starts one process, of however many it was told, but prepares it to meet others.
    is_accelerate = {
        "ACCELERATE_USE_CPU",
        "ACCELERATE_MIXED_PRECISION",
        "MASTER_ADDR",
        "MASTER_PORT",
    } <= variables.keys()
    if is_accelerate and launch.num_processes * launch.num_machines == 1:
        yield (
            "MASTER_ADDR and MASTER_PORT are set: `accelerate launch` was told of several processes, but starts only one on"
            " CPUs; set launch.num_processes in params.yaml and start `gpt pretrain` itself (it starts them), or use torchrun"
        )
    for name in _MPI_SIZES:
        if launch.num_machines == 1 and int(variables.get(name, 1)) > 1:
            yield (
                f"{name} = {variables[name]!r}: mpirun or srun starts so many, and each would train; start `gpt pretrain` once,"
                " it starts the processes of launch.num_processes itself"
            )


def _find_bad_rank(variables: Mapping[str, str]) -> Iterator[str]:
    rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    if rank >= size:
        yield f"RANK = '{rank}': must be less than WORLD_SIZE ('{size}'), as torchrun sets them; unset both"
    if size == 1 and "LOCAL_RANK" not in variables:
        return  # nobody to meet
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not variables.get(name):
            yield (
                f"{name} is not set, but RANK and WORLD_SIZE are: use torchrun, which sets all, or unset these and start"
                " `gpt pretrain` itself"
            )
    port = variables.get("MASTER_PORT")
    if port and not (
        port.isascii() and port.isdecimal() and 0 < int(port) < 2**16
    ):  # at 0 each would wait at a port of its own
        yield f"MASTER_PORT = {port!r}: must be a port from 1 to 65535; give torchrun --standalone or another --master_port"


def _refuse(variables: Mapping[str, str], name: str, key: str, value: str, other: str) -> str:
    return f"{_said(variables, name)}: params.yaml says {key}: {value}; leave that out, or set {key}: {other}"


def _said(variables: Mapping[str, str], name: str) -> str:
    """Return a variable with its value, and the option of `accelerate launch` that sets it."""
    option = name.removeprefix("ACCELERATE_").lower()
    launcher = f" (accelerate launch --{option})" if name.startswith(_OPTIONS[:2]) else ""
    return f"{name} = {variables[name]!r}{launcher}"


def _is_on(variables: Mapping[str, str], name: str) -> bool:
    return variables.get(name, "").lower() in _TRUE
