"""Large tensors from workers: the same bits as without, whoever keeps them, in memory that is used again."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine import shared_memory
from data_loader.engine.shared_memory import LEAST, MOST, START, Sender


class Large(Dataset):
    """Batches of changing size, and a tensor that is no plain one."""

    uses_sample_keys = True

    def __len__(self) -> int:
        return 48

    def __getitems__(self, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.from_numpy(indices)
        size = LEAST // 16 + 100 * int(indices[0])
        images = index[:, None].expand(-1, size).float()
        return images, images.t(), index


def test_kept_batches_are_those_without_workers_and_memory_is_used_again() -> None:
    steps = 24
    found = []
    for num_workers in (0, 1):
        loader = BaseDataLoader(Large(), batch_size=4, num_workers=num_workers)
        stream = loader.iter_steps(0)
        found.append([next(stream) for _ in range(steps)])
        if num_workers:
            assert 0 < len(shared_memory._opened) <= loader.prefetch + 2
        stream.close()
    for without, sent in zip(*found, strict=True):
        for a, b in zip(without, sent, strict=True):
            assert torch.equal(a, b)
            assert a.stride() == b.stride()
    assert not shared_memory._opened  # it is freed with the workers


def test_memory_is_used_again_when_it_was_read_and_not_before() -> None:
    sender, tensors = Sender(), [torch.full((LEAST,), n, dtype=torch.uint8) for n in range(3)]
    try:
        first, second = (sender.dumps((tensor, tensor)) for tensor in tensors[:2])
        one, same = pickle.loads(first)
        assert one is same  # one tensor is sent once
        third = sender.dumps(tensors[2][: LEAST // 2 * 2])
        assert len(third) < 500  # in the memory of the first, which is not sent again
        assert torch.equal(pickle.loads(second)[0], tensors[1])
        assert torch.equal(pickle.loads(third), tensors[2])
        assert torch.equal(one, tensors[0])
        larger = torch.arange(LEAST)
        assert torch.equal(pickle.loads(sender.dumps(larger)), larger)
        assert len(sender._memory) == 2
    finally:
        shared_memory.close({key[0] for key in shared_memory._opened})


def test_a_batch_of_many_tensors_opens_few_files() -> None:
    sender = Sender()
    try:
        images = [torch.full((LEAST,), n, dtype=torch.uint8) for n in range(2 * MOST)]
        for image, got in zip(images, pickle.loads(sender.dumps(images)), strict=True):
            assert torch.equal(image, got)
        assert len(sender._memory) == MOST
    finally:
        shared_memory.close({key[0] for key in shared_memory._opened})


def test_a_small_tensor_leaves_a_large_one_its_memory() -> None:
    """Else each large one takes fresh memory, until all of it is as large as the largest."""
    sender = Sender()
    try:
        large, small = torch.zeros(8 * LEAST, dtype=torch.uint8), torch.ones(LEAST, dtype=torch.uint8)
        for _ in range(3):
            pickle.loads(sender.dumps([large]))
            pickle.loads(sender.dumps([small, large]))
        assert sorted(len(memory) for memory in sender._memory) == [START + LEAST, START + 8 * LEAST]
    finally:
        shared_memory.close({key[0] for key in shared_memory._opened})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_go_as_torch_sends_them() -> None:
    nested = torch.nested.nested_tensor([torch.ones(LEAST), torch.zeros(LEAST)])
    got = pickle.loads(Sender().dumps(nested))
    assert torch.equal(got[0], nested[0])
