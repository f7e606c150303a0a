"""The validation set: held out, or one of its own; facts that go with it."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from data_loader import BaseDataLoader
from utils.errors import UsageError


def numbers(n: int, start: int = 0) -> TensorDataset:
    return TensorDataset(torch.arange(start, start + n))


def read(loader: BaseDataLoader | None) -> list[int]:
    """The numbers of one pass."""
    assert loader is not None
    return torch.cat([batch[0] for batch in loader]).tolist()


class Own(BaseDataLoader):
    """A loader as people write it: a validation set of its own, which it passes for testing too."""

    def __init__(self, batch_size: int = 7, training: bool = True, **kwargs: Any) -> None:
        super().__init__(
            numbers(30, 0 if training else 500), batch_size, valid_dataset=numbers(10, start=100), **kwargs
        )


def test_a_validation_set_of_its_own_is_read_in_order() -> None:
    loader = Own(num_workers=1, batch_transform=lambda batch: [batch[0] + 1000])
    validation = loader.split_validation()
    assert read(validation) == list(range(1100, 1110))
    assert sorted(read(loader)) == list(range(1000, 1030))
    assert validation is not None
    assert (validation.batch_size, validation.num_workers, validation.shuffle) == (7, 1, False)
    assert [batch.indices.tolist() for batch in validation.iter_epoch()] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert validation.split_validation() is None


def test_testing_needs_no_arguments_for_validation() -> None:
    """test.py gives training=False, and where they are accepted also shuffle=False and validation_split=0.0."""
    assert read(Own(training=False, shuffle=False, validation_split=0.0)) == list(range(500, 530))
    assert read(Own(training=False)) == list(range(500, 530))


def test_a_validation_set_of_its_own_may_be_smaller_than_a_batch() -> None:
    loader = BaseDataLoader(numbers(30), 20, valid_dataset=numbers(3))
    assert read(loader.split_validation()) == [0, 1, 2]


def test_two_validation_sets_are_refused() -> None:
    message = r"validation_split is 0.1, but the loader has a validation set of its own \(valid_dataset\); set "
    with pytest.raises(UsageError, match=message + "validation_split to 0"):
        Own(validation_split=0.1)
    with pytest.raises(UsageError, match="valid_dataset has no samples"):
        BaseDataLoader(numbers(30), 4, valid_dataset=numbers(0))


def test_a_validation_set_of_its_own_can_be_resident() -> None:
    class Movable(Dataset):
        def __init__(self) -> None:
            self.tensor = torch.arange(8)

        def to(self, device: torch.device) -> None:
            self.tensor = self.tensor.to(device)

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.tensor[index]

    data, own = Movable(), Movable()
    loader = BaseDataLoader(data, 4, valid_dataset=own, resident=True)
    validation = loader.split_validation()
    assert validation is not None
    for each in (loader, validation):
        each.configure(device=torch.device("meta"))
    assert data.tensor.is_meta
    assert own.tensor.is_meta
    with pytest.raises(UsageError, match="a TensorDataset cannot be resident"):
        BaseDataLoader(data, 4, valid_dataset=numbers(3), resident=True)


def test_split_validation_can_be_overridden() -> None:
    class Other(BaseDataLoader):
        def split_validation(self) -> BaseDataLoader | None:
            return BaseDataLoader(numbers(5, start=40), 2)

    loader = Other(numbers(10), 3)
    assert read(loader.split_validation()) == [40, 41, 42, 43, 44]


def test_the_held_out_samples_are_the_same_for_every_seed() -> None:
    """They are fixed for good: runs of earlier versions must not validate on samples that they trained on."""
    for seed in (0, 1):
        loader = BaseDataLoader(numbers(20), 4, validation_split=0.25)
        loader.configure(seed=seed)
        validation = loader.split_validation()
        assert read(validation) == [14, 0, 15, 10, 12]
        steps = loader.iter_steps(0)
        trained = [i for _ in range(loader.steps_per_epoch) for i in next(steps).indices.tolist()]
        assert sorted(trained + [14, 0, 15, 10, 12]) == list(range(20))


def test_for_testing_reads_all_samples_in_order() -> None:
    loader = BaseDataLoader(numbers(9), 4, validation_split=3, eval_dataset=numbers(9, start=50))
    assert read(loader.for_testing()) == list(range(50, 59))
    assert loader.for_testing().split_validation() is None


@pytest.mark.parametrize(
    "split, message",
    [
        (1.0, r"validation_split is 1.0; give a fraction from 0.0 to below 1.0, or a number of samples from 0 to 9"),
        (-0.1, r"validation_split is -0.1; give a fraction"),
        (10, r"validation_split is 10; give a fraction"),
        (float("nan"), r"validation_split is nan; give a fraction"),
        (0.01, r"validation_split 0.01 of 10 samples holds out no sample; give a larger one"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(split: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BaseDataLoader(numbers(10), 2, validation_split=split)


def test_a_batch_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="batch_size is 0; give 1 or more"):
        BaseDataLoader(numbers(10), 0)
    message = r"batch_size 9 is more than the 8 samples of the data set \(10 minus 2 for validation\); give 8 or less"
    small = BaseDataLoader(numbers(10), 9, validation_split=2)
    with pytest.raises(UsageError, match=message):
        small.check_shards()
    small.split_validation().check_shards()  # evaluation takes what there is
    small.for_testing().check_shards()
    with pytest.raises(UsageError, match="the data set has no samples; check where it looks for them"):
        BaseDataLoader(numbers(0), 9)
    loader = BaseDataLoader(numbers(10), 3)
    loader.configure(world_size=2, accumulate=2)
    with pytest.raises(UsageError, match="a step of 2 samples cannot be cut into 2 ranks x 2 micro-batches"):
        loader.check_shards()


def test_an_eval_dataset_of_other_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="eval_dataset has 5 samples; it must have the 6 samples of dataset"):
        BaseDataLoader(numbers(6), 2, eval_dataset=numbers(5))


# --- facts


def test_facts_are_empty_unless_the_loader_states_them() -> None:
    one, other = BaseDataLoader(numbers(6), 2), BaseDataLoader(numbers(6), 2)
    assert one.facts == {}
    one.facts["vocabulary"] = ["a"]
    assert other.facts == {}


def test_facts_are_shared_with_the_validation_loader() -> None:
    for options in ({"validation_split": 2}, {"valid_dataset": numbers(4)}):
        loader = BaseDataLoader(numbers(6), 2, **options)
        validation = loader.split_validation()
        assert validation is not None
        assert validation.facts is loader.facts
        loader.facts = {"num_classes": 3}
        assert getattr(loader.split_validation(), "facts", None) == {"num_classes": 3}


@pytest.mark.parametrize("before", [True, False])
def test_a_loader_may_state_facts_before_or_after_super(before: bool) -> None:
    class Stating(BaseDataLoader):
        def __init__(self) -> None:
            if before:
                self.facts = {"num_classes": 4}
            super().__init__(with_classes(["a", "b"]), 2)
            if not before:
                self.facts = {"num_classes": 4}

    assert Stating().facts == {"num_classes": 4}


def with_classes(classes: Any) -> TensorDataset:
    dataset = numbers(6)
    dataset.classes = classes  # type: ignore[attr-defined]
    return dataset


def test_facts_come_from_the_classes_of_a_data_set() -> None:
    assert BaseDataLoader(with_classes(["cat", "dog"]), 2).facts == {"num_classes": 2, "class_names": ["cat", "dog"]}
    assert BaseDataLoader(with_classes(7), 2).facts == {}


def test_class_counts_are_those_of_the_training_samples() -> None:
    dataset = TensorDataset(torch.zeros(10), torch.tensor([0] * 6 + [1] * 4))
    dataset.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    assert BaseDataLoader(dataset, 2).facts["class_counts"] == [6, 4]
    assert BaseDataLoader(dataset, 2, fold=0, folds=2, stratify=True).facts["class_counts"] == [3, 2]
    dataset.classes = ["cat"]  # type: ignore[attr-defined]
    assert "class_counts" not in BaseDataLoader(dataset, 2).facts  # the labels are of more classes


def test_class_counts_include_classes_without_a_sample() -> None:
    dataset = TensorDataset(torch.zeros(3), torch.tensor([1, 1, 0]))
    dataset.classes = ["a", "b", "c"]  # type: ignore[attr-defined]
    assert BaseDataLoader(dataset, 2).facts["class_counts"] == [1, 2, 0]


def test_a_sample_is_called_by_its_number_if_the_names_are_those_of_classes() -> None:
    dataset = numbers(6)
    dataset.names = ["cat", "dog"]  # type: ignore[attr-defined]
    assert BaseDataLoader(dataset, 2).names([0, 5]) == ["0", "5"]
    dataset.names = list("abcdef")  # type: ignore[attr-defined]
    assert BaseDataLoader(dataset, 2).names([0, 5]) == ["a", "f"]
