"""What every data loader does: workers, the run's device, resident data."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

import data_loader
from data_loader import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader
from data_loader.engine.images.in_memory import ImageTensors, Normalize
from data_loader.transforms import RandomAffine, RandomCropFlip
from tests.tiny import tiny
from utils import tensors
from utils.errors import SampleError, UsageError
from utils.seed import hash64, keys_of, uniform

__all__ = ["tiny"]
ROOT = Path(data_loader.__file__).parent.parent
META = torch.device("meta")  # has shapes but no values; like a GPU, it does not mix with CPU tensors


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
    passes = [list(loader.iter_epoch(keep=True)) for _ in range(3)]
    assert [indices(batches) for batches in passes] == [list(range(24))] * 3
    kept = readers(passes[0])
    assert readers(passes[1]) == readers(passes[2]) == kept
    assert len(kept) == 2
    assert not readers(list(loader.iter_epoch())) & kept
    loader.close()
    wait_for(lambda: not multiprocessing.active_children())
    assert not readers(list(loader.iter_epoch(keep=True))) & kept
    loader.close()


def test_a_pass_that_was_left_early_starts_again() -> None:
    loader = BaseDataLoader(Pids(), 5, num_workers=2)
    begun = loader.iter_epoch(keep=True)
    assert indices([next(begun), next(begun)]) == list(range(9))
    assert indices(loader.iter_epoch(keep=True)) == list(range(24))
    loader.close()


def test_split_validation_does_not_touch_kept_workers() -> None:
    loader = BaseDataLoader(Pids(), 5, num_workers=1, validation_split=4)
    first = readers(list(loader.iter_epoch(keep=True)))
    loader.split_validation()
    assert readers(list(loader.iter_epoch(keep=True))) == first
    loader.close()


def test_each_rank_keeps_workers_for_its_part_of_a_pass() -> None:
    of_rank = []
    for rank in range(3):
        loader = BaseDataLoader(Pids(), 2, num_workers=1)  # batches of 2: nothing for the third rank
        loader.configure(rank=rank, world_size=3)
        of_rank.append([indices(loader.iter_epoch(keep=True)) for _ in range(2)])
        loader.close()
    assert of_rank == [[list(range(0, 24, 2))] * 2, [list(range(1, 24, 2))] * 2, [[], []]]


def test_a_bad_sample_is_reported_in_each_pass() -> None:
    data = Pids()
    data.bad = 7
    loader = BaseDataLoader(data, 5, num_workers=1)
    for _ in range(2):
        with pytest.raises(SampleError, match="sample 7 could not be read: ValueError: unreadable"):
            list(loader.iter_epoch(keep=True))
    loader.configure(skip_bad_samples=1)
    for _ in range(2):
        batches = list(loader.iter_epoch(keep=True))
        assert indices(batches) == [i for i in range(24) if i != 7]
        assert [index for batch in batches for index, _ in batch.bad] == [7]
    loader.close()


@pytest.mark.parametrize(
    "pool",
    [
        "loader.iter_steps(0)",
        pytest.param("iter(loader)", marks=pytest.mark.slow),
        pytest.param("loader.iter_epoch(keep=True)", marks=pytest.mark.slow),
    ],
)
def test_python_exits_with_workers_running(pool: str) -> None:
    """Workers ignore the SIGTERM that Python sends them at exit."""
    code = f"from data_loader.data_loaders import *; loader = DigitsDataLoader(num_workers=2); it = {pool}; next(it)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


def test_a_run_leaves_no_workers_and_warns_of_useless_ones(tiny, capsys) -> None:
    hint = "data_loader.args.num_workers is 1, but the data is in memory"
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
    stream = BaseDataLoader(data, 1, num_workers=2, prefetch=3).iter_steps(0)
    next(stream)
    wait_for(lambda: data.read.value == 7)  # the one that was read, and 3 from each worker
    time.sleep(0.1)
    assert data.read.value == 7
    stream.close()
    with pytest.raises(UsageError, match="prefetch is 0"):
        BaseDataLoader(data, 1, prefetch=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_batch_transform_runs_in_the_main_process(workers: int) -> None:
    loader = BaseDataLoader(Pids(), 8, num_workers=workers, batch_transform=lambda batch: (batch[0] * 2, os.getpid()))
    batches = list(loader)
    assert torch.equal(torch.cat([batch[0] for batch in batches]), torch.arange(24) * 2)
    assert {batch[1] for batch in batches} == {os.getpid()}


# --- the run's device


def test_batches_come_on_the_device_and_are_transformed_there() -> None:
    loader = BaseDataLoader(Pids(), 8, batch_transform=lambda batch: (batch[0], batch[1].device))
    loader.configure(device=META)
    for indices, device in loader:
        assert indices.is_meta
        assert device == META
    loader = BaseDataLoader(Pids(), 8)
    loader.configure(device=META)
    assert all(tensor.is_meta for batch in loader for tensor in batch)


def test_to_a_gpu_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through pinned memory, whatever the batch is made of. Imitated: there may be no GPU."""
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
    assert same.stride() == (1,)  # an expanded tensor cannot be copied into


