"""Folds, stratified and grouped splits: who validates, the same for every seed."""

from typing import Any

import numpy as np
import pytest
from torch.utils.data import Subset

from data_loader import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader
from utils.errors import UsageError


class Patients(list):
    """Sample i is i; it has a label, and belongs to a patient."""

    def __init__(self, n: int = 203, patients: int = 40) -> None:
        super().__init__(range(n))
        random = np.random.default_rng(0)
        self.labels = random.choice(4, n, p=[0.6, 0.25, 0.1, 0.05])
        self.patient = (random.random(n) ** 2 * patients).astype(int)  # some have many samples, some few
        self.age = random.random(n)

    def column(self, name: str) -> Any:
        return {"patient": self.patient, "age": self.age, "label": [f"class {i}" for i in self.labels]}[name]


def held_out(loader: BaseDataLoader) -> list[int]:
    return [int(i) for batch in loader.split_validation() for i in batch]


def trained(loader: BaseDataLoader) -> list[int]:
    return loader.samples(np.arange(len(loader.samples))).tolist()


FOLDS = [{}, {"stratify": True}, {"stratify": "label"}, {"group": "patient"}, {"group": "patient", "stratify": True}]


@pytest.mark.parametrize("options", FOLDS)
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_divide_the_data(options: dict[str, Any], folds: int) -> None:
    loaders = [BaseDataLoader(Patients(), 8, fold=fold, folds=folds, **options) for fold in range(folds)]
    parts = [held_out(loader) for loader in loaders]
    assert sorted(i for part in parts for i in part) == list(range(203))
    for loader, part in zip(loaders, parts, strict=True):
        assert sorted(trained(loader) + part) == list(range(203))
        sizes = (203 // folds, -(-203 // folds))
        assert sizes[0] - (5 if "group" in options else 0) <= len(part) <= sizes[1] + (5 if "group" in options else 0)


@pytest.mark.parametrize("stratify", [True, "label"])
@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_have_the_classes_equally_up_to_one(stratify: Any, folds: int) -> None:
    data = Patients()
    parts = [held_out(BaseDataLoader(data, 8, fold=f, folds=folds, stratify=stratify)) for f in range(folds)]
    counts = np.array([np.bincount(data.labels[part], minlength=4) for part in parts])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 1).all()


def test_whole_numbers_of_a_column_are_classes() -> None:
    """As a table gives codes of classes; most are 0."""
    data = Patients()
    data.age = np.random.default_rng(2).permutation(np.repeat([0.0, 1.0, 2.0], [189, 7, 7]))
    parts = [held_out(BaseDataLoader(data, 8, fold=fold, folds=7, stratify="age")) for fold in range(7)]
    assert [np.bincount(data.age[part].astype(int)).tolist() for part in parts] == [[27, 1, 1]] * 7


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("split", [{"folds": 5}, {"folds": 3}, {"validation_split": 0.2}, {"validation_split": 31}])
def test_no_group_is_divided(split: dict[str, Any], stratify: bool) -> None:
    data = Patients()
    for fold in range(split.get("folds", 1)):
        options = {**split, "fold": fold} if "folds" in split else split
        loader = BaseDataLoader(data, 8, group="patient", stratify=stratify, **options)
        assert not set(data.patient[trained(loader)]) & set(data.patient[held_out(loader)])
        assert len(held_out(loader)) == pytest.approx(203 / split.get("folds", 5), abs=15)


def test_groups_that_are_stratified_spread_the_classes() -> None:
    random = np.random.default_rng(1)
    data = Patients(2000, 200)
    data.patient = random.integers(0, 200, 2000)
    data.labels = (data.patient % 10 == 0).astype(int)  # a whole patient is of the rare class
    counts = []
    for fold in range(5):
        part = held_out(BaseDataLoader(data, 8, fold=fold, folds=5, group="patient", stratify=True))
        counts.append(data.labels[part].sum())
    assert max(counts) - min(counts) <= 20  # of some 200: two patients
    assert min(counts) >= 25


@pytest.mark.parametrize("split", [0.2, 0.5, 41, 1])
def test_a_stratified_split_holds_out_its_share_of_each_class(split: float) -> None:
    data = Patients()
    loader = BaseDataLoader(data, 8, validation_split=split, stratify=True)
    part = held_out(loader)
    count = int(203 * split) if isinstance(split, float) else split
    assert len(part) == len(set(part)) == count
    assert sorted(trained(loader) + part) == list(range(203))
    share = np.bincount(data.labels, minlength=4) * count / 203
    assert (np.abs(np.bincount(data.labels[part], minlength=4) - share) < 1).all()


