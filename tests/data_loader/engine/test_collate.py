"""The default collate_fn makes what torch's does, of dataclasses too."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from data_loader.engine.collate import collate

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Sample:
    image: Tensor
    parts: dict[str, Any]


@pytest.mark.parametrize("samples", [
    [(torch.ones(2), 1, "x", 2.5)] * 3,
    [{"a": torch.ones(2), "b": [1, "y"]}] * 2,
    [{"a": 1}, {"a": 2, "more": 3}],
    [OrderedDict(a=np.ones(2)), OrderedDict(a=np.zeros(2))],
    [Pair(torch.ones(1), "z")] * 2,
    [(np.ones(2, dtype=bool), {"x": (1, 2)})] * 2,
    [np.float32(1)] * 2,
    ["a", "b"],
    [()] * 2,
])  # fmt: skip
def test_as_torch_does(samples: list[Any]) -> None:
    made, expected = collate(samples), default_collate(samples)
    assert type(made) is type(expected)
    assert repr(made) == repr(expected)


@pytest.mark.parametrize("samples", [
    [(1, 2), (1,)],
    [{"a": 1}, {"b": 1}],
    [torch.ones(1), torch.ones(2)],
    [np.array("a")] * 2,
    [None, None],
])  # fmt: skip
def test_the_errors_are_those_of_torch(samples: list[Any]) -> None:
    with pytest.raises((RuntimeError, TypeError, KeyError)) as expected:
        default_collate(samples)
    with pytest.raises(type(expected.value)) as error:
        collate(samples)
    assert str(error.value) == str(expected.value)


def test_dataclasses_inside_of_others() -> None:
    batch = collate([(Sample(torch.full((2,), float(i)), {"label": i}), i) for i in range(3)])
    assert batch[0].image.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch[0].parts["label"].tolist() == batch[1].tolist() == [0, 1, 2]
