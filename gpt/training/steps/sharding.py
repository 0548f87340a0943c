"""FSDP2: weights, gradients and optimizer state split over processes, a block at a time, by torch's `fully_shard`.

torch directly and not through Accelerate, which on a CPU falls back to DDP without a word: so the same code runs on GPUs and, in
tests, on CPUs. Tensors are gathered before they are saved: a checkpoint does not depend on how many processes wrote it.
"""

from typing import cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, init_empty_weights
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from gpt.model.transformer import GPTModel


def shard(model: GPTModel, accelerator: Accelerator) -> None:
    """Split a model that is the same in all processes: each keeps its shard of every parameter."""
    device = accelerator.device
    if not dist.is_initialized():  # one process, no launcher
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (accelerator.num_processes,))
    for block in model.trf_blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "token_nats")  # it too begins by gathering weights


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard` has split this model."""
    return isinstance(model, FSDPModule)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor from all processes, which must all call this; return any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def to_local_shard(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's shard of a full `tensor`, split as `like` is.

    The tensor comes back as it is where `like` is not sharded, or has another shape (a scalar of the optimizer's state).
    """
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def copy_to_cpu(tensors: dict[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Return full copies on the CPU if `keep`, else nothing. All processes must call this: each gives its shards."""
    copies = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if keep:
            is_gathered = isinstance(tensor, DTensor) and tensor.device_mesh.size() > 1  # new memory already
            copies[name] = full.to("cpu", copy=not is_gathered)
    return copies


def full_model(model: GPTModel, *, keep: bool) -> GPTModel:
    """Return a full copy on the CPU of a sharded model, where `keep` says so; the model itself where it is not sharded.

    All processes must call this.
    """
    if not is_sharded(model):
        return model
    weights = copy_to_cpu(model.state_dict(), keep=keep)
    if not keep:
        return model
    with init_empty_weights(include_buffers=False):
        copy = GPTModel(model.config)
    copy.load_state_dict(weights, assign=True)
    return copy


def synchronise_gradients(model: torch.nn.Module, is_last: bool) -> None:
    """Let a sharded model sum gradients over processes in the next backward pass if it `is_last` of the step, else keep them."""
    cast(FSDPModule, model).set_requires_gradient_sync(is_last)