@pytest.mark.parametrize("split", [0, 100])
def test_resident_data_gives_the_same_batches(split: int) -> None:
    given: dict[str, Any] = {"batch_size": 64, "validation_split": split, "transforms": [RandomAffine(10, 1)]}
    usual, resident = DigitsDataLoader(**given), DigitsDataLoader(**given, resident=True)
    for loader in (usual, resident):
        loader.configure(seed=3)
    for (a, b), _ in zip(zip(usual.iter_steps(20), resident.iter_steps(20), strict=False), range(30), strict=False):
        assert torch.equal(a.data[0], b.data[0])
        assert torch.equal(a.data[1], b.data[1])


def test_resident_data_is_on_the_device_once_and_batches_are_made_there(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(50, 3, 8, 8, dtype=torch.uint8)
    plain = ImageTensors(images, torch.zeros(50, dtype=torch.long), (0.5,) * 3, (0.2,) * 3)
    index_select = Tensor.index_select

    def strict(tensor: Tensor, dim: int, index: Tensor) -> Tensor:  # like a GPU; `meta` is not strict
        assert index.device == tensor.device
        return index_select(tensor, dim, index)

    monkeypatch.setattr(Tensor, "index_select", strict)
    monkeypatch.setattr(Normalize, "__call__", lambda _, images: images.float())  # torch.add(out=) rejects `meta`
    loader = BaseDataLoader(
        plain.augmented(RandomCropFlip(2, True)), 16, validation_split=10, eval_dataset=plain, resident=True
    )
    validation = loader.split_validation()
    assert validation is not None
    for each in (loader, validation):
        each.configure(device=META)
    assert plain.tensors is loader.dataset.tensors
    assert all(tensor.is_meta for tensor in plain.tensors)
    for batches, size in ((loader.iter_steps(0), 13), (validation.iter_epoch(), 10)):
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
    with pytest.raises(UsageError, match=r"a Pids cannot be resident, because it has no `to\(device\)`"):
        BaseDataLoader(Pids(), 4, resident=True)
    with pytest.raises(UsageError, match="num_workers is 2, but workers cannot read data on a device; leave out"):
        DigitsDataLoader(num_workers=2, resident=True)
    plain = DigitsDataLoader().dataset
    with pytest.raises(UsageError, match="a Pids cannot be resident"):
        BaseDataLoader(plain.augmented(RandomCropFlip()), 4, resident=True, eval_dataset=Pids())


def test_uniform_is_the_same_on_every_device() -> None:
    """torch's int64 arithmetic gives the bits of NumPy's uint64."""
    keys = torch.from_numpy(keys_of(1, 2, np.arange(1000)))
    keys[:4] = torch.tensor([0, 1, 2**63 - 1, -5])
    counters = np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 8, dtype=np.uint64)
    bits = hash64(keys.numpy().astype(np.uint64)[:, None] + counters) >> np.uint64(40)
    assert torch.equal(uniform(keys, 7), torch.from_numpy(bits.astype(np.float32) * np.float32(2**-24)))
    assert uniform(keys.to(META), 7).shape == (1000, 7)


