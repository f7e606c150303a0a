"""Test-time augmentation: the views of a batch of images [B, C, H, W] over which predictions are averaged."""

from collections.abc import Callable, Sequence

from torch import Tensor

from utils.config.files import did_you_mean, nearest
from utils.errors import UsageError

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "hflip": lambda x: x.flip(3),
    "vflip": lambda x: x.flip(2),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "rot180": lambda x: x.rot90(2, (2, 3)),
    "rot270": lambda x: x.rot90(3, (2, 3)),
}


def views(names: Sequence[str]) -> list[Callable[[Tensor], Tensor]]:
    """The views of these names, beside the image itself. Raises UsageError for an unknown one."""
    for name in names:
        if name not in VIEWS:
            raise UsageError(
                f"--tta: unknown view '{name}'{did_you_mean(nearest(name, VIEWS))}; there are {', '.join(VIEWS)}"
            )
    return [VIEWS[name] for name in names]
