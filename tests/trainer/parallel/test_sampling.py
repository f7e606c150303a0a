"""The same bits on one rank and on two, however samples are chosen and whatever validates."""

from typing import Any

import pytest

from tests.trainer.parallel.ranks import on_ranks, trained
from tests.trainer.parallel.test_same_result import assert_same_run, same

EXACT = ["trainer.exact_ranks=true", "trainer.accumulate=2", "arch.args.dropout=0.3"]
SPLIT = "data_loader.args.validation_split=97"
PART = "{type: DigitsDataLoader, args: {validation_split: 50}}"
MIXTURE = f"{{loaders: {{a: {PART}, b: {PART}}}, weights: {{a: 1, b: 4}}, batch_size: 50}}"
TWO = "valid_data_loader={test: DigitsDataLoader, again: {type: DigitsDataLoader, args: {batch_size: 99}}}"
WAYS = {
    "balanced": ["data_loader.args.balanced=true", SPLIT],
    "weights": ["data_loader.args.weights={'3': 9, '8': 0}", SPLIT],
    "fold": ["data_loader.args={batch_size: 50, fold: 1, folds: 4, stratify: true}"],
    "mixture": [f"data_loader={{type: MixtureDataLoader, args: {MIXTURE}}}"],
    "validation sets": [SPLIT, TWO],
}


@pytest.mark.parametrize("way", [pytest.param(w, marks=[] if w == "fold" else pytest.mark.slow) for w in WAYS])
def test_one_rank_and_two(way: str) -> None:
    found: list[Any] = [on_ranks(world, trained, [*EXACT, *WAYS[way]]) for world in (1, 2)]
    (one,), (two, other) = found
    assert all(isinstance(result, dict) for result in (one, two, other)), found
    assert same(one["weights"], two["weights"], 0)
    assert same(other["weights"], two["weights"], 0)
    assert_same_run(one, two)
