"""Tar files in WebDataset's layout: files with one name and different endings, 0001.jpg and 0001.cls, are a sample.

An index of where each file begins is made once. After that, samples are read at random: shuffling and a resume are
exact, and no shuffle buffer is needed.
"""

import copy
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.augmentation import Transform, of_image
from data_loader.engine.facts import class_facts, count_classes
from data_loader.engine.files.tar_index import Index, Wanted, endings, find_index
from data_loader.engine.images.decode import ImageFile
from data_loader.engine.images.in_memory import NormalizeBatch
from data_loader.engine.learned import class_numbers, data_sets, learn_classes, learned_before, training_samples
from data_loader.engine.unlabeled import Unlabeled
from utils.errors import UsageError

Task = Literal["classification", "regression"]


class TarDataLoader(BaseDataLoader):
    """Samples of tar files: inputs, and classes int64 [B] or numbers float32 [B].

    shards: tar files by a pattern (data/train-*.tar), or a list of them; not compressed. valid_shards, test_shards:
        those to validate and to test.
    input, target: the ending of the file that is used, or several, of which a sample has one: jpg;png.
        An image -> uint8 [B, 3, H, W], normalized by mean and std after all transforms. npy -> an array of one shape.
        txt, as input -> its bytes + 1, int64 [B, T], 0 where one is shorter. cls, txt, json, as target -> a class, or
        for task: regression a number. key: the entry of a json target.
    index_dir: where the index of the files is written (default: .tar_index in the folder of the first).
    facts: those of the training data, whose classes count.
    predict: tar files whose samples need no target, for predict.py.
    """

    def __init__(
        self,
        shards: str | list[str],
        input: str = "jpg;jpeg;png",
        target: str = "cls",
        batch_size: int = 64,
        training: bool = True,
        valid_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        key: str | None = None,
        task: Task = "classification",
        index_dir: str | None = None,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),  # of ImageNet
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        facts: dict[str, Any] | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        if not training and test_shards is None and predict is None:
            raise UsageError("data_loader: there is no test data; set data_loader.args.test_shards to its tar files")
        wanted = Wanted(endings(input), endings(target), key, task)
        wanted.check()
        if predict is not None:
            wanted = wanted._replace(target=(), key=None)
        found = shards if training or test_shards is None else test_shards
        samples = TarSamples(find_index(found if predict is None else predict, wanted, index_dir), wanted)
        if predict is not None:
            self.unlabeled = Unlabeled(samples.names(), [], {})
        valid = None
        if training and valid_shards is not None:
            valid = TarSamples(find_index(valid_shards, wanted, index_dir), wanted)
        options: dict[str, Any] = {}
        if wanted.kind == "image":
            options["batch_transform"] = NormalizeBatch(mean, std, kwargs.get("transforms"))
        if wanted.kind == "txt":
            options["collate_fn"] = padded
        super().__init__(samples, batch_size, valid_dataset=valid, **options, **kwargs)
        self.facts = {"vocab_size": 257} if wanted.kind == "txt" else {}
        if samples.codes is not None:
            classes = learned_before(facts, "class_names", training)
            if classes is None:
                place = str(samples.tars.paths[0])
                classes = learn_classes(samples.class_names, samples.codes, training_samples(self), place)
            for part in data_sets(self):
                part.encode(classes)
            self.facts |= class_facts(classes)
            count_classes(self)
        elif predict is not None and facts is not None and "class_names" in facts:
            self.facts |= class_facts(facts["class_names"])


class TarSamples(Dataset):
    """A sample is (input, class or number), or (input, array). For classes, `encode` comes first."""

    changes_by_itself = ("_rows",)
    transforms: list[Transform] = []

    def __init__(self, index: Index, wanted: Wanted):
        self.path, self.tars, self.wanted = index.path, index.tars, wanted
        self._rows: np.ndarray | None = None
        self.class_names: list[str] = []  # of the classes, and which one each sample has
        self.codes: np.ndarray | None = None
        self.labels: Any = None
        if wanted.is_label:
            names, codes = np.unique(self.rows["label"], return_inverse=True)
            texts = [name.decode() for name in names.tolist()]
            if wanted.task == "classification":
                self.class_names, self.codes = texts, codes.reshape(-1).astype(np.min_scalar_type(len(names)))
                self.labels = self.codes
            else:
                self.labels = np.array([float(text) for text in texts])[codes.reshape(-1)]

    @property
    def rows(self) -> np.ndarray:
        """The index, mapped: a row per sample."""
        if self._rows is None:
            self._rows = np.load(self.path, mmap_mode="r")
        return self._rows

    @property
    def lengths(self) -> np.ndarray:
        """Bytes of each input, for `bucket`."""
        return np.array(self.rows["size"])

    def __getstate__(self) -> dict[str, Any]:
        """For workers, which map the index and open the tar files for themselves."""
        return {**vars(self), "_rows": None}

    def encode(self, classes: list[str]) -> None:
        """Number the classes as the training samples have them. Raises DataError for one that these do not have."""
        if self.codes is not None:
            self.labels = class_numbers(self.class_names, self.codes, classes, self.place)

    def place(self, index: int) -> str:
        """`train-01.tar, sample '0001'`"""
        row = self.rows[index]
        return f"{self.tars.paths[row['tar']]}, sample '{row['key'].decode()}'"

    def names(self) -> list[str]:
        """What the samples are called, each differently: by their names, and their tar files where these come twice."""
        keys = [key.decode() for key in self.rows["key"].tolist()]
        if len(set(keys)) == len(keys):
            return keys
        return [f"{self.tars.paths[tar]}/{key}" for tar, key in zip(self.rows["tar"].tolist(), keys, strict=True)]

    def with_transforms(self, transforms: Sequence[Transform]) -> "TarSamples":
        """The same samples, each image passed through these transforms."""
        other = copy.copy(self)
        other.transforms = list(transforms)
        return other

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.rows[index]
        try:
            data = self.tars.read(row["tar"], row["start"], row["size"])
            return self._input(data), self._target(index, row)
        except Exception as e:
            raise ValueError(f"{self.place(index)}: {e}") from e

    def _input(self, data: bytes) -> Any:
        if self.wanted.kind == "image":
            with ImageFile(data) as image:
                return of_image(self.transforms, image)
        if self.wanted.kind == "npy":
            return _array(data)
        return torch.from_numpy(np.frombuffer(data, np.uint8).astype(np.int64) + 1)

    def _target(self, index: int, row: np.void) -> Any:
        if not self.wanted.target:
            return 0  # not used
        if self.labels is None:
            return _array(self.tars.read(row["tar"], row["target_start"], row["target_size"]))
        label = self.labels[index]
        return int(label) if self.codes is not None else np.float32(label)


def _array(data: bytes) -> Tensor:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


def padded(samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor]:
    """Texts of any length as int64 [B, longest], and their targets [B]."""
    texts, targets = zip(*samples, strict=True)
    whole = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    if not whole.shape[1]:  # all are empty; models take a mean or maximum of one
        whole = whole.new_zeros(len(texts), 1)
    return whole, torch.as_tensor(np.array(targets))
