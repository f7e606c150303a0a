"""Tensors in the tuples, lists and dicts of a batch, and in parts over several processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def each_tensor(function: Callable[[Tensor], Tensor], data: Any) -> Any:
    """The same structure, each tensor in it replaced by function(tensor)."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, dict):
        return {key: each_tensor(function, value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(each_tensor(function, value) for value in data))
    if isinstance(data, (list, tuple)):
        return type(data)(each_tensor(function, value) for value in data)
    return data


def to_device(data: Any, device: torch.device) -> Any:
    """Move all tensors of a batch without waiting: to a GPU from memory that the system cannot move meanwhile."""
    if device.type == "cpu":
        return data  # where a loader puts everything
    if device.type == "cuda":
        data = each_tensor(_pinned, data)
    # MPS may read memory that was freed meanwhile (pytorch#189690)
    return each_tensor(lambda t: t.to(device, non_blocking=device.type != "mps"), data)


def _pinned(tensor: Tensor) -> Tensor:
    if tensor.is_cuda:
        return tensor
    return (tensor.contiguous() if 0 in tensor.stride() else tensor).pin_memory()  # an expanded one cannot be written


def local(tensor: Any) -> Tensor:
    """This rank's part of a tensor, where it is a sharded one."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
