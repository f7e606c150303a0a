"""Each sample is the same with any number of workers, in any order and after a resume, whatever it draws from."""

import dataclasses
import itertools
import multiprocessing
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset, default_collate, random_split

from data_loader import BaseDataLoader
from data_loader.engine.images.in_memory import ImageTensors
from data_loader.transforms import RandomAffine
from tests.slow import slow_but
from utils.errors import SampleError, UsageError

N, BATCH, STEPS = 24, 5, 5

MODULE_RNG = np.random.default_rng(0)


class Noise(Dataset):
    """Sample i is i + what `draw` draws."""

    def __init__(self, draw: Callable[[], float] = np.random.rand) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(index + float(self.draw()), dtype=torch.float64)


class OwnGenerator(Noise):
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rng: Any = {
            "numpy": np.random.default_rng(1),
            "philox": np.random.Generator(np.random.Philox(1)),
            "RandomState": np.random.RandomState(1),
            "python": random.Random(1),
            "torch": torch.Generator().manual_seed(1),
        }.get(kind)

    def draw(self) -> float:  # type: ignore[override]
        return float(torch.rand((), generator=self.rng)) if self.kind == "torch" else self.rng.random()  # type: ignore


class LazyGenerator(Noise):
    """Makes its generator in the worker: the usual recipe against equal draws in all workers."""

    rng = None

    def draw(self) -> float:  # type: ignore[override]
        self.rng = self.rng or np.random.default_rng(2)
        return self.rng.random()


class OfItsClass(Noise):
    rng = random.Random(4)

    def draw(self) -> float:  # type: ignore[override]
        return self.rng.random()


class OfItsModule(Noise):
    def draw(self) -> float:  # type: ignore[override]
        return MODULE_RNG.random()


class Jitter:
    def __init__(self) -> None:
        self.inner = [{"rng": np.random.default_rng(3)}]

    def __call__(self, sample: Tensor) -> Tensor:
        return sample + self.inner[0]["rng"].random()


class InItsTransform(Noise):
    def __init__(self) -> None:
        super().__init__(float)
        self.transforms = [Jitter()]

    def __getitem__(self, index: int) -> Tensor:
        return self.transforms[0](super().__getitem__(index))


def of_a_closure() -> Noise:
    rng = np.random.default_rng(5)
    return Noise(lambda: rng.random())


class HuggingFace(Noise):
    """`__getitems__` gives a list, and takes one: `datasets.Dataset` in short."""

    def __getitems__(self, keys: list[int]) -> list[dict[str, Tensor]]:
        assert keys + [0]  # an array would add
        return [{"x": self[int(key)]} for key in keys]


class Batches(Noise):
    """`__getitems__` gives a batch, and draws without sample_keys()."""

    def __getitems__(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(indices + np.random.rand(len(indices)))


def split(dataset: Dataset[Any]) -> Dataset[Any]:
    return random_split(dataset, [N - 4, 4], torch.Generator().manual_seed(0))[0]


def images() -> ImageTensors:
    pixels = torch.arange(N * 64, dtype=torch.uint8).view(N, 1, 8, 8)
    return ImageTensors(pixels, torch.arange(N), (0.5,), (0.5,)).augmented(RandomAffine(rotate=20, shift=2))


DATA: dict[str, Callable[[], Any]] = {
    "random_split": lambda: split(Noise()),
    "random_split, python": lambda: split(Noise(random.random)),
    "random_split, torch": lambda: split(Noise(lambda: float(torch.rand(())))),
    "Subset of a Subset": lambda: Subset(split(Noise()), range(3, 20)),
    "ConcatDataset of Subsets": lambda: ConcatDataset([split(Noise()), Subset(Noise(), range(4))]),
    "ConcatDataset that uses keys": lambda: ConcatDataset([images(), images()]),
    "StackDataset": lambda: StackDataset(Noise(), Noise(random.random)),
    "StackDataset, dict": lambda: StackDataset(a=Noise(), b=split_whole(Noise())),
    "Hugging Face": HuggingFace,
    "batches": Batches,
    "Subset of batches": lambda: Subset(Batches(), list(range(N))[::-1]),
    **{f"own {k}": partial(OwnGenerator, k) for k in ("numpy", "philox", "RandomState", "python", "torch")},
    "own, in a random_split": lambda: split(OwnGenerator("numpy")),
    "two own": lambda: StackDataset(OwnGenerator("numpy"), OwnGenerator("python")),
    "lazy": LazyGenerator,
    "of its class": OfItsClass,
    "of its module": OfItsModule,
    "in its transform": InItsTransform,
    "a bound method": lambda: Noise(np.random.default_rng(6).random),
    "a closure": of_a_closure,
}


def split_whole(dataset: Dataset[Any]) -> Dataset[Any]:
    return Subset(dataset, list(range(N)))


def read(loader: BaseDataLoader, first: int, last: int) -> list[Any]:
    """The batches of steps, over an end of an epoch; begun at `first`, as a resume does."""
    stream = loader.iter_steps(first)
    batches = [batch.data for batch in itertools.islice(stream, last - first)]
    stream.close()
    return batches


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b))


