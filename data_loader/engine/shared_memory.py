"""Shared memory that workers send large tensors in and use again: fresh pages take ten times as long as a copy."""

import io
import os
from collections.abc import Iterable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

LEAST = 2**18  # bytes; smaller tensors are sent as torch does it
MOST = 16  # of a worker: each is an open file, here and there
START = 64  # where the tensor begins; the first byte before it says that it has not been received yet

_opened: dict[tuple[int, int], Tensor] = {}  # in the main process, by the worker's process and a number


class Sender:
    """Pickles what a worker sends."""

    def __init__(self) -> None:
        self._memory: list[Tensor] = []  # each uint8 [START + size of a tensor]

    def dumps(self, value: Any) -> bytes:
        file = io.BytesIO()
        _Pickler(file, self).dump(value)
        return file.getvalue()

    def reduce(self, tensor: Tensor) -> Any:
        """For pickle: the copy of a tensor in memory that is sent with it only once; NotImplemented: no more."""
        size, free = START + tensor.nbytes, [n for n, memory in enumerate(self._memory) if memory[0] == 0]
        # Not in one far too large: what needs that one would take fresh memory then
        number = next((n for n in free if size <= len(self._memory[n]) <= 2 * size), None)
        is_new = number is None
        if number is None:
            if not free and len(self._memory) >= MOST:
                return NotImplemented  # it is sent as torch does it
            number = free[0] if free else len(self._memory)  # instead of one that is too small, or one more
            self._memory[number : number + 1] = [torch.zeros(size, dtype=torch.uint8).share_memory_()]
        memory = self._memory[number]
        memory[START:size].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        memory[0] = 1
        return _receive, ((os.getpid(), number), memory if is_new else None, tensor.dtype, tensor.shape)


class _Pickler(ForkingPickler):
    def __init__(self, file: io.BytesIO, sender: Sender) -> None:
        super().__init__(file)
        self._sender = sender

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.layout == torch.strided and value.device.type == "cpu":
            plain = (
                not value.is_nested
                and value.is_contiguous()
                and not (value.requires_grad or value.is_quantized or value.is_shared())
            )
            if plain and value.nbytes >= LEAST:
                return self._sender.reduce(value)
        return NotImplemented


def _receive(key: tuple[int, int], memory: Tensor | None, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    if memory is not None:
        _opened[key] = memory
    memory = _opened[key]
    size = START + dtype.itemsize * torch.Size(shape).numel()
    tensor = memory[START:size].view(dtype).view(shape).clone()
    memory[0] = 0
    return tensor


def close(workers: Iterable[int | None]) -> None:
    """Forget the memory of these processes."""
    ended = set(workers)
    for key in [key for key in list(_opened) if key[0] in ended]:
        del _opened[key]
