"""A data loader around a data set of one's own, which a config names without a loader class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader.engine.base_data_loader import BaseDataLoader
from data_loader.engine.failures import shape_of
from utils.errors import UsageError
from utils.tensors import to_device


def loader_of(name: str, made: Any, options: Mapping[str, Any]) -> BaseDataLoader:
    """A loader of what the class or function `name` made: a data set, a list of samples, a tuple of tensors.

    options: for BaseDataLoader. Raises UsageError for anything else.
    """
    if isinstance(made, BaseDataLoader):  # a function that does not say what it returns
        if options:
            raise UsageError(f"data_loader: {name} makes a data loader, and does not accept {', '.join(options)}")
        return made
    if options.get("batch_size") is None:
        raise UsageError(f"data_loader: {name} makes a data set; give it data_loader.args.batch_size")
    if isinstance(made, tuple) and made and all(isinstance(part, (Tensor, np.ndarray)) for part in made):
        made = Tensors(made)
    elif isinstance(made, tuple) or not hasattr(made, "__len__") or not hasattr(made, "__getitem__"):
        raise UsageError(
            f"data_loader: {name} made {shape_of(made)}; expected a data set with __getitem__ and __len__, a list of "
            f"samples, or a tuple of tensors, such as (inputs, targets)"
        )
    return BaseDataLoader(made, **options)


class Tensors(Dataset):
    """Tensors or arrays in memory, each [N, ...]: whole batches are read at once."""

    in_memory = uses_sample_keys = True

    def __init__(self, tensors: Sequence[Tensor | np.ndarray]) -> None:
        """Raises UsageError if they are not equally long."""
        self.tensors = [torch.as_tensor(tensor) for tensor in tensors]
        if any(not tensor.dim() for tensor in self.tensors) or len({len(tensor) for tensor in self.tensors}) > 1:
            raise UsageError(
                f"data_loader: the tensors of a data set need one length, but they are {shape_of(tuple(tensors))}"
            )

    def to(self, device: torch.device) -> None:
        """Move the tensors, also those of every copy of this data set (`ImageTensors.augmented`)."""
        self.tensors[:] = [tensor.to(device) for tensor in self.tensors]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, ...]:
        index = to_device(torch.from_numpy(np.asarray(indices)), self.tensors[0].device)
        return tuple(tensor.index_select(0, index) for tensor in self.tensors)  # half the time of tensor[index]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)