FAST = ("random_split", "ConcatDataset of Subsets", "Hugging Face", "batches", "own numpy", "of its class", "a closure")


@pytest.mark.parametrize("name", slow_but(FAST.__contains__, DATA))
def test_the_same_with_workers_and_after_a_resume(name: str) -> None:
    def loader(workers: int) -> BaseDataLoader:
        np.random.seed(workers + 7), random.seed(workers), torch.manual_seed(workers)  # as a new process would differ
        made = BaseDataLoader(DATA[name](), BATCH, num_workers=workers)
        made.configure(seed=3)
        return made

    whole = read(loader(0), 0, 7)
    assert same(whole, read(loader(2), 0, 7))
    assert same(whole[4:], read(loader(0), 4, 7))
    assert same(whole[4:], read(loader(2), 4, 7))
    assert same(list(loader(0)), list(loader(2)))


def test_draws_differ_between_samples_epochs_and_generators() -> None:
    for dataset in (split_whole(Noise()), OwnGenerator("numpy"), OwnGenerator("python")):
        loader = BaseDataLoader(dataset, 12, shuffle=False)
        drawn = torch.cat(read(loader, 0, 4)) % 1
        assert len(set(drawn.tolist())) == 2 * N
    two = BaseDataLoader(StackDataset(OwnGenerator("python"), Noise(random.random)), N, shuffle=False)
    a, b = read(two, 0, 1)[0]
    assert not (a == b).any()


def test_samples_are_those_of_the_data_set_itself() -> None:
    """What a Subset draws is what its data set would draw alone: seeded by the index in the Subset."""
    alone, subset = (BaseDataLoader(data, BATCH) for data in (Noise(), split_whole(Noise())))
    assert same(read(alone, 0, 7), read(subset, 0, 7))


def test_lists_that_do_not_draw_are_read_at_once() -> None:
    calls: list[int] = []

    class Counting(HuggingFace):
        def __getitems__(self, keys: list[int]) -> list[dict[str, Tensor]]:
            calls.append(len(keys))
            return super().__getitems__(keys)

    read(BaseDataLoader(Counting(float), 6), 0, 4)
    assert calls[-3:] == [6, 6, 6]
    calls.clear()
    read(BaseDataLoader(Counting(), 6), 0, 4)
    assert calls[-18:] == [1] * 18


