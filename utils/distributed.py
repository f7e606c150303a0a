"""The processes of a run: which one this is, what device it uses, and sums over all of them."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def join() -> None:
    """Join the processes that torchrun (or any launcher that sets its variables) has started; else do nothing."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def is_first_here() -> bool:
    """Is this the process of its machine that does what only one should, as a download?"""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def wait_for_all() -> None:
    sum_over_ranks([0.0])


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Each number, summed over all ranks; one reduction for all of them."""
    if world() == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def from_main(value: T) -> T:
    """Rank 0's value, on every rank."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def pick_device(n_gpu: int | str, devices: str | None = None) -> tuple[torch.device, str | None]:
    """The device of this process, and what to warn of: fewer GPUs than asked for is no error, as in the 2020 template.

    `devices` is what `-d` gave: "0,1" picks these GPUs (the local rank chooses among them), "cpu" the processor.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if n_gpu == 0 or devices == "cpu":
        return torch.device("cpu"), None
    if accelerator is None:
        asked = f"-d {devices}" if devices else f"n_gpu: {n_gpu}"
        warn = f"{asked} was given, but torch finds no GPU on this machine: using the CPU"
        return torch.device("cpu"), warn if devices or n_gpu not in (1, "auto") else None
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    ids = [int(i) for i in devices.split(",")] if devices else list(range(torch.accelerator.device_count()))
    device = torch.device(accelerator.type, ids[local_rank % len(ids)])
    torch.accelerator.set_device_index(device.index)
    return device, None


def wrap(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Over several ranks: a model whose backward pass averages the gradients over them, while it computes them."""
    if world() == 1 or not any(p.requires_grad for p in model.parameters()):
        return model
    ids = [device.index] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)


def sync_gradients(model: torch.nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Within this, a backward pass averages gradients over the ranks: after the last micro-batch of a step only."""
    if last or not isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def average_gradients(model: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Average gradients over the ranks, where no DistributedDataParallel has done it in the backward pass."""
    if world() == 1 or isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients]) / world()
    dist.all_reduce(flat)
    for p, g in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
        p.grad = g.view_as(p)


def any_rank(flag: bool) -> bool:
    """Is it true on any rank? All must ask."""
    return flag if world() == 1 else sum_over_ranks([float(flag)])[0] > 0


def barrier() -> None:
    if world() > 1:
        dist.barrier()
