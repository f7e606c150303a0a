"""Tensors in the tuples, lists and dicts of a batch; sharded tensors; counts of parameters and labels."""

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn


def each_tensor(function: Callable[[Tensor], Tensor], data: Any, own_to: Callable[[Any], Any] | None = None) -> Any:
    """The same structure with each tensor replaced by function(tensor).

    own_to: applied to objects with a method `to`, such as a PackedSequence or a graph.
    """
    if isinstance(data, Tensor):
        return function(data)
    if own_to is not None and hasattr(data, "to"):
        return own_to(data)
    if isinstance(data, dict):
        return {key: each_tensor(function, value, own_to) for key, value in data.items()}
    if isinstance(data, MutableMapping):
        mapping = copy.copy(data)
        for key, value in data.items():
            mapping[key] = each_tensor(function, value, own_to)
        return mapping
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        other = copy.copy(data)
        for name in getattr(data, "__dict__", data.__dataclass_fields__):  # it may have slots
            object.__setattr__(other, name, each_tensor(function, getattr(data, name), own_to))  # it may be frozen
        return other
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(each_tensor(function, value, own_to) for value in data))
    if isinstance(data, (list, tuple)):
        return type(data)(each_tensor(function, value, own_to) for value in data)
    return data


def to_device(data: Any, device: torch.device) -> Any:
    """Move all tensors of a batch to a device, asynchronously: to a GPU through pinned memory."""
    if device.type == "cpu":
        return data  # loaders make CPU tensors
    if device.type == "cuda":
        data = each_tensor(_pinned, data)
    # An asynchronous copy to MPS may read memory that was freed already (pytorch#189690)
    return each_tensor(lambda t: t.to(device, non_blocking=device.type != "mps"), data, lambda own: own.to(device))


def _pinned(tensor: Tensor) -> Tensor:
    if tensor.is_cuda:
        return tensor
    return (tensor.contiguous() if 0 in tensor.stride() else tensor).pin_memory()  # an expanded tensor cannot be pinned


def load_weights(model: nn.Module, weights: Mapping[str, Any], strict: bool = True) -> None:
    """load_state_dict of weights in a plain dict, which lacks the versions of the modules that wrote them.

    Without a version, a module takes weights for those of its first one, and torchvision's MNASNet refuses them.
    """
    versioned = OrderedDict(weights)
    versions = {name: {"version": module._version} for name, module in model.named_modules(remove_duplicate=False)}
    versioned._metadata = versions | getattr(weights, "_metadata", {})  # type: ignore[attr-defined]  # where state_dict() has them
    model.load_state_dict(versioned, strict=strict)


def local(tensor: Any) -> Tensor:
    """This rank's part of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a DistributedDataParallel wrapper."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_labels(targets: Tensor, ignore_index: int = -100) -> int | Tensor:
    """The number of labels that a mean cross-entropy is over: all but ignored ones; B x ... for probabilities [B, C].

    An integer where reading it is free, else a tensor [] on the device.
    """
    if targets.is_floating_point():
        return targets.numel() // targets.shape[1] if targets.dim() > 1 else 1
    if targets.device.type == "cpu" and ignore_index < 0 and targets.numel() and int(targets.min()) >= 0:
        return targets.numel()  # cheaper than counting
    return (targets != ignore_index).sum()
