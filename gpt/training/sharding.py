"""FSDP2: weights, gradients and optimizer state split over processes, a block at a time, by torch's `fully_shard`.

The same code on GPUs and on CPUs, where it is tested; Accelerate falls back to DDP on a CPU without a word. What is saved is
whole: a checkpoint does not depend on how many processes wrote it.
"""

from typing import cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, init_empty_weights
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gpt.model.transformer import GPTModel


def shard(model: GPTModel, accelerator: Accelerator) -> None:
    """Split a model, which is the same in all processes, over them; each keeps its share of every parameter."""
    device = accelerator.device
    if not dist.is_initialized():  # one process, no launcher
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device.type, (accelerator.num_processes,))
    for block in model.trf_blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard` has split this model."""
    return isinstance(model, FSDPModule)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a split tensor whole; all processes must ask for it. Any other tensor comes back as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's share of a whole tensor, split as `like` is; whole, if that is not split or of another shape."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def copy_to_cpu(tensors: dict[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Return copies on the CPU if `keep`, else nothing. All processes must ask for split ones together, which become whole."""
    copies = {}
    for name, tensor in tensors.items():
        found = whole(tensor.detach())
        if keep:
            is_copy = isinstance(tensor, DTensor) and tensor.device_mesh.size() > 1
            copies[name] = found.to("cpu", copy=not is_copy)
    return copies


def whole_model(model: GPTModel, *, keep: bool) -> GPTModel:
    """Return the model; instead of a split one a whole copy on the CPU if `keep`. All processes must ask for it."""
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
    """Let a split model add gradients up over processes in the next backward pass, or only later."""
    cast(FSDPModule, model).set_requires_gradient_sync(is_last)
