"""A batch is used like its data, and knows which samples it holds."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.batch import Batch, size_of
from utils.errors import SampleError


class Squares(Dataset):
    """Sample i is (i, i * i); those in `bad` cannot be read."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index in self.bad:
            raise ValueError("unreadable")
        return index, index * index


class SquaresAtOnce(Squares):
    def __getitems__(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        if set(indices.tolist()) & set(self.bad):
            raise ValueError("unreadable")
        return torch.from_numpy(indices), torch.from_numpy(indices * indices)


def test_a_batch_unpacks_and_indexes_as_its_data() -> None:
    inputs, targets = batch = Batch((torch.ones(2), torch.zeros(2)), np.arange(2))
    assert inputs is batch[0]
    assert targets is batch[1] is batch[-1]
    named = Batch({"text": "a", "label": 1}, np.arange(1))
    assert (list(named), named["label"], "text" in named) == (["text", "label"], 1, True)
    assert (batch.size, batch.bad, batch.shard) == (2, [], 0)
    batch.shard = 3
    with pytest.raises(AttributeError):
        batch.shards = 3  # type: ignore[attr-defined]


def test_a_batch_can_be_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(Batch((torch.ones(2),), np.array([4, 7]), [(5, "why")], 2)))
    assert (sent.size, sent.indices.tolist(), sent.bad, sent.shard) == (2, [4, 7], [(5, "why")], 2)
    assert torch.equal(sent.data[0], torch.ones(2))


def test_pinning_reaches_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch calls `pin_memory` of a class that it does not know; imitated: there may be no GPU."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    pinned = Batch({"images": torch.zeros(2), "pair": (torch.zeros(1), "name")}, np.arange(2)).pin_memory()
    assert pinned["images"].tolist() == [1, 1]
    assert (pinned["pair"][0].item(), pinned["pair"][1]) == (1, "name")
    assert Batch(None, np.arange(0)).pin_memory().data is None


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [Squares, SquaresAtOnce])
@pytest.mark.parametrize("bad", [(), (3, 8)])
def test_indices_are_those_of_the_samples_in_the_batch(kind: Any, workers: int, bad: tuple[int, ...]) -> None:
    loader = BaseDataLoader(kind(*bad), 6, validation_split=5, num_workers=workers)
    validation = loader.split_validation()
    assert validation is not None
    for each in (loader, validation):
        each.configure(seed=3, skip_bad_samples=len(bad))
    stream = loader.iter_steps(0)
    steps = [next(stream) for _ in range(loader.steps_per_epoch)]
    stream.close()
    batches = [*steps, *validation.iter_epoch()]
    for batch in batches:
        assert batch.indices.dtype == np.int64
        assert batch.indices.tolist() == batch[0].tolist()
        assert (batch.indices**2).tolist() == batch[1].tolist()
        assert batch.size == len(batch.indices)
    assert sorted(np.concatenate([batch.indices for batch in batches])) == [i for i in range(20) if i not in bad]
    assert sorted(index for batch in batches for index, _ in batch.bad) == sorted(bad)
    for step, batch in enumerate(steps):
        assert batch.indices.tolist() == [i for i in loader.indices(step).tolist() if i not in bad]


@pytest.mark.parametrize("kind", [Squares, SquaresAtOnce])
def test_a_batch_of_bad_samples_only_is_empty(kind: Any) -> None:
    loader = BaseDataLoader(kind(0, 1), 2)
    loader.configure(skip_bad_samples=2)
    batch = next(loader.iter_epoch())
    assert (batch.data, batch.size, batch.indices.tolist()) == (None, 0, [])
    assert [index for index, _ in batch.bad] == [0, 1]


@pytest.mark.parametrize("kind", [Squares, SquaresAtOnce])
def test_a_bad_sample_is_an_error_unless_it_may_be_skipped(kind: Any) -> None:
    message = r"sample 4 could not be read: ValueError: unreadable \(at test_batch.py:\d+\)\nRepair or remove it, or "
    with pytest.raises(SampleError, match=message + "set trainer.skip_bad_samples=N"):
        list(BaseDataLoader(kind(4), 5))


def test_samples_that_only_fail_together_are_named() -> None:
    class Ragged(Squares):
        def __getitems__(self, indices: np.ndarray) -> Tensor:
            return torch.stack([torch.zeros(int(i)) for i in indices])

    with pytest.raises(SampleError, match=r"samples \[0, 1\] could not be read together: RuntimeError: stack"):
        list(BaseDataLoader(Ragged(), 3))


@pytest.mark.parametrize("sizes", [(2, 3, 1), (2, 2, 2)])
def test_images_and_boxes_count_as_their_images(sizes: tuple[int, ...]) -> None:
    """What `tuple(zip(*samples))` makes of detection samples: a tuple of images and one of dicts."""
    images = tuple(torch.zeros(3, 8, 8) for _ in sizes)
    boxes = tuple({"boxes": torch.zeros(n, 4), "labels": torch.zeros(n)} for n in sizes)
    assert size_of((images, boxes), len(sizes)) == len(sizes)
    assert size_of((images, boxes), len(sizes) + 1) == len(sizes)  # the collate_fn dropped one
