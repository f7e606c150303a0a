"""Buckets: every sample once, steps of the same size, less padding, and a pure function of (seed, epoch, step)."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.buckets import BucketSampler
from data_loader.engine.sampler import StepSampler
from utils.errors import UsageError

N, BATCH = 1003, 16
LENGTHS = np.random.default_rng(0).geometric(0.03, N)


def sampler(bucket: int = 10, seed: int = 0, shuffle: bool = True, **options: int) -> BucketSampler:
    return BucketSampler(lambda positions: LENGTHS[positions], bucket, N, BATCH, shuffle, seed, **options)


def steps(of: StepSampler, start: int, count: int) -> list[list[int]]:
    stream = of._steps(start)
    return [next(stream)[1].tolist() for _ in range(count)]


@pytest.mark.parametrize("bucket", [1, 7, 10, 63, 1000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_sample_comes_once_in_steps_of_the_same_sizes(bucket: int, shuffle: bool) -> None:
    one = sampler(bucket, shuffle=shuffle)
    for epoch in range(2):
        found = steps(one, epoch * one.steps_per_epoch, one.steps_per_epoch)
        assert [len(step) for step in found] == [one.size(k) for k in range(one.steps_per_epoch)]
        assert sorted(np.concatenate(found).tolist()) == list(range(N))


def test_a_step_follows_from_seed_epoch_and_step_alone() -> None:
    one = sampler()
    through = steps(one, 0, 2 * one.steps_per_epoch)
    for start in (1, 9, 10, 11, 62, 63, 64, 100):
        assert steps(sampler(), start, 1) == [through[start]]
        assert sampler().step(start).tolist() == through[start]
    assert through[: one.steps_per_epoch] != through[one.steps_per_epoch :]
    assert steps(sampler(seed=1), 0, 1) != [through[0]]
    limited = sampler(limit=13)  # ends the epoch within a bucket, and changes nothing before
    assert steps(limited, 0, 13) == through[:13]


def test_ranks_and_micro_batches_share_a_step() -> None:
    whole = steps(sampler(), 0, 5)
    parts = [sampler(rank=rank, world_size=2, accumulate=2) for rank in (0, 1)]
    found = [part.batches(0) for part in parts]
    for step in whole:
        shards = [next(stream)[1].tolist() for _ in range(2) for stream in found]
        assert sorted(np.concatenate(shards).tolist()) == sorted(step)
        means = [LENGTHS[shard].mean() for shard in shards]
        assert max(means) - min(means) <= LENGTHS[step].max() - LENGTHS[step].min()


def test_padding_is_saved_and_the_order_of_lengths_is_random() -> None:
    def filled(of: StepSampler) -> float:
        found = [LENGTHS[step] for step in steps(of, 0, of.steps_per_epoch)]
        return LENGTHS.sum() / sum(len(step) * step.max() for step in found)

    plain = StepSampler(N, BATCH, True, 0)
    assert filled(plain) < 0.35
    assert filled(sampler(30)) > 0.8
    longest = [LENGTHS[step].max() for step in steps(sampler(30), 0, 30)]
    assert abs(np.corrcoef(longest, np.arange(30))[0, 1]) < 0.4  # not from short to long


class Sequences(Dataset):
    def __init__(self) -> None:
        self.lengths = LENGTHS

    def __len__(self) -> int:
        return N

    def __getitems__(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.from_numpy(np.asarray(indices))
        return index, torch.from_numpy(LENGTHS[index])


def test_the_option_of_a_loader() -> None:
    loader = BaseDataLoader(Sequences(), BATCH, bucket=30, validation_split=100)
    seen = [LENGTHS[loader.indices(step)] for step in range(loader.steps_per_epoch)]
    assert sum(map(len, seen)) == N - 100
    assert np.mean([step.mean() / step.max() for step in seen]) > 0.8
    stream = loader.iter_steps(3)
    assert next(stream).data[1].tolist() == seen[3].tolist()
    stream.close()


def test_what_does_not_go_together() -> None:
    with pytest.raises(UsageError, match="bucket is -1; give 0 or more"):
        BaseDataLoader(Sequences(), BATCH, bucket=-1)
    with pytest.raises(UsageError, match="bucket orders samples by length, and balanced"):
        BaseDataLoader(Sequences(), BATCH, bucket=5, weights=[1.0, 2.0])
    with pytest.raises(UsageError, match="no column or attribute of this name"):
        BaseDataLoader([1, 2, 3], 1, bucket=5).indices(0)
