"""A grid of images, with a caption under each. (torchvision has one too, but takes seconds to import.)"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from utils import fonts

PAD = 2  # pixels
LINE, FONT = 14, 11  # pixels: the height of a line of text and of its font
LEGIBLE, LARGE = 64, 160  # pixels: images with a caption are scaled to a width between these
FRAME = 4  # pixels
Normalization = tuple[Sequence[float], Sequence[float]]  # mean and std, of values 0..1


def image_grid(
    images: Tensor,
    columns: int = 8,
    normalization: Normalization | None = None,
    labels: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    title: str = "",
    width: int = LEGIBLE,
) -> Tensor:
    """[B, C, H, W] -> one picture [C, H', W'], values 0..1; [3, H', W'] with labels, which are drawn under the images.

    normalization: as in `unnormalized`. labels: may have several lines. colors: of labels and of a frame around each.
    width: pixels that an image with a label has at least.
    """
    images = unnormalized(images, normalization)
    if labels is not None:
        images = _legible(images.expand(-1, 3, -1, -1), width)
        lines = max(label.count("\n") for label in labels) + 1
        images = torch.stack(
            [
                _captioned(image, label, colors[i] if colors else None, lines)
                for i, (image, label) in enumerate(zip(images, labels, strict=False))
            ]
        )
    b, c, h, w = images.shape
    columns = min(columns, b)
    rows = -(-b // columns)
    grid = torch.ones(c, rows * (h + PAD) + PAD, columns * (w + PAD) + PAD)
    for i, image in enumerate(images):
        y, x = PAD + i // columns * (h + PAD), PAD + i % columns * (w + PAD)
        grid[:, y : y + h, x : x + w] = image
    return torch.cat([_text(title, grid.shape[2], 1, "black"), grid], 1) if title else grid


def unnormalized(images: Tensor, normalization: Normalization | None = None) -> Tensor:
    """Images [B, C, H, W] with values 0..1, on the CPU; NaN and infinity are 0.

    normalization: the mean and std per channel that the images were normalized by; it is undone. None: scaled by the
    smallest and largest value of all images.
    """
    images = images.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0)
    if normalization is not None and len(normalization[0]) in (1, images.shape[1]):
        mean, std = (torch.tensor(list(values)).view(1, -1, 1, 1) for values in normalization)
        return (images * std + mean).clamp(0, 1)
    low, high = images.min(), images.max()
    return (images - low) / (high - low).clamp(min=1e-8)


def _legible(images: Tensor, low: int) -> Tensor:
    """Images [B, C, H, W], scaled so that a caption can be read and many fit in a picture; small ones keep pixels."""
    height, width = images.shape[2:]
    if width > LARGE:
        return F.interpolate(images, size=(max(1, height * LARGE // width), LARGE), mode="area")
    return F.interpolate(images, scale_factor=-(-low // width), mode="nearest")


def _captioned(image: Tensor, label: str, color: str | None, lines: int) -> Tensor:
    """The image [3, H, W] with its label under it, cut off where it is too wide, and a frame if there is a color."""
    if color is not None:
        _, h, w = image.shape
        framed = rgb(color).view(3, 1, 1).repeat(1, h + 2 * FRAME, w + 2 * FRAME)
        framed[:, FRAME:-FRAME, FRAME:-FRAME] = image
        image = framed
    return torch.cat([image, _text(label, image.shape[2], lines, color or "black")], 1)


def _text(text: str, width: int, lines: int, color: str) -> Tensor:
    """[3, lines * LINE, width], values 0..1."""
    strip = Image.new("RGB", (width, lines * LINE), "white")
    wide = fonts.wide(FONT) if fonts.is_wide(text) else None
    draw, font = ImageDraw.Draw(strip), wide or ImageFont.load_default(FONT)
    for i, line in enumerate(text.split("\n")):
        draw.text((2, i * LINE), line, fill=color, font=font)
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1).float() / 255


def rgb(color: str) -> Tensor:
    """#RRGGBB as values 0..1."""
    return torch.tensor([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def captions(targets: Any, class_names: Sequence[str] | None = None, n: int = 64) -> list[str] | None:
    """A label for each of the first targets: class indices [B], or class probabilities [B, C], as MixUp makes them.
    None for other targets."""
    if not isinstance(targets, Tensor) or not len(targets):
        return None
    targets = targets[:n].detach().cpu()

    def name(index: int) -> str:
        return str(class_names[index]) if class_names and 0 <= index < len(class_names) else str(index)

    if targets.dim() == 1 and not targets.is_floating_point():
        return [name(int(index)) for index in targets]
    if targets.dim() == 2 and targets.is_floating_point() and targets.shape[1] > 1:
        shares, indices = targets.topk(min(2, targets.shape[1]))
        return [
            " ".join(f"{name(int(i))} {share:.0%}" for share, i in zip(s, row, strict=True) if share > 0.005)
            for s, row in zip(shares, indices, strict=True)
        ]
    return None


def is_images(inputs: object) -> bool:
    """Whether it can be drawn: a tensor [B, C, H, W] with 1 or 3 channels."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[1] in (1, 3)
