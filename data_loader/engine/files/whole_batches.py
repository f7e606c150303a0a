"""A data set that reads the rows of a batch at once."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset


class WholeBatches(Dataset):
    """Override `__getitems__`: indices [B] -> (inputs [B, ...], targets [B, ...])."""

    uses_sample_keys = True

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]
