# ruff: noqa: UP006, UP007, UP035, UP045  (the spellings are what is tested)
"""What a value of a config becomes, by the annotation of its parameter."""

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from pathlib import Path, PurePath
from typing import Annotated, Any, List, Literal, NewType, Optional, Protocol, TypedDict, TypeVar, Union

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.config.messages import describe
from utils.config.values import Misfit, convert


class Color(Enum):
    RED = "r"
    BLUE = 2
    DEFAULT = RED


class Options(TypedDict, total=False):
    depth: int
    act: nn.Module


class Named(Protocol):
    name: str


Width = NewType("Width", int)
T = TypeVar("T")


def made(part: dict[str, Any], wanted: Any, at: tuple) -> str:
    return f"a {part['type']} at {'.'.join(map(str, at))}"


def of(value: Any, wanted: Any) -> Any:
    return convert(value, wanted, made, ("x",))


GELU = {"type": "GELU"}
BUILT = "a GELU at x"
FITTING = [
    # mappings
    ({"a": 1}, dict[str, Any] | None, {"a": 1}),
    ({"a": 1}, Mapping[str, float], {"a": 1.0}),
    ({"a": [1, 2]}, dict[str, tuple[int, int]], {"a": (1, 2)}),
    ({"a": 1}, Optional[Union[dict, str]], {"a": 1}),
    ({"a": 1}, OrderedDict, {"a": 1}),
    ({"3": 0.5}, dict[int, float], {3: 0.5}),
    ({"depth": 1e2}, Options, {"depth": 100}),
    (None, Optional[Mapping[str, float]], None),
    # lists
    ([1, 2], Sequence[int], [1, 2]),
    ([1, 2], list[int] | None, [1, 2]),
    ([1, 2], Iterable[float], [1.0, 2.0]),
    ([1, 2], Collection[int], [1, 2]),
    ([1, 2], List, [1, 2]),
    ([1, 2, 2], set[int], {1, 2}),
    ([1, 2, 2], AbstractSet[int], {1, 2}),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, "a"], tuple[int, str], (1, "a")),
    ([1, [2.0]], tuple, (1, [2.0])),
    # plain values
    (1e5, int, 100_000),
    (2.0, int | float, 2.0),
    (1, float, 1.0),
    (2, int | str, 2),
    ("2", int | str, "2"),
    (True, int | bool, True),
    ("relu", Literal["relu", "gelu"], "relu"),
    ("relu", Literal["relu"] | Callable[[Tensor], Tensor], "relu"),
    (8, Width, 8),
    (8, Annotated[int, "width"], 8),
    ("a/b", Path, Path("a/b")),
    ("a", str | Path, "a"),
    ("a", os.PathLike, Path("a")),
    ("a", PurePath, PurePath("a")),
    ("~/a", Path, Path.home() / "a"),
    # names
    ("RED", Color, Color.RED),
    ("Color.BLUE", Color, Color.BLUE),
    ("DEFAULT", Color | None, Color.RED),
    (2, Color, Color.BLUE),
    ("r", Color, Color.RED),
    ("float16", torch.dtype, torch.float16),
    ("torch.float16", torch.dtype | None, torch.float16),
    ("torch.bfloat16", Any, torch.bfloat16),
    ("torch.manual_seed", Any, "torch.manual_seed"),
    ("cpu", torch.device, torch.device("cpu")),
    ("cpu", torch.device | str, "cpu"),
    # nested parts
    (GELU, nn.Module, BUILT),
    (GELU, nn.Module | None, BUILT),
    (GELU, str | Callable[[Tensor], Tensor], BUILT),
    (GELU, Any, BUILT),
    (GELU, T, BUILT),
    ({"type": "GELU", "args": {"approximate": "tanh"}}, nn.Module, BUILT),
    ([GELU, GELU], list[nn.Module], ["a GELU at x.0", "a GELU at x.1"]),
    ([GELU, 3], Any, ["a GELU at x.0", 3]),
    ({"a": GELU}, dict[str, nn.Module], {"a": "a GELU at x.a"}),
    ({"act": GELU}, Options, {"act": "a GELU at x.act"}),
    # no parts
    (GELU, dict, GELU),
    (GELU, dict[str, Any] | nn.Module, GELU),
    (GELU, nn.Module | Mapping[str, str], GELU),
    ([GELU], list[dict[str, Any]], [GELU]),
    ({"type": "GELU", "in": 3}, Any, {"type": "GELU", "in": 3}),
    ({"a": GELU}, Any, {"a": GELU}),
    ("x", Named, "x"),  # a Protocol cannot be checked
]


@pytest.mark.parametrize("value, wanted, result", FITTING, ids=[f"{v} for {w}" for v, w, _ in FITTING])
def test_fitting(value: Any, wanted: Any, result: Any) -> None:
    got = of(value, wanted)
    assert (got, type(got)) == (result, type(result))


WRONG = [
    ("1", int, "an integer"),
    (1.5, int | None, "an integer or null"),
    (True, float, "a number"),
    (0, bool, "true or false"),
    ("x", float | Tensor, "a number"),
    ({"a": "b"}, Mapping[str, float] | None, "a mapping or null"),
    ({"dept": 3}, Options, "a mapping"),
    ([1, "a"], Sequence[int], "a list, each entry an integer"),
    ([1], tuple[int, int], "a list of 2 values"),
    ("tanh", Literal["relu", "gelu"], "relu or gelu"),
    ("GREEN", Color, "RED, BLUE or DEFAULT"),
    ("float17", torch.dtype, "a dtype such as float16"),
    ("cpuu", torch.device, "a device such as cpu"),
    ("a", Tensor | None, "a list of numbers or null"),
    ([[1], [1, 2]], Tensor, "a list of numbers"),
    ("GELU", nn.Module | None, "{type: NAME, args: {...}} or null"),
    ({"type": "GELU", "arg": {}}, nn.Module, "{type: NAME, args: {...}}"),
    (GELU, str, "a string"),
    (3, Callable[[int], int], "NAME or {type: NAME, args: {...}}"),
]


@pytest.mark.parametrize("value, wanted, expected", WRONG, ids=[f"{v} for {w}" for v, w, _ in WRONG])
def test_wrong(value: Any, wanted: Any, expected: str) -> None:
    with pytest.raises(Misfit):
        of(value, wanted)
    assert describe(wanted) == expected


@pytest.mark.parametrize("wanted", [Tensor, Tensor | None, Optional[Tensor]])
@pytest.mark.parametrize("value", [[1.0, 3.0], [1, 3], 2, [[1, 2], [3, 4]]])
def test_tensors(value: Any, wanted: Any) -> None:
    """Of floats, as weights of classes are, however the numbers are written."""
    got = of(value, wanted)
    assert got.dtype == torch.float32
    assert got.tolist() == value


def test_other_containers_of_numbers() -> None:
    assert of([1, 2], np.ndarray).tolist() == [1, 2]
    assert of(0.1, float | Tensor) == 0.1
    assert of([0.1, 0.2], float | Tensor).tolist() == pytest.approx([0.1, 0.2])
    assert math.isinf(of(float("inf"), float))


def test_variables_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert of("$DATA/x", Path) == Path("/data/x")
    with pytest.raises(Misfit, match="the environment variable NOWHERE is not set"):
        of("${NOWHERE}/x", Path | None)
