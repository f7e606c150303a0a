# ruff: noqa: E501  (messages stand here as people see them)
"""A data set of one's own in a config, without a loader class: a Dataset class, or a function that makes data."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import data_loader
import test as test_script
from data_loader import BaseDataLoader
from data_loader.engine.data_sets import loader_of
from tests.data_loader.batches import first, whole
from tests.tiny import CONFIG, Tiny, tiny
from utils.config import ConfigError, load
from utils.errors import SampleError, UsageError

__all__ = ["tiny"]
CODE = '''
"""Data of one's own."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from data_loader import BaseDataLoader


class Spots(Dataset):
    """Images [1, 8, 8] of two classes."""

    classes = ["dark", "bright"]

    def __init__(self, level: float, training: bool = True, shuffle: str = "not the loader's"):
        self.level, self.training, self.shuffle = level, training, shuffle

    def __len__(self):
        return 60 if self.training else 20

    def __getitem__(self, index):
        return torch.full((1, 8, 8), self.level * (index % 2)), index % 2


class Told(Dataset):
    def __init__(self, training: bool):
        self.training = training

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.zeros(1, 8, 8), int(self.training)


class Plain:
    """Neither derived from Dataset, nor with a test part."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.zeros(1, 8, 8), index % 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class Vocabulary:
    """No data set."""


def pair(n: int = 40):
    return torch.arange(n)[:, None, None, None] * torch.ones(1, 8, 8), np.arange(n) % 4


def rows(n: int = 10) -> list:
    return [(torch.zeros(1, 8, 8), i % 2) for i in range(n)]


def uneven():
    return torch.zeros(3, 1), torch.zeros(4)


def pictures():
    return [(Image.new("L", (8, 8), i), i % 2) for i in range(10)]


class Holes(Spots):
    """Some samples are None, which its own function leaves out."""

    def __getitem__(self, index):
        return None if index % 5 == 0 else super().__getitem__(index)

    @staticmethod
    def collate_fn(samples):
        return default_collate([sample for sample in samples if sample is not None])


def nothing():
    return 3


def loader_inside():
    return BaseDataLoader(rows(), 5)


def loader_of_size(batch_size: int, **kwargs):
    return BaseDataLoader(rows(), batch_size, **kwargs)
'''


@pytest.fixture
def own(tmp_path: Path) -> Iterator[None]:
    """CODE as a file at the top of data_loader/, for this process only."""
    (tmp_path / "data_of_a_test.py").write_text(CODE)
    data_loader.__path__.append(str(tmp_path))
    yield
    data_loader.__path__.remove(str(tmp_path))
    sys.modules.pop("data_loader.data_of_a_test", None)


def config(kind: str, args: str = "batch_size: 4", *more: str) -> Any:
    made = load([dict(CONFIG)], [f"data_loader={{type: {kind}, args: {{{args}}}}}", "trainer.monitor=off", *more])
    made.check()
    return made


def build(kind: str, args: str = "batch_size: 4") -> BaseDataLoader:
    return config(kind, args).build("data_loader")


@pytest.mark.usefixtures("own")
class TestDataSets:
    def test_each_argument_goes_where_it_belongs(self) -> None:
        loader = build("Spots", "level: 3, batch_size: 8, validation_split: 0.1, shuffle: mine, num_workers: 1")
        assert type(loader) is BaseDataLoader
        assert (loader.dataset.level, loader.dataset.shuffle, loader.dataset.training) == (3.0, "mine", True)  # type: ignore[attr-defined]
        assert (loader.batch_size, len(loader._validation), loader.num_workers, loader.shuffle) == (8, 6, 1, True)
        assert loader.facts == {"num_classes": 2, "class_names": ["dark", "bright"]}

    def test_tensors_are_read_as_whole_batches(self) -> None:
        loader = build("pair", "n: 12, batch_size: 4, shuffle: false")
        images, labels = whole(loader)
        assert images[:, 0, 0, 0].tolist() == list(range(12))
        assert labels.tolist() == [i % 4 for i in range(12)]
        assert loader.dataset.in_memory
        assert torch.equal(first(build("pair", "n: 12, batch_size: 4, resident: true, shuffle: false"))[0], images[:4])
        flipped = build(
            "pair", "n: 12, batch_size: 4, shuffle: false, transforms: [{type: RandomHorizontalFlip, args: {p: 1}}]"
        )
        assert torch.equal(whole(flipped)[1], labels)

    @pytest.mark.parametrize("kind", ["Plain", "rows"])
    def test_lists_and_plain_classes(self, kind: str) -> None:
        assert first(build(kind))[0].shape[1:] == (1, 8, 8)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_its_own_collate_fn_makes_the_batches(self, workers: int) -> None:
        loader = build("Holes", f"level: 3, batch_size: 10, num_workers: {workers}")
        assert [len(batch[1]) for batch in loader] == [8] * 6

    def test_pictures_of_pil_need_a_transform(self) -> None:
        with pytest.raises(SampleError, match=r"Make tensors of pictures of PIL: set transforms and eval_transforms"):
            first(build("pictures"))
        images, _ = first(build("pictures", "batch_size: 5, transforms: [ToImage], shuffle: false"))
        assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]

    def test_functions_that_make_loaders_are_as_they_were(self) -> None:
        assert build("loader_inside", "").batch_size == 5
        assert build("loader_of_size", "batch_size: 2, shuffle: false").batch_size == 2
        with pytest.raises(UsageError, match="loader_inside makes a data loader, and does not accept shuffle"):
            build("loader_inside", "shuffle: false")

    @pytest.mark.parametrize(
        "kind, args, said",
        [
            ("Spots", "level: 1, batch_sise: 4", "data_loader.args.batch_sise: unknown argument 'batch_sise' (did you mean 'batch_size'?); Spots accepts level, training, shuffle, batch_size, validation_split, "),
            ("Spots", "levl: 1, batch_size: 4", "data_loader.args.levl: unknown argument 'levl' (did you mean 'level'?)"),
            ("Spots", "level: 1", "data_loader.args: argument 'batch_size' is missing"),
            ("Spots", "batch_size: 4", "data_loader.args: argument 'level' is missing"),
            ("Spots", "level: high, batch_size: 4", 'data_loader.args.level: got "high", expected a number'),
            ("Spots", "level: 1, batch_size: four", 'data_loader.args.batch_size: got "four", expected an integer'),
            ("Vocabulary", "batch_size: 4", "does not fit: it is another kind of class; expected a class derived from BaseDataLoader or torch.utils.data.Dataset, or a function"),
            ("Sports", "batch_size: 4", "unknown name 'Sports' (did you mean 'Spots'?)"),
        ],
    )  # fmt: skip
    def test_typos_are_found_before_any_work(self, kind: str, args: str, said: str) -> None:
        with pytest.raises(ConfigError) as error:
            config(kind, args)
        assert said in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "kind, args, said",
        [
            ("rows", "", "rows makes a data set; give it data_loader.args.batch_size"),
            ("nothing", "batch_size: 4", r"nothing made int; expected a data set with __getitem__ and __len__, a list"),
            ("uneven", "batch_size: 4", r"the tensors of a data set need one length, but they are \(float32 \[3, 1\], float32 \[4\]\)"),
            ("Stream", "batch_size: 4", r"expected a data set with __getitem__|cannot be read by index"),
        ],
    )  # fmt: skip
    def test_what_is_no_data_set(self, kind: str, args: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            build(kind, args)

    def test_it_trains_and_tests(self, tiny: Tiny) -> None:
        args = "data_loader={type: Spots, args: {level: 3, batch_size: 12, validation_split: 0.2}}"
        trainer = tiny.train(args, "trainer.limit_batches=null", "trainer.epochs=5", "trainer.monitor=max val_accuracy")
        assert tiny.points("valid")[-1]["accuracy"] == 1.0
        assert next(reversed(trainer.model.state_dict().values())).shape == (2,)  # classes from the data
        trainer.config.facts = {}
        loader = test_script.test_data(trainer.config)
        assert len(whole(loader)[0]) == 20

    def test_training_is_said_where_it_must_be(self) -> None:
        assert first(build("Told"))[1].tolist() == [1] * 4
        assert whole(test_script.test_data(config("Told")))[1].tolist() == [0] * 8

    def test_without_a_test_part(self) -> None:
        with pytest.raises(UsageError) as error:
            test_script.test_data(config("Plain"))
        assert "Plain has no argument 'training', but test.py gives training=False; add `training: bool = True`" in str(
            error.value
        )

    def test_a_validation_set_of_the_same_class(self, tiny: Tiny) -> None:
        args = "data_loader={type: Spots, args: {level: 3, batch_size: 12, valid_dataset: {type: Spots, args: {level: 3, training: false}}}}"
        tiny.train(args, "trainer.epochs=1", "trainer.monitor=off")
        assert len(tiny.points("valid")) == 1


def test_what_else_has_tensors() -> None:
    """Data sets of torch are used as they are."""
    dataset = TensorDataset(torch.zeros(4, 2))
    assert loader_of("x", dataset, {"batch_size": 2}).dataset is dataset
    loader = loader_of("x", (np.zeros((4, 2), np.float32), torch.zeros(4)), {"batch_size": 2})
    assert [type(part) for part in first(loader)] == [Tensor, Tensor]
    assert issubclass(IterableDataset, Dataset)