def test_a_list_of_another_length_is_an_error() -> None:
    class Pair(Noise):
        def __getitems__(self, indices: np.ndarray) -> list[Tensor]:
            return [torch.zeros(len(indices)), torch.zeros(len(indices))]

    message = r"__getitems__ returned a list of 2 for 4 indices; return a list with one item per index, or the batch "
    with pytest.raises(SampleError, match=message):
        read(BaseDataLoader(Pair(), 5), 0, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_generators_that_cannot_be_seeded_are_refused(workers: int) -> None:
    with pytest.raises(UsageError, match=r"dataset.draw is a random.SystemRandom, which cannot be seeded"):
        read(BaseDataLoader(Noise(random.SystemRandom().random), 5, num_workers=workers), 0, 1)
    many = Noise(float)
    many.rngs = [np.random.default_rng(i) for i in range(N)]  # type: ignore[attr-defined]
    with pytest.raises(
        UsageError, match=r"has 24 random generators \(dataset.rngs\[0\], ...\); up to 16 can be seeded"
    ):
        read(BaseDataLoader(many, 5, num_workers=workers), 0, 1)


class Mixup:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(8)

    def __call__(self, samples: list[Tensor]) -> Tensor:
        return torch.stack(samples) * self.rng.random() + random.random() + torch.rand(len(samples))


def test_draws_of_collate_fn_and_batch_transform() -> None:
    def loader(workers: int) -> BaseDataLoader:
        np.random.seed(workers + 7), random.seed(workers), torch.manual_seed(workers)
        mixup = Mixup()
        return BaseDataLoader(
            Noise(), BATCH, num_workers=workers, collate_fn=Mixup(), batch_transform=lambda batch: mixup(list(batch))
        )

    whole = read(loader(0), 0, 7)
    assert same(whole, read(loader(2), 0, 7))
    assert same(whole[4:], read(loader(2), 4, 7))


def test_a_data_set_that_counts_its_reads_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Counting(Noise):
        calls = 0

        def __getitem__(self, index: int) -> Tensor:
            self.calls += 1
            return torch.tensor(self.calls)

    for workers in (0, 1):
        caplog.clear()
        loader = BaseDataLoader(Counting(float), BATCH, num_workers=workers)
        for _ in range(2):
            list(loader)
        assert [record.getMessage() for record in caplog.records] == [
            "data_loader: reading samples changes dataset.calls. If samples depend on it, they differ with the number "
            "of workers and after a resume: compute it from the index instead"
        ]


# --- what a batch is made of


class Point(NamedTuple):
    x: Tensor
    label: int


@dataclasses.dataclass
class Sample:
    x: Tensor
    more: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Tensor
    label: int


class Made(Dataset):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


SAMPLES: dict[str, tuple[Callable[[int], Any], Callable[[Any], list[Any]]]] = {
    "dict": (lambda i: {"x": torch.ones(2) * i, "y": i}, lambda b: [b["x"][:, 0], b["y"]]),
    "nested": (lambda i: {"a": (torch.ones(2) * i, [i]), "name": "x"}, lambda b: [b["a"][0][:, 0], b["a"][1][0]]),
    "named tuple": (lambda i: Point(torch.ones(2) * i, i), lambda b: [b.x[:, 0], b.label]),
    "dataclass": (lambda i: Sample(torch.ones(2) * i, {"y": i}), lambda b: [b.x[:, 0], b.more["y"]]),
    "frozen dataclass": (lambda i: Frozen(torch.ones(2) * i, i), lambda b: [b.x[:, 0], b.label]),
    "dataclasses in a tuple": (
        lambda i: (Point(torch.ones(2) * i, i), [Sample(torch.ones(1) * i, {})]),
        lambda b: [b[0].label, b[1][0].x[:, 0]],
    ),
    "a number": (lambda i: i, lambda b: [b]),
    "an array": (lambda i: np.full(3, i), lambda b: [b[:, 0]]),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_any_make_are_collated_and_counted(name: str, workers: int) -> None:
    make, values = SAMPLES[name]
    stream = BaseDataLoader(Made(make), BATCH, num_workers=workers).iter_steps(0)
    batch = next(stream)
    stream.close()
    assert batch.size == len(batch.indices) == 4
    for value in values(batch.data):
        assert value.tolist() == batch.indices.tolist()


def test_samples_of_any_make_are_moved() -> None:
    for make, values in SAMPLES.values():
        loader = BaseDataLoader(Made(make), BATCH)
        loader.configure(device=torch.device("meta"))
        assert all(value.is_meta for batch in loader for value in values(batch))
    packed = BaseDataLoader(Made(lambda i: torch.ones(3)), BATCH, collate_fn=lambda s: {"x": pack_sequence(s)})
    packed.configure(device=torch.device("meta"))
    batch = next(iter(packed))["x"]
    assert (batch.data.is_meta, batch.batch_sizes.is_meta) == (True, False)  # as its own `to` has it


def unequal(samples: list[Tensor]) -> Tensor:
    return torch.stack([sample for sample in samples if int(sample) % 3])


def twice(samples: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.stack(samples * 2), torch.stack(samples * 2)


def flat(samples: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Texts of different lengths one after another, as nn.EmbeddingBag takes them: (tokens, offsets, labels)."""
    return torch.cat([s.expand(3) for s in samples]), torch.arange(len(samples)), torch.stack(samples)


def nothing(samples: list[Tensor]) -> Tensor | None:
    left = [sample for sample in samples if int(sample) >= 8]
    return default_collate(left) if left else None


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "collate_fn, sizes",
    [
        (unequal, [2, 4, 3, 3, 4]),
        (twice, [8, 10, 10, 10, 10]),
        (flat, [4, 5, 5, 5, 5]),
        (nothing, [0, 1, 5, 5, 5]),
        (None, [4, 5, 5, 5, 5]),
        (lambda samples: {"text": ["a"] * len(samples)}, [4, 5, 5, 5, 5]),
    ],
)
def test_a_batch_is_counted_after_collation(collate_fn: Any, sizes: list[int], workers: int) -> None:
    data = TensorDataset(torch.arange(N))
    loader = BaseDataLoader(Made(lambda i: data[i][0]), 5, shuffle=False, collate_fn=collate_fn, num_workers=workers)
    stream = loader.iter_steps(0)
    assert [next(stream).size for _ in range(5)] == sizes
    stream.close()


class Stored(Dataset):
    """Sample i is byte i of a file, which is opened at once or when it is first read."""

    def __init__(self, path: Path, at_once: bool) -> None:
        self.path = path
        self.file = open(path, "rb") if at_once else None  # noqa: SIM115

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        if self.file is None:
            self.file = open(self.path, "rb")  # noqa: SIM115
        self.file.seek(index)
        return self.file.read(1)[0]


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="an open file cannot be sent to a worker")
@pytest.mark.parametrize("at_once, workers, warns", [(True, 1, True), (True, 0, False), (False, 1, False)])
def test_a_file_that_workers_share_is_named(
    at_once: bool, workers: int, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bytes").write_bytes(bytes(range(N)))
    dataset = Stored(tmp_path / "bytes", at_once)
    loader = BaseDataLoader(dataset, BATCH, shuffle=False, num_workers=workers)
    assert torch.cat(list(loader)).tolist() == list(range(N))
    if dataset.file is not None:
        dataset.file.close()
    assert caplog.text.count("dataset.file is open in all workers, which move its position") == int(warns)
