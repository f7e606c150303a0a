"""Samples drawn by weight: how often each comes, that each time is another one, and what is refused."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from data_loader import BaseDataLoader
from data_loader.engine.facts import class_facts, labels_of
from data_loader.engine.images.in_memory import ImageTensors
from data_loader.engine.sampler import Draws, Permutation
from data_loader.transforms import RandomAffine
from utils.errors import UsageError
from utils.seed import keys_of, mix, sample_keys

COUNTS = (40, 5, 15)  # samples of each class
LABELS = torch.tensor(np.random.default_rng(0).permutation(np.repeat([0, 1, 2], COUNTS)))


class Noise(Dataset):
    """Sample i is (its index, a draw); its class is labels[i]."""

    def __init__(self, labels: Any = LABELS) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(np.random.rand())


class NoiseInBatches(Noise):
    uses_sample_keys = True

    def __getitems__(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(indices), sample_keys().double() * 2.0**-63


class NoiseInLists(Noise):
    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


KINDS = pytest.mark.parametrize("kind", [Noise, NoiseInBatches, NoiseInLists])


def epoch_of(loader: BaseDataLoader, epoch: int = 0) -> tuple[Tensor, Tensor]:
    """What the samples of an epoch return, in order."""
    n = loader.steps_per_epoch
    stream = loader.iter_steps(n * epoch)
    columns = list(zip(*[batch.data for batch in itertools.islice(stream, n)], strict=True))
    stream.close()
    return torch.cat(columns[0]), torch.cat(columns[1])


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """How many standard deviations the statistic is from its mean."""
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


# --- how often


@pytest.mark.slow
@pytest.mark.parametrize(
    "position, weights",
    [(0, np.ones(30)), (17, np.arange(1, 31)), (0, np.arange(30) ** 3 + 1.0), (29, np.repeat([1, 9], 15))],
)
def test_a_position_draws_each_sample_as_often_as_its_weight_says(position: int, weights: np.ndarray) -> None:
    draws, epochs = Draws(weights), 6000
    drawn = [
        draws(Permutation(30, mix(5, epoch))(np.array([position])), mix(5, epoch, -5))[0][0] for epoch in range(epochs)
    ]
    expected = weights / weights.sum() * epochs
    assert -3.5 < chi_square(np.bincount(drawn, minlength=30), expected) < 3.5


@pytest.mark.slow
def test_that_a_wrong_distribution_would_be_seen() -> None:
    draws, weights = Draws(np.arange(1, 31)), np.arange(1, 31) ** 1.2
    drawn = [draws(Permutation(30, mix(5, e))(np.array([3])), mix(5, e, -5))[0][0] for e in range(6000)]
    assert chi_square(np.bincount(drawn, minlength=30), weights / weights.sum() * 6000) > 3.5


def test_two_positions_of_an_epoch_draw_independently_of_the_order_of_the_data() -> None:
    """A pair of positions draws each pair of classes as often as the product says, up to the finite epoch."""
    draws, epochs, n = Draws(np.repeat([3.0, 1.0], 100)), 4000, 200
    pairs = np.zeros((2, 2))
    for epoch in range(epochs):
        found, _ = draws(Permutation(n, mix(7, epoch))(np.array([4, 5])), mix(7, epoch, -5))
        pairs[tuple((found >= 100).astype(int))] += 1
    share = np.array([0.75, 0.25])
    expected = np.outer(share, share) * epochs
    assert -3.5 < chi_square(pairs.ravel(), expected.ravel()) < 3.5


def test_an_epoch_has_of_each_sample_what_its_weight_is_worth() -> None:
    """Which is why these are no independent draws: those would leave out a third of all samples by chance."""
    weights = np.random.default_rng(0).random(500) ** 3
    draws, expected = Draws(weights), weights / weights.sum() * 500
    total = np.zeros(500)
    for epoch in range(200):
        counts = np.bincount(draws(np.arange(500), mix(epoch))[0], minlength=500)
        assert (np.abs(counts - expected) < 2).all()
        total += counts
    assert np.abs(total / 200 - expected).max() < 0.15


@pytest.mark.parametrize("seed", [0, 1])
def test_balanced_epochs_have_all_classes_equally_often(seed: int) -> None:
    loader = BaseDataLoader(Noise(), 6, balanced=True)
    loader.configure(seed=seed)
    of_batches = []
    for epoch in range(5):
        labels = LABELS[epoch_of(loader, epoch)[0]]
        assert np.abs(torch.bincount(labels, minlength=3).numpy() - 20).max() <= 1
        of_batches += [torch.bincount(batch, minlength=3).numpy() for batch in labels.split(6)]
    assert 0.3 < np.mean([batch.max() - batch.min() for batch in of_batches]) < 4  # shuffled, not sorted by class


def test_nothing_but_the_training_samples_is_drawn() -> None:
    loader = BaseDataLoader(Noise(), 6, balanced=True, validation_split=0.2)
    held_out = {int(i) for batch in loader.split_validation() for i in batch[0]}
    drawn = {int(i) for epoch in range(30) for i in epoch_of(loader, epoch)[0]}
    assert len(held_out) == 12
    assert drawn == set(range(60)) - held_out


def test_what_does_not_train_is_not_drawn_by_weight() -> None:
    loader = BaseDataLoader(Noise(), 6, balanced=True)
    assert sorted(int(i) for batch in loader for i in batch[0]) == list(range(60))
    assert [int(i) for batch in loader.for_testing() for i in batch[0]] == list(range(60))


@KINDS
def test_equal_weights_change_no_bit(kind: type[Noise]) -> None:
    plain, weighted = BaseDataLoader(kind(), 7), BaseDataLoader(kind(), 7, weights=np.full(60, 0.1))
    for loader in (plain, weighted):
        loader.configure(seed=3)
    for epoch in (0, 2):
        for mine, its in zip(epoch_of(plain, epoch), epoch_of(weighted, epoch), strict=True):
            assert torch.equal(mine, its)


# --- each time another one


@KINDS
def test_a_sample_that_comes_again_is_augmented_anew(kind: type[Noise]) -> None:
    loader = BaseDataLoader(kind(), 6, weights={"1": 9.0})
    loader.configure(seed=4)
    indices, noise = epoch_of(loader)
    assert len(set(indices.tolist())) < 50  # of 60
    assert len(set(noise.tolist())) == 60
    assert len(epoch_of(loader)[1]) == 60
    assert torch.equal(epoch_of(loader)[1], noise)
    assert not torch.equal(epoch_of(loader, 1)[1], noise)


def test_the_first_time_is_that_of_a_plain_run() -> None:
    plain, weighted = BaseDataLoader(NoiseInBatches(), 6), BaseDataLoader(NoiseInBatches(), 6, balanced=True)
    of_plain = dict(zip(*(column.tolist() for column in epoch_of(plain)), strict=True))
    stream = weighted._train_sampler().batches(0)
    times = np.concatenate([next(stream)[1][1] for _ in range(weighted.steps_per_epoch)])
    same = [of_plain[i] == draw for i, draw in zip(*(c.tolist() for c in epoch_of(weighted)), strict=True)]
    assert same == (times == 0).tolist()
    assert 10 < sum(same) < 50


def test_the_times_of_a_sample_are_told_apart() -> None:
    draws = Draws(np.array([0.3, 8.0, 0.0, 0.7, 1.0]), np.array([4, 1, 0, 3, 2]))
    for key in range(50):
        drawn, times = draws(np.arange(5), key)
        assert len(set(zip(drawn.tolist(), times.tolist(), strict=True))) == 5
        assert times.min() >= 0
        assert times.max() <= 4
        assert 2 not in drawn


def test_keys_of_an_occurrence() -> None:
    """Those of the first one are fixed for good: they were there before there were others."""
    indices = np.arange(1000)
    first = keys_of(1, 2, indices)
    assert first[:3].tolist() == [987153565038267639, 3050471028204606518, 8704728315365727792]
    assert np.array_equal(keys_of(1, 2, indices, np.zeros(1000, np.int64)), first)
    again = [keys_of(1, 2, indices, np.full(1000, time)) for time in range(5)]
    assert len(set(np.concatenate(again).tolist())) == 5000


def test_images_are_augmented_anew() -> None:
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageTensors(images, torch.tensor([0, 0, 0, 1]), (0.5,), (0.5,)).augmented(RandomAffine(rotate=40, shift=2))
    loader = BaseDataLoader(data, 4, balanced=True)
    batch, labels = next(loader.iter_steps(0)).data
    rare = batch[labels == 1]
    assert len(rare) == 2
    assert not torch.equal(rare[0], rare[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_batch_transforms_of_batches_that_begin_with_the_same_sample_differ(workers: int) -> None:
    def noisy(batch: Any) -> Any:
        return batch[0], torch.rand(len(batch[0]))

    data = Noise(torch.tensor([0] * 39 + [1]))
    loader = BaseDataLoader(data, 1, weights={"1": 1e3}, batch_transform=noisy, num_workers=workers)
    indices, noise = epoch_of(loader)
    assert (indices == 39).sum() > 30
    assert len(set(noise.tolist())) == 40


# --- weights in all forms


def test_weights_by_class_and_by_sample_agree() -> None:
    data = Noise()
    data.classes = ["cat", "dog", "cow"]  # type: ignore[attr-defined]
    data.importance = (1 + 2 * (LABELS == 1)).tolist()  # type: ignore[attr-defined]
    given: list[Any] = [[1, 3, 1], {"dog": 3}, {"cat": 2.0, "dog": 6, "cow": 2}]
    by_class = [epoch_of(BaseDataLoader(data, 6, weights=weights))[0] for weights in given]
    by_class += [epoch_of(BaseDataLoader(Subset(data, range(60)), 6, weights=[1, 3, 1]))[0]]
    assert all(torch.equal(one, by_class[0]) for one in by_class)
    given = ["importance", torch.tensor(data.importance), np.array(data.importance)]  # type: ignore[attr-defined]
    by_sample = [epoch_of(BaseDataLoader(data, 6, weights=weights))[0] for weights in given]
    assert all(torch.equal(one, by_sample[0]) for one in by_sample)
    shares = [torch.bincount(LABELS[drawn], minlength=3) for drawn in (by_class[0], by_sample[0])]
    assert shares[0].tolist() == pytest.approx([60 * 40 / 70, 60 * 15 / 70, 60 * 15 / 70], abs=1)
    assert shares[1].tolist() == pytest.approx(shares[0].tolist(), abs=8)


def test_balanced_weights_are_the_shares_of_the_classes() -> None:
    loader = BaseDataLoader(Noise(), 6, balanced=True, weights=[1, 2, 3])
    assert torch.bincount(LABELS[epoch_of(loader)[0]]).tolist() == pytest.approx([10, 20, 30], abs=1)


def test_a_column_is_asked_for_by_name() -> None:
    class Table(Noise):
        def column(self, name: str) -> list[float]:
            return {"w": [1.0] * 59 + [100.0]}[name]

    drawn = epoch_of(BaseDataLoader(Table(), 6, weights="w"))[0]
    assert (drawn == 59).sum() > 30
    with pytest.raises(UsageError, match=r"weights is v, but Table has no column or attribute of this name"):
        BaseDataLoader(Table(), 6, weights="v").weighting  # noqa: B018


@pytest.mark.parametrize(
    "data",
    [
        Noise(), Noise(LABELS.tolist()), TensorDataset(torch.zeros(60), LABELS),
        ImageTensors(torch.zeros(60, 1, 2, 2, dtype=torch.uint8), LABELS, (0.5,), (0.5,)),
        Subset(Noise(), range(60)), ConcatDataset([Subset(Noise(), range(20)), Subset(Noise(), range(20, 60))]),
    ],
)  # fmt: skip
def test_where_labels_come_from(data: Any) -> None:
    assert labels_of(BaseDataLoader(data, 6)).tolist() == LABELS.tolist()


def test_labels_of_files_and_of_the_loader() -> None:
    class Folder(list):
        samples = [("a.png", 1), ("b.png", 0), ("c.png", 1)]

    assert labels_of(BaseDataLoader(Folder([0, 1, 2]), 1)).tolist() == [1, 0, 1]
    loader = BaseDataLoader([4, 5, 6], 1, balanced=True)
    loader.labels = ["x", "y", "x"]  # type: ignore[attr-defined]
    assert "x 2 (has 2), y 2 (has 1)" in str(loader.weighting.report if loader.weighting else "")


def test_the_start_reports_the_classes_and_the_length_of_an_epoch() -> None:
    loader = BaseDataLoader(Noise(), 6, balanced=True)
    loader.facts = class_facts(["cat", "dog", "cow"])
    weighting = loader.weighting
    assert weighting is not None
    assert weighting.report == (
        "data_loader: each epoch draws 60 samples by weight, so some several times: cat 20 (has 40), dog 20 (has 5), "
        "cow 20 (has 15)"
    )
    by_sample = BaseDataLoader(Noise(), 6, weights=np.r_[np.zeros(20), np.ones(39), 4.0]).weighting
    assert by_sample is not None
    assert by_sample.report.endswith("so some several times: one up to 5.58 times on average, 20 never")


# --- what is refused


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"weights": [1, 2]},
            "weights has 2 entries, but there are 3 classes, with labels 0 to 2; give one weight for",
        ),
        (
            {"weights": {"dgo": 2}},
            r"weights has 'dgo' \(did you mean 'dog'\?\), which is not a class; the classes are cat",
        ),
        ({"weights": np.ones(3)}, r"weights has the shape \[3\]; give one weight for each of the 60 samples"),
        ({"weights": [1, -1, 1]}, "weights must be numbers that are not negative, at least one of them positive"),
        ({"weights": [0, 0, 0]}, "weights must be numbers that are not negative, at least one of them positive"),
        (
            {"weights": "name"},
            "weights is name, but Noise has no column or attribute of this name with one value for",
        ),
        ({"balanced": True, "weights": np.ones(60)}, "balanced is true, and weights has a weight for each sample"),
        ({"balanced": True, "shuffle": False}, "shuffle is false, but balanced and weights draw in random order"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    loader = BaseDataLoader(Noise(), 6, **options)
    loader.facts = class_facts(["cat", "dog", "cow"])
    with pytest.raises(UsageError, match=message):
        loader.iter_steps(0).__next__()


def test_without_labels_it_says_how_to_give_them() -> None:
    loader = BaseDataLoader([1, 2, 3], 1, balanced=True)
    with pytest.raises(UsageError, match=r"the 3 samples of a list have no single label .* attribute `labels`"):
        loader.weighting  # noqa: B018
    with pytest.raises(UsageError, match="the labels have fractions, so they name no classes"):
        BaseDataLoader(Noise(torch.rand(9)), 1, balanced=True).weighting  # noqa: B018
    with pytest.raises(
        UsageError, match="weights is a list, which is by number of the class, but the labels are strings"
    ):
        BaseDataLoader(Noise(["a", "b"]), 1, weights=[1, 2]).weighting  # noqa: B018


class Series:
    """As a column of pandas: neither list nor array, but made into one."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.values, dtype)


@pytest.mark.parametrize(
    "data",
    [
        Noise(Series([0, 0, 0, 1])),
        Noise(Series(["no", "no", "no", "yes"])),
        Noise(torch.tensor([[0.0], [0.0], [0.0], [1.0]])),
        Noise(np.array([0.0, 0.0, 0.0, 1.0])),
        [(torch.zeros(2), 0), (torch.zeros(2), 0), (torch.zeros(2), 0), (torch.zeros(2), 1)],
        [(torch.zeros(2), torch.tensor([float(i == 3)])) for i in range(4)],
    ],
)
def test_labels_in_every_form_are_balanced(data: Any) -> None:
    weighting = BaseDataLoader(data, 2, balanced=True).weighting
    assert weighting is not None
    assert (weighting.weights / weighting.weights.sum()).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_a_list_with_a_weight_for_each_sample() -> None:
    loader = BaseDataLoader(Noise(), 6, weights=[float(i % 3) for i in range(60)])
    loader.facts = class_facts(["cat", "dog", "cow"])
    assert loader.weighting is not None
    assert loader.weighting.weights.tolist() == [i % 3 for i in range(60)]
