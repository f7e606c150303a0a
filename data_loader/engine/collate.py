"""Makes a batch of samples: torch's default_collate, and dataclasses too."""

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate


def collate(samples: list[Any] | tuple[Any, ...]) -> Any:
    """The default `collate_fn`: tensors, arrays, numbers, and tuples, dicts and dataclasses of them, are stacked."""
    first = samples[0]
    if type(first) is Tensor and first.layout == torch.strided and not first.is_nested:
        return torch.stack(samples)  # not into fresh shared memory in a worker (shared_memory.py)
    if type(first) is np.ndarray and first.dtype.kind in "biufc":
        return collate([torch.as_tensor(sample) for sample in samples])
    if isinstance(first, dict) and all(isinstance(s, dict) and s.keys() == first.keys() for s in samples):
        batch = copy.copy(first)
        batch.update({key: collate([sample[key] for sample in samples]) for key in first})
        return batch
    if isinstance(first, (tuple, list)) and all(len(sample) == len(first) for sample in samples):
        parts = [collate(column) for column in zip(*samples, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts  # as default_collate has it
    if dataclasses.is_dataclass(first):
        made = copy.copy(first)
        for field in dataclasses.fields(first):
            parts = collate([getattr(sample, field.name) for sample in samples])
            object.__setattr__(made, field.name, parts)  # which may be frozen
        return made
    return default_collate(samples)  # type: ignore[arg-type]  # it takes tuples too
