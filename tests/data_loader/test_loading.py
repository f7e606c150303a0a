"""What every data loader does: its order, its workers, the run's device."""

import multiprocessing
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import base_data_loader
from data_loader.base_data_loader import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader, ImageTensors, Normalise
from data_loader.sampler import Permutation, StepSampler
from data_loader.transforms import RandomCropFlip
from tests.tiny import tiny
from utils import tensors
from utils.errors import Refused, SampleError
from utils.seed import hash64, keys_of, uniform

__all__ = ["tiny"]
META = torch.device("meta")  # has shapes and no values, and mixes with the CPU as little as a GPU does


# --- order


@pytest.mark.parametrize(
    "n, key, order",
    [
        (10, 1, [3, 1, 4, 5, 8, 6, 0, 7, 2, 9]),
        (1000, 2, [376, 331, 774, 43, 999, 92, 193, 805, 778, 109]),
        (
            10**8,
            3,
            [94107665, 86747579, 85095650, 70673601, 97371668, 71912438, 69646771, 56973399, 73127573, 56292855],
        ),
        (2**40, 4, [151868009420, 483652833081, 806424052487, 277555012565, 837995269328]),
    ],
)
def test_the_order_of_a_seed_never_changes(n: int, key: int, order: list[int]) -> None:
    """Or runs that were begun with an earlier version would see some samples twice."""
    assert Permutation(n, key)(np.arange(len(order))).tolist() == order


@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 12_800, 2**16 + 1])
def test_every_sample_comes_exactly_once(n: int) -> None:
    assert sorted(Permutation(n, 5)(np.arange(n))) == list(range(n))


def test_an_order_of_a_billion_samples_takes_no_memory() -> None:
    tracemalloc.start()
    _, first = next(StepSampler(10**9, 128, True, seed=0).batches(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(first)) == 128
    assert peak < 10**6


# --- workers


class Pids(Dataset):
    """Sample i is (i, the process that read it); `bad` cannot be read."""

    bad = -1

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index == self.bad:
            raise ValueError("unreadable")
        return index, os.getpid()


def indices(batches: Any) -> list[int]:
    return [int(i) for batch in batches for i in (batch.data[0] if batch.data else [])]


def readers(batches: list[Any]) -> set[int]:
    return {int(pid) for batch in batches for pid in batch.data[1]}


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 300
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_workers_are_kept_from_pass_to_pass() -> None:
    loader = BaseDataLoader(Pids(), 5, num_workers=2)
    passes = [list(loader.once(keep=True)) for _ in range(3)]
    assert [indices(batches) for batches in passes] == [list(range(24))] * 3
    kept = readers(passes[0])
    assert readers(passes[1]) == readers(passes[2]) == kept
    assert len(kept) == 2
    assert not readers(list(loader.once())) & kept
    loader.close()
    wait_for(lambda: not multiprocessing.active_children())
    assert not readers(list(loader.once(keep=True))) & kept
    loader.close()


def test_a_pass_that_was_broken_off_is_begun_anew() -> None:
    loader = BaseDataLoader(Pids(), 5, num_workers=2)
    begun = loader.once(keep=True)
    assert indices([next(begun), next(begun)]) == list(range(9))
    assert indices(loader.once(keep=True)) == list(range(24))
    loader.close()


def test_making_the_validation_loader_leaves_kept_workers_alone() -> None:
    loader = BaseDataLoader(Pids(), 5, num_workers=1, validation_split=4)
    first = readers(list(loader.once(keep=True)))
    loader.split_validation()
    assert readers(list(loader.once(keep=True))) == first
    loader.close()


def test_each_rank_keeps_workers_for_its_part_of_a_pass() -> None:
    of_rank = []
    for rank in range(3):
        loader = BaseDataLoader(Pids(), 2, num_workers=1)  # batches of 2: nothing for the third rank
        loader.configure(rank=rank, world=3)
        of_rank.append([indices(loader.once(keep=True)) for _ in range(2)])
        loader.close()
    assert of_rank == [[list(range(0, 24, 2))] * 2, [list(range(1, 24, 2))] * 2, [[], []]]


def test_a_bad_sample_is_told_in_each_pass() -> None:
    data = Pids()
    data.bad = 7
    loader = BaseDataLoader(data, 5, num_workers=1)
    for _ in range(2):
        with pytest.raises(SampleError, match="sample 7 could not be read: ValueError: unreadable"):
            list(loader.once(keep=True))
    loader.configure(skip_bad_samples=1)
    for _ in range(2):
        batches = list(loader.once(keep=True))
        assert indices(batches) == [i for i in range(24) if i != 7]
        assert [index for batch in batches for index, _ in batch.bad] == [7]
    loader.close()


@pytest.mark.parametrize("pool", ["it = iter(loader)", "it = loader.stream(0)", "it = loader.once(keep=True)"])
def test_python_exits_with_workers_running(pool: str) -> None:
    """They ignore the SIGTERM by which it would end them."""
    code = f"from data_loader.data_loaders import *; loader = DigitsDataLoader(num_workers=2); {pool}; next(it)"
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(base_data_loader.__file__).parent.parent, check=True, timeout=300
    )


