"""Test-time augmentation: the views of a batch of images [B, C, H, W] over which predictions are averaged."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from utils.config.files import did_you_mean, nearest
from utils.errors import UsageError


class View(NamedTuple):
    """A change of images, and what undoes it: for predictions of each pixel."""

    of_images: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def _turned(quarters: int) -> View:
    return View(lambda x: x.rot90(quarters, (2, 3)), lambda x: x.rot90(-quarters, (2, 3)))


def _mirrored(axis: int) -> View:
    return View(lambda x: x.flip(axis), lambda x: x.flip(axis))


VIEWS: dict[str, View] = {
    "hflip": _mirrored(3),
    "vflip": _mirrored(2),
    "rot90": _turned(1),
    "rot180": _turned(2),
    "rot270": _turned(3),
}


def views(names: Sequence[str]) -> list[View]:
    """The views of these names, beside the image itself. Raises UsageError for an unknown one."""
    for name in names:
        if name not in VIEWS:
            raise UsageError(
                f"--tta: unknown view '{name}'{did_you_mean(nearest(name, VIEWS))}; there are {', '.join(VIEWS)}"
            )
    return [VIEWS[name] for name in names]
