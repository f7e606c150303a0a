"""The space of a search: what it may say, what is wrong with it and where, and its points."""

import itertools
from pathlib import Path

import pytest

from utils.config import ConfigError
from utils.sweep.space import Space

SPACE = """space:
  optimizer.type: {choice: [SGD, AdamW]}
  optimizer.args.lr: {float: [1e-3, 0.1], log: true}
  optimizer.args.momentum: {float: [0, 0.9], when: {optimizer.type: SGD}}
  arch.args.depth: {int: [1, 2]}
trials: 6
"""


def space(folder: Path, text: str) -> Space:
    (folder / "s.yaml").write_text(text)
    return Space.read(folder / "s.yaml")


@pytest.mark.parametrize(
    "old, new, line, message",
    [
        ("choice: [SGD, AdamW]", "choce: [SGD]", 2, "(did you mean 'choice'?), expected one of {float: [1e-4, 0.1]"),
        ("choice: [SGD, AdamW]", "choice: [SGD, SGD]", 2, "expected a list of different values"),
        ("log: true", "logg: true", 3, "unknown key 'logg' (did you mean 'log'?); float has log, step, when"),
        ("[1e-3, 0.1], log", "[0, 0.1], log", 3, "got [0, 0.1] with log, which needs LOW above 0"),
        ("[1e-3, 0.1]", "[0.1, 1e-3]", 3, "expected two numbers, [LOW, HIGH], the lower one first"),
        ("when: {optimizer.type: SGD}", "when: {optimizer.typ: SGD}", 4,
         "'optimizer.typ' is not a choice above this key (did you mean 'optimizer.type'?)"),
        ("when: {optimizer.type: SGD}", "when: {optimizer.type: Adam}", 4, '"Adam" is none of its values'),
        ("int: [1, 2]", "int: [1, 2.5]", 5, "expected two integers"),
        ("int: [1, 2]", "int: [1, 2], step: 0", 5, "expected a positive integer"),
        ("log: true", "log: 'no'", 3, 'got "no", expected true or false'),
        ("[1e-3, 0.1], log: true", "[0, .inf]", 3, "expected two numbers, [LOW, HIGH], the lower one first"),
        ("trials: 6", "trials: 0", 6, "got 0, expected an integer from 1 on"),
        ("trials: 6", "smpler: tpe", 6, "unknown key 'smpler' (did you mean 'sampler'?)"),
        ("trials: 6", "sampler: cma", 6, 'got "cma", expected tpe, random or grid'),
        ("trials: 6", "sampler: grid", 3, "a grid needs single values; give step: NUMBER without log"),
        ("trials: 6", "objective: [min a, max b]\nprune: MedianPruner", 7, "pruning follows one objective"),
    ],
)  # fmt: skip
def test_what_is_wrong(old: str, new: str, line: int, message: str, tmp_path: Path) -> None:
    assert old in SPACE
    with pytest.raises(ConfigError) as e:
        space(tmp_path, SPACE.replace(old, new))
    assert any(p.startswith(f"{tmp_path}/s.yaml:{line}: ") and message in p for p in e.value.problems), e.value.problems


def test_no_space_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got null, expected keys of the config"):
        space(tmp_path, "trials: 3")


def test_a_grid(tmp_path: Path) -> None:
    text = """
space:
  optimizer.type: {choice: [SGD, AdamW]}
  optimizer.args.momentum: {float: [0, 0.3], step: 0.1, when: {optimizer.type: SGD}}
  arch.args.depth: {int: [1, 3], step: 2}
sampler: grid
"""
    found = list(space(tmp_path, text).grid())
    of_sgd = [p["optimizer.args.momentum"] for p in found if p["optimizer.type"] == "SGD"]
    assert of_sgd == [0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    assert found[8:] == [{"optimizer.type": "AdamW", "arch.args.depth": depth} for depth in (1, 3)]


def test_a_grid_too_large_is_not_made(tmp_path: Path) -> None:
    """Only a new search without a number of trials needs all of it."""
    text = "space:\n  a: {int: [1, 100000000]}\n  b: {choice: [x, y]}\nsampler: grid\n"
    searched = space(tmp_path, text)
    assert list(itertools.islice(searched.grid(), 3)) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}]
    with pytest.raises(ConfigError, match=r"s.yaml:1: space: a grid of more than 10,000 runs; give .*, or --trials N"):
        searched.grid_size()


def test_the_size_of_a_grid_is_that_of_its_points(tmp_path: Path) -> None:
    """Not the product of all values, of which most are for other choices."""
    kinds = ", ".join(f"k{i}" for i in range(20))
    keys = "".join(f"  x{i}: {{int: [1, 100], when: {{kind: k{i}}}}}\n" for i in range(20))
    searched = space(tmp_path, f"space:\n  kind: {{choice: [{kinds}]}}\n{keys}sampler: grid\n")
    assert searched.grid_size() == len({str(point) for point in searched.grid()}) == 2000


@pytest.mark.parametrize("log, expected", [("1", True), ("true", True), ("0", False), ("null", False)])
def test_log_in_older_files(log: str, expected: bool, tmp_path: Path) -> None:
    assert space(tmp_path, f"space: {{a: {{float: [0.1, 1], log: {log}}}}}\n").keys[0].log is expected


def test_all_is_probed_before_anything_runs(tmp_path: Path) -> None:
    """Each choice, and both ends of each range; errors name the line of the space."""
    seen: list[dict[str, object]] = []
    searched = space(tmp_path, SPACE)
    searched.check(seen.append)
    for key in searched.keys:
        assert all(any(p.get(key.name) == value for p in seen) for value in key.values), key
    assert all(("optimizer.args.momentum" in p) == (p["optimizer.type"] == "SGD") for p in seen)

    def refuse(point: dict[str, object]) -> None:
        if point["arch.args.depth"] == 2:
            raise ConfigError(["command line: arch.args.depth=2: too deep"])
        if point["optimizer.type"] == "SGD":
            raise ConfigError(["x.yaml:3: optimizer.args.betas: SGD has none"])

    with pytest.raises(ConfigError) as e:
        searched.check(refuse)
    assert f"{tmp_path}/s.yaml:5: space.arch.args.depth=2: too deep" in e.value.problems
    assert "x.yaml:3: optimizer.args.betas: SGD has none (with optimizer.type=SGD)" in e.value.problems
