"""Several training sets in one: shares, keys, facts, and what does not go together."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader, MixtureDataLoader
from data_loader.data_loaders import DigitsDataLoader
from data_loader.transforms import RandomAffine
from data_loader.vision import ImageFolderDataLoader, ImageTableDataLoader
from utils.errors import UsageError
from utils.seed import sample_keys


class Numbers(Dataset):
    """Samples (start + i, a draw)."""

    def __init__(self, start: int, n: int) -> None:
        self.start, self.n = start, n
        self.labels = [i % 2 for i in range(n)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[int, float]:
        return self.start + index, float(np.random.rand())


class NumbersInBatches(Numbers):
    uses_sample_keys = True

    def __getitems__(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(indices) + self.start, sample_keys().double() * 2.0**-63


class NumbersDataLoader(BaseDataLoader):
    def __init__(self, start: int, n: int, batch_size: int = 4, at_once: bool = False, training: bool = True, **kwargs):
        data = NumbersInBatches if at_once else Numbers
        super().__init__(data(start if training else -start, n if training else 3), batch_size, **kwargs)


class OtherDataLoader(NumbersDataLoader):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, batch_transform=tuple)


def two(**options: Any) -> dict[str, Any]:
    """60 samples from 0 on, and 20 from 1000 on."""
    return {
        "many": partial(NumbersDataLoader, start=0, n=60, **options),
        "few": partial(NumbersDataLoader, start=1000, n=20, **options),
    }


def epoch_of(loader: BaseDataLoader, epoch: int = 0) -> list[tuple[int, float]]:
    n = loader.steps_per_epoch
    stream = loader.iter_steps(n * epoch)
    read = [batch.data for batch in itertools.islice(stream, n)]
    stream.close()
    return [(int(i), float(draw)) for numbers, draws in read for i, draw in zip(numbers, draws, strict=True)]


AT_ONCE = pytest.mark.parametrize("at_once", [False, True])


@AT_ONCE
def test_each_epoch_has_the_shares_of_the_loaders(at_once: bool) -> None:
    loader = MixtureDataLoader(two(at_once=at_once), {"many": 1, "few": 3}, batch_size=8)
    loader.configure(seed=2)
    for epoch in range(3):
        read = epoch_of(loader, epoch)
        assert len(read) == 80
        assert sum(i >= 1000 for i, _ in read) == pytest.approx(60, abs=1)
        assert {i for i, _ in read if i >= 1000} == set(range(1000, 1020))
        assert len({draw for _, draw in read}) == 80  # those that come again are drawn anew
    assert loader.weighting is not None
    assert loader.weighting.report.endswith(": many 20 (has 60), few 60 (has 20)")


@AT_ONCE
def test_without_weights_each_sample_comes_once(at_once: bool) -> None:
    loader = MixtureDataLoader(two(at_once=at_once), batch_size=8)
    assert sorted(i for i, _ in epoch_of(loader)) == [*range(60), *range(1000, 1020)]
    assert loader.weighting is None
    assert len(loader.for_testing().dataset) == 80


@AT_ONCE
def test_a_sample_depends_on_nothing_but_its_place(at_once: bool) -> None:
    """Not on the other samples of its batch, which may come from other data sets."""
    whole, halves = (MixtureDataLoader(two(at_once=at_once), {"many": 1, "few": 1}, batch_size=8) for _ in range(2))
    halves.configure(accumulate=2)
    stream, parts = whole.iter_steps(13), halves.iter_steps(13)
    for _ in range(12):
        step, one, two_ = (b.data for b in (next(stream), next(parts), next(parts)))
        for column in (0, 1):
            assert torch.equal(step[column][0::2], one[column])
            assert torch.equal(step[column][1::2], two_[column])


def test_a_sample_is_the_same_at_once_and_one_by_one() -> None:
    """In the order of the batch, whatever the order in which the data sets are read."""
    numbers = [
        [i for i, _ in epoch_of(MixtureDataLoader(two(at_once=a), {"many": 1, "few": 1}))] for a in (True, False)
    ]
    assert numbers[0] == numbers[1]


def test_its_own_weights_count_within_a_loader() -> None:
    loaders = two(balanced=True)
    loaders["many"].keywords["weights"] = [1, 3]
    loader = MixtureDataLoader(loaders, {"many": 1, "few": 1}, batch_size=8)
    read = [i for i, _ in epoch_of(loader)]
    assert sum(i >= 1000 for i in read) == pytest.approx(40, abs=1)
    assert sum(i < 1000 and i % 2 for i in read) == pytest.approx(30, abs=1)


def test_what_the_loaders_hold_out_validates_under_their_names() -> None:
    loader = MixtureDataLoader(two(validation_split=5), {"many": 1, "few": 3}, batch_size=8)
    held_out = loader.split_validation()
    assert list(held_out) == ["many", "few"]
    assert [held_out[name].batch_size for name in held_out] == [8, 8]
    seen = {i for epoch in range(30) for i, _ in epoch_of(loader, epoch)}
    validated = {int(i) for part in held_out.values() for batch in part for i in batch[0]}
    assert len(validated) == 10
    assert not seen & validated
    assert seen | validated == {*range(60), *range(1000, 1020)}
    assert MixtureDataLoader(two()).split_validation() is None


def test_for_testing_it_has_the_test_data_of_all() -> None:
    loader = MixtureDataLoader(two(validation_split=2), {"many": 1, "few": 3}, 4, training=False).for_testing()
    assert [int(i) for batch in loader for i in batch[0]] == [0, 1, 2, -1000, -999, -998]


def test_facts() -> None:
    parts: dict[str, Any] = {
        "a": partial(DigitsDataLoader, validation_split=300),
        "b": partial(DigitsDataLoader, transforms=[RandomAffine(rotate=9)]),
    }
    loader = MixtureDataLoader(parts)
    assert loader.facts["num_classes"] == 10
    assert sum(loader.facts["class_counts"]) == 2700
    assert len(loader.dataset) == 2700
    assert loader.dataset.in_memory
    images, labels = next(loader.iter_steps(0)).data
    assert (images.shape[1:], labels.dtype) == ((1, 8, 8), torch.int64)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weights is .*; give each of many, few a number that is not negative"):
        MixtureDataLoader(two(), {"many": 1})
    with pytest.raises(UsageError, match="loaders names no data loader"):
        MixtureDataLoader({})
    other: dict[str, Any] = {"other": partial(OtherDataLoader, start=5, n=5)}
    with pytest.raises(
        UsageError, match=r"loaders of several classes cannot be mixed, as their batch_transform differs"
    ):
        MixtureDataLoader(two() | other)
    with pytest.raises(
        UsageError, match=r"the classes of digits are .*, those of many None; loaders that are mixed need"
    ):
        MixtureDataLoader({**two(), "digits": DigitsDataLoader})
    with pytest.raises(UsageError, match="shuffle is false, but balanced and weights draw in random order"):
        next(MixtureDataLoader(two(), {"many": 1, "few": 1}, shuffle=False).iter_steps(0))


def test_folders_and_tables_of_images_in_one(tmp_path: Path) -> None:
    """Loaders of several classes, and mixtures, go together if they normalize in the same way."""
    rows = ["file,label"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
            rows.append(f"{name}/{i}.png,{name}")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    folder: Any = partial(ImageFolderDataLoader, data_dir=str(tmp_path), size=8)
    table: Any = partial(ImageTableDataLoader, data_dir=str(tmp_path), size=8, image="file", label="label")
    nested: Any = partial(MixtureDataLoader, {"x": folder})
    loader = MixtureDataLoader({"one": folder, "two": table, "both": nested}, None, 4)
    images = next(loader.iter_steps(0)).data[0]
    assert (len(loader.dataset), images.shape, images.dtype) == (24, (4, 3, 8, 8), torch.float32)
    assert loader.facts["class_counts"] == [12, 12]
    with pytest.raises(UsageError, match="loaders with several means and stds cannot be mixed"):
        MixtureDataLoader({"one": folder, "two": cast(Any, partial(folder, mean=(0.5, 0.5, 0.5)))}, None, 4)
