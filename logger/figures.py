"""Figures for the writers, by matplotlib (the extra `plots`). Colors differ for color-blind readers too (Okabe-Ito)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils import fonts

LIBRARIES = {"matplotlib": "plots"}  # for the `libraries` of callbacks that draw
RIGHT, WRONG = "#0072B2", "#C44F00"  # blue and orange; never by color alone: the text says it too
DPI = 100
FONT = 9  # points


def figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches; without pyplot, which keeps every figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="tight")  # twice as fast as `constrained`


def picture(drawn: Any, names: Iterable[str] = ()) -> Tensor:
    """A figure as a picture [3, H, W], values 0..1. names: those in it that may need a font of this machine."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if any(map(fonts.is_wide, names)):
        fonts.use_in(drawn, FONT)
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def shortened(name: str, length: int = 16) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def plain(axes: Any) -> None:
    """Axes with two lines instead of a frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=FONT)


def rows_and_columns(n: int, columns: int) -> tuple[int, int]:
    columns = max(1, min(columns, n))
    return -(-n // columns), columns


def label(axes: Any, x: float, y: float, text: str, **options: Any) -> None:
    """Text inside of axes, which the layout need not measure."""
    axes.text(x, y, text, **options).set_in_layout(False)
