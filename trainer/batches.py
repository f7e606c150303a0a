"""A batch on its way from the loader to a step."""

from typing import Any

import torch
from torch import Tensor

from logger.logger import log
from utils.errors import Stopped


def to_device(data: Any, device: torch.device) -> Any:
    """Move all tensors in a batch, also inside tuples, lists and dicts."""
    if isinstance(data, Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {key: to_device(value, device) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(to_device(value, device) for value in data))
    if isinstance(data, (list, tuple)):
        return type(data)(to_device(value, device) for value in data)
    return data


def note_skipped(bad: list[tuple[int, str]], skipped: list[int], allowed: int) -> None:
    """Add samples that could not be read, (index, why), to those `skipped`; raises Stopped above `allowed`."""
    for index, why in bad:
        if index not in skipped:
            skipped.append(index)
            log.warning(f"skipped ({len(skipped)} of {allowed} allowed): {why}")
    if len(skipped) > allowed:
        raise Stopped(
            f"more than trainer.skip_bad_samples = {allowed} samples could not be read: {sorted(skipped)}; repair or "
            f"remove them, or allow more"
        )
