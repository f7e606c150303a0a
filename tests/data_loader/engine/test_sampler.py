"""The order of samples: a pure function of the seed, the epoch and the step."""

import tracemalloc

import numpy as np
import pytest

from data_loader.engine.sampler import Permutation, StepSampler


@pytest.mark.parametrize(
    "n, key, order",
    [
        (10, 1, [3, 1, 4, 5, 8, 6, 0, 7, 2, 9]),
        (1000, 2, [376, 331, 774, 43, 999, 92, 193, 805, 778, 109]),
        (
            10**8,
            3,
            [94107665, 86747579, 85095650, 70673601, 97371668, 71912438, 69646771, 56973399, 73127573, 56292855],
        ),
        (2**40, 4, [151868009420, 483652833081, 806424052487, 277555012565, 837995269328]),
    ],
)
def test_the_order_of_a_seed_never_changes(n: int, key: int, order: list[int]) -> None:
    """Or runs that were begun with an earlier version would see some samples twice."""
    assert Permutation(n, key)(np.arange(len(order))).tolist() == order


@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 12_800, 2**16 + 1])
def test_every_sample_comes_exactly_once(n: int) -> None:
    assert sorted(Permutation(n, 5)(np.arange(n))) == list(range(n))


def test_an_order_of_a_billion_samples_takes_no_memory() -> None:
    tracemalloc.start()
    _, first = next(StepSampler(10**9, 128, True, seed=0).batches(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(first)) == 128
    assert peak < 10**6


@pytest.mark.parametrize("world_size, accumulate", [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_micro_batches_of_all_ranks_are_the_step(world_size: int, accumulate: int) -> None:
    samplers = [StepSampler(50, 12, True, 0, rank, world_size, accumulate) for rank in range(world_size)]
    streams = [sampler.batches(7) for sampler in samplers]
    for step in range(7, 12):
        read = [next(stream) for _ in range(accumulate) for stream in streams]
        assert {epoch for epoch, _ in read} == {step // 5}
        positions = samplers[0].step(step)
        assert [part.tolist() for _, part in read] == [
            positions[start :: world_size * accumulate].tolist() for start in range(world_size * accumulate)
        ]
        assert len(positions) == samplers[0].size(step) == 10
