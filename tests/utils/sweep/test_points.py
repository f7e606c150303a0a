"""Keys with several values: seed=1..5, a=1e-3,3e-3, lists of lists, and their combinations."""

import pytest

from utils.errors import UsageError
from utils.sweep.points import overrides_of, product, several


@pytest.mark.parametrize(
    "override, values",
    [
        ("seed=1..5", [1, 2, 3, 4, 5]),
        ("data_loader.args.fold=0..2,4", [0, 1, 2, 4]),
        ("seed=-1..1", [-1, 0, 1]),
        ("optimizer.args.lr=1e-3,3e-3", [0.001, 0.003]),
        ("arch.args.widths=[16,32],[32,64]", [[16, 32], [32, 64]]),
        ("optimizer={type: SGD},{type: Adam, args: {lr: 1}}", [{"type": "SGD"}, {"type": "Adam", "args": {"lr": 1}}]),
        ("arch.args.norm=batch,null", ["batch", None]),
    ],
)
def test_values(override: str, values: list[object]) -> None:
    key = override.partition("=")[0]
    assert several([override, "name=x"]) == (["name=x"], {key: values})


@pytest.mark.parametrize(
    "override", ["a=1", "a=../x", "a=x..y", "a=[16,32]", "a=", "a='x,y'", "a={type: X, args: {b: [1, 2]}}", "a=[1", "b"]
)
def test_one_value_stays_as_it_is(override: str) -> None:
    assert several([override]) == ([override], {})


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["seed=5..1"], "5..1 is not a range; give FIRST..LAST"),
        (["seed=1..100000"], "100,000 values; give at most 10,000"),
        (["seed=1,2,1"], "seed=1,2,1: a value is given twice"),
        (["seed=1..3,2"], "a value is given twice"),
        (["a=1,2", "a=3,4"], "a is given twice; give all its values at once, a=A,B"),
        (["a=1,2", "a=3"], "a=3: this key has several values, too"),
        (["a=0.1..0.5"], "a=0.1..0.5: a range is FIRST..LAST, two integers; list other values: A,B"),
        (["a=1..9..2"], "a range is FIRST..LAST, two integers"),
    ],
)
def test_what_is_wrong(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        several(overrides)


def test_combinations() -> None:
    points = product({"a": [1, 2], "b": [[1], [2]]})
    assert points == [{"a": 1, "b": [1]}, {"a": 1, "b": [2]}, {"a": 2, "b": [1]}, {"a": 2, "b": [2]}]
    assert overrides_of(points[1]) == ["a=1", "b=[2]"]
    with pytest.raises(UsageError, match="1,000,000 combinations of a, b; give fewer values"):
        product({"a": list(range(1000)), "b": list(range(1000))})


@pytest.mark.parametrize(
    "value", ["SGD", "1e-3", "true", "a, b", "", None, 0.1, 1e-05, [1, "x"], {"type": "X"}, "한글"]
)
def test_a_value_is_read_back_as_it_was(value: object) -> None:
    from utils.config.files import Tree

    tree = Tree({}, {(): "x"})
    tree.set(overrides_of({"a.b": value})[0])
    assert tree.data == {"a": {"b": value}}
    assert type(tree.data["a"]["b"]) is type(value)
