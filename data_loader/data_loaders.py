"""Your data sets: start here. `DigitsDataLoader` is an example; ready-made loaders are in vision.py.

To add yours, derive a class from `BaseDataLoader` in this file and name it in a config under `data_loader`:

    class MyDataLoader(BaseDataLoader):
        def __init__(self, data_dir: str, batch_size: int = 64, training: bool = True, **kwargs):
            dataset = MyDataset(data_dir, "train" if training else "test")  # any torch.utils.data.Dataset
            super().__init__(dataset, batch_size, **kwargs)
            self.facts = {"num_classes": 10}  # optional: fills num_classes of the model, the loss and the metrics

`training=False` is how test.py asks for the test data. `**kwargs` passes shuffle, validation_split, num_workers and
whatever else `BaseDataLoader` accepts. A validation set of your own goes in as `valid_dataset=`.
`transforms` and `eval_transforms`, lists of names from transforms.py or torchvision.transforms.v2, are applied for you.

Where that is all, no loader is needed: a config may name a Dataset class in this file, or a function that returns a
Dataset, a list of samples or a tuple of tensors. Its own arguments go to it, the others to `BaseDataLoader`.
"""

import math  # noqa: F401 (for your code)
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: F401 (for your code)
from torch import Tensor
from torch.utils.data import Dataset  # noqa: F401 (for your code)

from data_loader import BaseDataLoader
from data_loader.engine.facts import class_facts
from data_loader.engine.images.image_files import readable
from data_loader.engine.images.in_memory import ImageTensors, read_gray
from data_loader.engine.unlabeled import unlabeled_files


class DigitsDataLoader(BaseDataLoader):
    """1,797 handwritten digits, [B, 1, 8, 8]: 1,500 to train and validate, 297 to test. Included in the project."""

    def __init__(self, batch_size: int = 64, training: bool = True, predict: list[str] | None = None, **kwargs):
        if predict is None:
            images, labels = read_digits(training)
        else:  # image files of white digits on black, for predict.py
            self.unlabeled = unlabeled_files(predict, readable())
            images = (read_gray(self.unlabeled.paths, 8) / 255 * 16).round().to(torch.uint8)
            labels = torch.zeros(len(images), dtype=torch.int64)
        dataset = ImageTensors(images, labels, mean=(0.305,), std=(0.375,), max_value=16)
        self.facts = class_facts([str(digit) for digit in range(10)])
        super().__init__(dataset, batch_size, **kwargs)


def read_digits(training: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8], values 0 ... 16, and labels [N]. digits/README.md describes their source and split."""
    part = slice(None, 1500) if training else slice(1500, None)
    with np.load(Path(__file__).parent / "digits" / "digits.npz") as digits:
        images, labels = digits["images"][part], digits["labels"][part]
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()
