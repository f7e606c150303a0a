"""Makes a batch of samples: torch's default_collate, and dataclasses too."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch.utils.data import default_collate


def collate(samples: list[Any]) -> Any:
    """The default `collate_fn`: tensors, arrays, numbers, and tuples, dicts and dataclasses of them, are stacked."""
    return _with_dataclasses(samples) if _has_dataclass(samples[0]) else default_collate(samples)


def _has_dataclass(sample: Any) -> bool:
    if isinstance(sample, (tuple, list)):
        return any(_has_dataclass(part) for part in sample)
    if isinstance(sample, Mapping):
        return any(_has_dataclass(part) for part in sample.values())
    return dataclasses.is_dataclass(sample)


def _with_dataclasses(samples: list[Any]) -> Any:
    first = samples[0]
    if dataclasses.is_dataclass(first):
        batch = copy.copy(first)
        for field in dataclasses.fields(first):
            parts = collate([getattr(sample, field.name) for sample in samples])
            object.__setattr__(batch, field.name, parts)  # which may be frozen
        return batch
    if isinstance(first, Mapping):
        return {key: collate([sample[key] for sample in samples]) for key in first}
    parts = [collate(list(column)) for column in zip(*samples, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else parts  # as default_collate has it