def test_a_run_leaves_no_workers_and_tells_of_those_that_slow_it_down(tiny, capsys) -> None:
    hint = "data_loader.args.num_workers is 1, and the data are in memory"
    tiny.train("data_loader.args.num_workers=1", "trainer.epochs=1")
    assert not multiprocessing.active_children()
    assert tiny.steps("valid") == [6]
    assert capsys.readouterr().out.count(hint) == 1
    tiny.build()
    assert "num_workers" not in capsys.readouterr().out


class Counting(Dataset):
    def __init__(self) -> None:
        self.read = multiprocessing.Value("i", 0)

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        with self.read.get_lock():
            self.read.value += 1
        return index


def test_prefetch_is_how_many_batches_a_worker_reads_ahead() -> None:
    data = Counting()
    stream = BaseDataLoader(data, 1, num_workers=2, prefetch=3).stream(0)
    next(stream)
    wait_for(lambda: data.read.value == 7)  # the one taken, and 3 of each worker
    time.sleep(0.1)
    assert data.read.value == 7
    stream.close()  # type: ignore[attr-defined]
    with pytest.raises(Refused, match="prefetch is 0"):
        BaseDataLoader(data, 1, prefetch=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_finish_is_done_in_the_main_process(workers: int) -> None:
    loader = BaseDataLoader(Pids(), 8, num_workers=workers, finish=lambda batch: (batch[0] * 2, os.getpid()))
    batches = list(loader)
    assert torch.equal(torch.cat([batch[0] for batch in batches]), torch.arange(24) * 2)
    assert {batch[1] for batch in batches} == {os.getpid()}


# --- the run's device


def test_batches_come_on_the_device_and_are_finished_there() -> None:
    loader = BaseDataLoader(Pids(), 8, finish=lambda batch: (batch[0], batch[1].device))
    loader.configure(device=META)
    for indices, device in loader:
        assert indices.is_meta
        assert device == META
    loader = BaseDataLoader(Pids(), 8)
    loader.configure(device=META)
    assert all(tensor.is_meta for batch in loader for tensor in batch)


def test_to_a_gpu_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of pinned memory, whatever the batch is made of; imitated, for want of a GPU."""
    done: list[str] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        done.append("pinned")
        return tensor

    def to(tensor: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
        done.append(f"{device} {non_blocking}")
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", to)
    batch: dict[str, Any] = {"images": torch.zeros(2), "pair": (torch.zeros(1), [torch.ones(1)]), "name": "x"}
    moved = tensors.to_device(batch, torch.device("cuda", 1))
    assert done == ["pinned"] * 3 + ["cuda:1 True"] * 3
    assert moved["pair"][1][0] is batch["pair"][1][0]
    assert moved["name"] == "x"
    done.clear()
    same = tensors.to_device(torch.zeros(1).expand(5), torch.device("cuda", 1))
    assert same.stride() == (1,)  # into several numbers at one place nothing could be copied


@pytest.mark.parametrize("split", [0, 100])
def test_resident_data_give_the_same_batches(split: int) -> None:
    given: dict[str, Any] = {"batch_size": 64, "validation_split": split, "rotate": 10, "shift": 1}
    usual, resident = DigitsDataLoader(**given), DigitsDataLoader(**given, resident=True)
    for loader in (usual, resident):
        loader.configure(seed=3)
    for (a, b), _ in zip(zip(usual.stream(20), resident.stream(20), strict=False), range(30), strict=False):
        assert torch.equal(a.data[0], b.data[0])
        assert torch.equal(a.data[1], b.data[1])


def test_resident_data_are_on_the_device_once_and_batches_are_made_there(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(50, 3, 8, 8, dtype=torch.uint8)
    plain = ImageTensors(images, torch.zeros(50, dtype=torch.long), (0.5,) * 3, (0.2,) * 3)
    index_select = Tensor.index_select

    def strict(tensor: Tensor, dim: int, index: Tensor) -> Tensor:  # as a GPU is, and `meta` is not
        assert index.device == tensor.device
        return index_select(tensor, dim, index)

    monkeypatch.setattr(Tensor, "index_select", strict)
    monkeypatch.setattr(Normalise, "__call__", lambda _, images: images.float())  # its torch.add() is none for `meta`
    loader = BaseDataLoader(
        plain.augmented(RandomCropFlip(2, True)), 16, validation_split=10, eval_dataset=plain, resident=True
    )
    validation = loader.split_validation()
    assert validation is not None
    for each in (loader, validation):
        each.configure(device=META)
    assert plain.tensors is loader.dataset.tensors
    assert all(tensor.is_meta for tensor in plain.tensors)
    for batches, size in ((loader.stream(0), 13), (validation.once(), 10)):
        data, labels = next(batches).data
        assert data.is_meta
        assert labels.is_meta
        assert data.shape == (size, 3, 8, 8)
        assert data.dtype == torch.float32


def test_both_data_sets_become_resident() -> None:
    both = [ImageTensors(torch.zeros(9, 1, 2, 2), torch.zeros(9), (0.5,), (0.2,)) for _ in range(2)]
    BaseDataLoader(both[0], 4, eval_dataset=both[1], resident=True).configure(device=META)
    assert all(tensor.is_meta for data in both for tensor in data.tensors)


def test_what_cannot_be_resident_is_refused() -> None:
    with pytest.raises(Refused, match=r"a Pids cannot be resident; what has `to\(device\)` can"):
        BaseDataLoader(Pids(), 4, resident=True)
    with pytest.raises(Refused, match="read by no workers, and num_workers is 2; leave out one of the two"):
        DigitsDataLoader(num_workers=2, resident=True)
    plain = DigitsDataLoader().dataset
    with pytest.raises(Refused, match="a Pids cannot be resident"):
        BaseDataLoader(plain.augmented(RandomCropFlip()), 4, resident=True, eval_dataset=Pids())


def test_uniform_is_the_same_on_every_device() -> None:
    """numpy's uint64 arithmetic, which it was written in first, against torch's int64."""
    keys = torch.from_numpy(keys_of(1, 2, np.arange(1000)))
    keys[:4] = torch.tensor([0, 1, 2**63 - 1, -5])
    counters = np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 8, dtype=np.uint64)
    bits = hash64(keys.numpy().astype(np.uint64)[:, None] + counters) >> np.uint64(40)
    assert torch.equal(uniform(keys, 7), torch.from_numpy(bits.astype(np.float32) * np.float32(2**-24)))
    assert uniform(keys.to(META), 7).shape == (1000, 7)
