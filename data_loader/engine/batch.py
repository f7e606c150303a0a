"""One micro-batch: its data and which samples they are."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from utils.tensors import each_tensor


class Batch:
    """The data of one micro-batch. Iterating or indexing it gives those of the data: `inputs, targets = batch`.

    data: what the collate function or `__getitems__` returned; None if no sample of the batch could be read.
    size: number of samples.
    indices: those that were read, in the same order, int64 [size]; fewer or more if `collate_fn` drops or adds samples.
    bad: skipped samples, (index, reason).
    shard: which micro-batch of its step this is.
    occurrence: that of the first sample, where samples come several times in an epoch (utils/seed.py).
    note: what the user should know about the data set, in the first batch that shows it.
    """

    __slots__ = ("bad", "data", "indices", "note", "occurrence", "shard", "size")

    def __init__(
        self,
        data: Any,
        indices: np.ndarray,
        bad: list[tuple[int, str]] | None = None,
        shard: int = 0,
        size: int | None = None,
    ) -> None:
        self.data, self.indices, self.size = data, indices, len(indices) if size is None else size
        self.bad = [] if bad is None else bad
        self.shard, self.occurrence, self.note = shard, 0, ""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def __getitem__(self, key: Any) -> Any:
        return self.data[key]

    def pin_memory(self) -> "Batch":
        """Called in torch's pinning thread."""
        if self.data is not None:
            self.data = each_tensor(Tensor.pin_memory, self.data)
        return self


def size_of(data: Any, given: int) -> int:
    """How many samples a batch holds that was made of `given` ones: the length that most of its tensors have.

    `given` where one has it, or where there is no tensor to count.
    """
    if data is None:  # the collate_fn left nothing
        return 0
    lengths: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        if tensor.dim():
            lengths.append(len(tensor))
        return tensor

    each_tensor(count, data)
    parts = data if isinstance(data, (list, tuple)) else ()
    entries = {len(part) for part in parts if type(part) in (list, tuple)}
    if not lengths or given in lengths or given in entries:
        return given
    if parts and len(entries) == 1 and len(set(lengths)) > 1 and all(type(p) in (list, tuple) for p in parts):
        return entries.pop()  # an entry per sample: images and boxes, say, as tuple(zip(*samples)) makes them
    return max(reversed(lengths), key=lengths.count)  # of several, the last one: that of the targets