def test_numbers_are_stratified_by_size() -> None:
    data = Patients()
    for fold in range(4):
        part = held_out(BaseDataLoader(data, 8, fold=fold, folds=4, stratify="age"))
        tenths = np.bincount((np.argsort(np.argsort(data.age))[part] * 10 // 203), minlength=10)
        assert tenths.max() - tenths.min() <= 2


@pytest.mark.parametrize("options", [*FOLDS, None])
def test_the_same_for_every_seed_and_process(options: dict[str, Any] | None) -> None:
    """They are fixed for good: a later version must not validate on samples that a run was trained on."""
    split: dict[str, Any] = {"validation_split": 0.1, "stratify": True} if options is None else {"fold": 1, "folds": 5}
    parts = []
    for seed in (0, 1, 2):
        loader = BaseDataLoader(Patients(), 8, **split, **(options or {}))
        loader.configure(seed=seed)
        parts.append(held_out(loader))
    assert parts[0] == parts[1] == parts[2]
    known = {"{}": [1, 4, 9, 15, 19, 29], "{'stratify': True}": [1, 9, 10, 16, 20, 25]}
    known["{'group': 'patient'}"] = [0, 2, 6, 7, 14, 24]
    assert parts[0][:6] == known.get(str(options), parts[0][:6])


def test_labels_come_from_what_a_subset_is_made_of() -> None:
    data: Any = Patients()
    part = held_out(BaseDataLoader(Subset(data, range(100, 200)), 8, fold=0, folds=5, stratify=True))
    counts = np.bincount(data.labels[part], minlength=4)
    assert (np.abs(counts - np.bincount(data.labels[100:200], minlength=4) / 5) < 1).all()


def test_folds_of_a_shipped_loader() -> None:
    loader = DigitsDataLoader(batch_size=50, fold=2, folds=5, stratify=True)
    labels = loader.eval_dataset.tensors[1]
    validation = loader.split_validation()
    held = np.concatenate([batch.indices for batch in validation.iter_epoch()])
    assert len(held) == 300
    assert np.bincount(labels[held]).min() >= 28
    assert len(loader.samples) == 1200


def test_without_new_options_the_split_is_that_of_earlier_versions() -> None:
    assert held_out(BaseDataLoader(list(range(20)), 4, validation_split=0.25)) == [14, 0, 15, 10, 12]
    assert held_out(BaseDataLoader(Patients(20), 4, validation_split=0.25, stratify=False)) == [14, 0, 15, 10, 12]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fold": 5, "folds": 5}, "fold is 5; the 5 folds are numbered 0 to 4"),
        ({"fold": -1, "folds": 5}, "fold is -1; the 5 folds are numbered 0 to 4"),
        ({"folds": 5}, "fold is missing; give both, such as fold: 0, folds: 5"),
        ({"fold": 0}, "folds is missing; give both"),
        ({"fold": 0, "folds": 1}, "folds is 1; give 2 to 203, which is the number of samples"),
        ({"fold": 0, "folds": 204}, "folds is 204; give 2 to 203"),
        ({"fold": 0, "folds": 5, "validation_split": 0.1}, "folds is 5 and validation_split is 0.1, but both say what"),
        ({"fold": 0, "folds": 5, "valid_dataset": [1]}, r"folds is 5, but the loader has a validation set of its own"),
        (
            {"fold": 0, "folds": 41, "group": "patient"},
            "203 samples in .* groups cannot be dealt into parts of 4 and 5",
        ),
        ({"fold": 0, "folds": 5, "group": "doctor"}, "group is doctor, but Patients has no column or attribute of"),
        ({"validation_split": 0.1, "stratify": "sex"}, "stratify is sex, but Patients has no column or attribute of"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BaseDataLoader(Patients(), 8, **options)


def test_without_labels_it_says_how_to_give_them() -> None:
    with pytest.raises(UsageError, match="the 9 samples of a list have no single label each that is known, but"):
        BaseDataLoader(list(range(9)), 2, validation_split=3, stratify=True)


@pytest.mark.parametrize("option", [{"stratify": True}, {"group": "patient"}])
def test_an_option_without_effect_is_reported(option: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    loader = BaseDataLoader(Patients(), 8, **option)
    assert "has no effect without validation_split or folds: nothing is divided" in caplog.text
    assert len(loader.samples) == 203