# --- a collate_fn that drops samples


class Dropping(BaseDataLoader):
    """Every sample whose label is divisible by 3 is left out; only="some" leaves other numbers per micro-batch."""

    def __init__(self, batch_size: int, drop: bool, training: bool = True, **kwargs: Any) -> None:
        keep = [i for i in range(60) if i % 3]
        data = [(torch.full((64,), i / 60), i % 10) for i in (range(60) if drop else keep)]

        def collate(samples: list[Any]) -> Any:
            left = [sample for sample in samples if round(float(sample[0][0]) * 60) % 3]
            return torch.stack([x for x, _ in left]), torch.tensor([y for _, y in left])

        super().__init__(data, batch_size, shuffle=False, collate_fn=collate if drop else None, **kwargs)


def test_dropped_samples_count_nowhere(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, micro-batches and validation are those of a data set without them."""
    monkeypatch.setattr(data_loader.data_loaders, "Dropping", Dropping, raising=False)
    runs = {}
    for name, drop, batch_size, accumulate in (("a", False, 8, 1), ("b", True, 12, 1), ("c", True, 12, 2)):
        runs[name] = tiny.train(
            f"data_loader={{type: Dropping, args: {{batch_size: {batch_size}, drop: {drop}}}}}",
            f"trainer.accumulate={accumulate}", "trainer.limit_batches=null", "trainer.log_steps=1",
            "loss={type: cross_entropy}", "optimizer.args.lr=0.1", run=name,
        )  # fmt: skip
    weights = {name: torch.cat([p.flatten() for p in run.model.parameters()]) for name, run in runs.items()}
    for name in ("b", "c"):
        torch.testing.assert_close(weights[name], weights["a"], atol=1e-6, rtol=0)
        for mine, plain in zip(tiny.points("train", name), tiny.points("train", "a"), strict=True):
            assert mine["loss"] == pytest.approx(plain["loss"], abs=1e-6)
            assert mine["accuracy"] == pytest.approx(plain["accuracy"], abs=1e-6)


# --- what is no data set


def test_an_iterable_data_set_is_refused_with_what_to_do() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(range(10))

    stream: Any
    for stream in (Stream(), iter(range(10)), (i for i in range(3)), DataLoader(Pids()), Pids):
        with pytest.raises(UsageError, match=r"dataset is .*cannot be read by index.*Read a stream into a list"):
            BaseDataLoader(stream, 2)
    with pytest.raises(UsageError, match=r"valid_dataset is a Stream, which cannot be read by index"):
        BaseDataLoader(Pids(), 2, valid_dataset=Stream())
    with pytest.raises(UsageError, match=r"eval_dataset is a Stream, which cannot be read by index"):
        BaseDataLoader(Pids(), 2, eval_dataset=Stream())


@pytest.mark.parametrize(
    "length, words",
    [
        (None, "the number of samples of dataset, a Lying, is not known: len() raises TypeError: object of type"),
        (-1, "is not known: len() raises ValueError: __len__() should return >= 0"),
        (2.0, "is not known: len() raises TypeError: 'float' object cannot be interpreted as an integer"),
        (0, "the data set has no samples; check where it looks for them"),
    ],
)
def test_a_length_that_is_none_is_refused(length: Any, words: str) -> None:
    class Lying:
        if length is not None:
            __len__ = lambda self: length  # noqa: E731

        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(UsageError) as error:
        BaseDataLoader(Lying(), 2)
    assert words in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_length_that_lies_is_named(workers: int) -> None:
    class Longer(list):
        def __len__(self) -> int:
            return 12

    message = r"sample 10 could not be read: IndexError: list index out of range\nThe data set's len\(\) is 12: it must"
    with pytest.raises(SampleError, match=message):
        list(BaseDataLoader(Longer(range(10)), 2, num_workers=workers))
