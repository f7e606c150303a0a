"""Augmentation: a function of the sample's key alone, within the limits that its arguments set."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from data_loader.engine.images.cache import CachedImage
from data_loader.engine.images.in_memory import Normalize
from data_loader.transforms import RandomAffine, RandomCropFlip, RandomResizedCrop
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


def test_shift_is_the_maximum_in_pixels() -> None:
    point = torch.zeros(64, 1, 21, 21)
    point[:, :, 10, 10] = 1
    moved = RandomAffine(shift=3)(point, KEYS)
    torch.testing.assert_close(
        moved.sum(dim=(1, 2, 3)), torch.ones(64)
    )  # spread over neighboring pixels, but nothing is lost
    axis = torch.arange(21.0) - 10
    x, y = (moved.sum(dim=(1, 2)) * axis).sum(1), (moved.sum(dim=(1, 3)) * axis).sum(1)
    assert 2 < x.abs().max() <= 3
    assert 2 < y.abs().max() <= 3
    assert x.mean().abs() < 0.6


def test_rotation_and_scale_keep_the_center_and_the_aspect_ratio() -> None:
    disc = torch.zeros(64, 1, 41, 31)
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(31.0) - 15, indexing="ij")
    disc[:, 0] = (x**2 + y**2 < 64).float()
    turned = RandomAffine(rotate=90)(disc, KEYS)  # not square: a wrong aspect ratio would make ellipses
    assert (turned - disc).abs().mean() < 0.02
    area = RandomAffine(scale=0.5)(disc, KEYS).sum(dim=(1, 2, 3)) / disc[0].sum()
    assert 0.4 < area.min() < 0.6
    assert 1.8 < area.max() < 2.3


def test_crop_shifts_by_whole_pixels_reflects_the_edge_and_flips_half() -> None:
    ramp = torch.arange(10.0).expand(64, 1, 10, 10)
    rows = RandomCropFlip(crop=2)(ramp, KEYS)[:, 0, 0]
    expected = {2: [2, 1, *range(8)], 1: [1, *range(9)], 0: [*range(10)], -1: [*range(1, 10), 8]}
    expected[-2] = [*range(2, 10), 8, 7]
    seen = {tuple(row) for row in rows.int().tolist()}
    assert seen == {tuple(row) for row in expected.values()}
    flipped = RandomCropFlip(flip=True)(ramp, KEYS)[:, 0, 0, 0] == 9
    assert 20 < flipped.sum() < 44


def test_channels_that_share_memory_are_normalized_once_each() -> None:
    grey = torch.rand(4, 1, 5, 5)
    normalize = Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), max_value=1)
    torch.testing.assert_close(normalize(grey.expand(-1, 3, -1, -1)), normalize(grey.repeat(1, 3, 1, 1)))


# --- crops of single images


class Boxed(RandomResizedCrop):
    box = (30, 10, 130, 85)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        return self.box


def test_a_crop_is_resized_as_torchvision_does_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    image, (left, top, right, bottom) = Image.fromarray(pixels), Boxed.box
    expected = v2.functional.resized_crop(
        v2.functional.pil_to_tensor(image), top, left, bottom - top, right - left, [64, 64]
    )
    random.seed(0)
    file = CachedImage(image.size, pixels)
    seen = [Boxed(64, flip=0.5)(file) for _ in range(200)]
    flipped = [not torch.equal(one, expected) for one in seen]
    assert all(torch.equal(one.flip(2) if flip else one, expected) for one, flip in zip(seen, flipped, strict=True))
    assert 75 < sum(flipped) < 125


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    """Over many draws, areas, aspect ratios and positions agree."""
    random.seed(0)
    torch.manual_seed(0)
    width, height = 200, 150
    ours = torch.tensor([RandomResizedCrop(1, (0.1, 1))._box(width, height) for _ in range(4000)]).float()
    canvas = torch.empty(3, height, width)
    drawn = [transforms.RandomResizedCrop.get_params(canvas, [0.1, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = torch.tensor([(x, y, x + w, y + h) for y, x, h, w in drawn]).float()
    for box in (ours, theirs):
        assert box[:, :2].min() == 0
        assert box[:, 2:].amax(0).tolist() == [width, height]
    for quantile in (0.1, 0.5, 0.9):
        for a, b in zip(ours.T, theirs.T, strict=True):
            assert abs(a.quantile(quantile) - b.quantile(quantile)) < 6
        areas, shapes = (
            [f(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]).quantile(quantile) for box in (ours, theirs)]
            for f in (lambda w, h: w * h / width / height, lambda w, h: w / h)
        )
        assert abs(areas[0] - areas[1]) < 0.03
        assert abs(shapes[0] - shapes[1]) < 0.03


@pytest.mark.parametrize("size, box", [((10, 200), (0, 93, 10, 106)), ((200, 10), (93, 0, 106, 10))])
def test_an_image_too_long_for_any_crop_gives_its_middle(size, box) -> None:
    assert RandomResizedCrop(8, (0.9, 1))._box(*size) == box
