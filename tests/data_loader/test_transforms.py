"""Augmentations: functions of the sample's key alone, with the values that their words promise."""

import numpy as np
import pytest
import torch

from data_loader.data_loaders import Normalise
from data_loader.transforms import RandomAffine, RandomCropFlip
from utils.seed import keys_of

KEYS = torch.from_numpy(keys_of(1, 0, np.arange(64)))
IMAGES = torch.randint(0, 256, (64, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TRANSFORMS = [RandomAffine(rotate=15, shift=2, scale=0.2, shear=10), RandomCropFlip(crop=3, flip=True)]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_depends_on_the_key_and_not_on_the_batch(transform) -> None:
    whole = transform(IMAGES, KEYS)
    assert whole.shape == IMAGES.shape
    part = torch.tensor([40, 3, 7])
    torch.testing.assert_close(transform(IMAGES[part], KEYS[part]), whole[part], rtol=0, atol=1e-3)
    other_epoch = torch.from_numpy(keys_of(1, 1, np.arange(64)))
    changed = (transform(IMAGES, other_epoch) != whole).flatten(1).any(dim=1)
    assert changed.float().mean() > 0.95


def test_what_changes_nothing_is_false() -> None:
    assert not RandomAffine()
    assert not RandomCropFlip()
    assert all(TRANSFORMS)


def test_shift_moves_by_up_to_so_many_pixels() -> None:
    point = torch.zeros(64, 1, 21, 21)
    point[:, :, 10, 10] = 1
    moved = RandomAffine(shift=3)(point, KEYS)
    torch.testing.assert_close(moved.sum(dim=(1, 2, 3)), torch.ones(64))  # between pixels, but whole
    axis = torch.arange(21.0) - 10
    x, y = (moved.sum(dim=(1, 2)) * axis).sum(1), (moved.sum(dim=(1, 3)) * axis).sum(1)
    assert 2 < x.abs().max() <= 3
    assert 2 < y.abs().max() <= 3
    assert x.mean().abs() < 0.6


def test_rotation_and_scale_keep_the_centre_and_the_proportions() -> None:
    disc = torch.zeros(64, 1, 41, 31)
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(31.0) - 15, indexing="ij")
    disc[:, 0] = (x**2 + y**2 < 64).float()
    turned = RandomAffine(rotate=90)(disc, KEYS)  # not square: a wrong aspect ratio would make ellipses
    assert (turned - disc).abs().mean() < 0.02
    area = RandomAffine(scale=0.5)(disc, KEYS).sum(dim=(1, 2, 3)) / disc[0].sum()
    assert 0.4 < area.min() < 0.6
    assert 1.8 < area.max() < 2.3


def test_crop_shifts_by_whole_pixels_mirrors_the_edge_and_flips_one_in_two() -> None:
    ramp = torch.arange(10.0).expand(64, 1, 10, 10)
    rows = RandomCropFlip(crop=2)(ramp, KEYS)[:, 0, 0]
    expected = {2: [2, 1, *range(8)], 1: [1, *range(9)], 0: [*range(10)], -1: [*range(1, 10), 8]}
    expected[-2] = [*range(2, 10), 8, 7]
    seen = {tuple(row) for row in rows.int().tolist()}
    assert seen == {tuple(row) for row in expected.values()}
    flipped = RandomCropFlip(flip=True)(ramp, KEYS)[:, 0, 0, 0] == 9
    assert 20 < flipped.sum() < 44


def test_channels_that_are_the_same_memory_are_normalised_once_each() -> None:
    grey = torch.rand(4, 1, 5, 5)
    normalise = Normalise((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), white=1)
    torch.testing.assert_close(normalise(grey.expand(-1, 3, -1, -1)), normalise(grey.repeat(1, 3, 1, 1)))
