"""Draws images of shapes on a noisy background, and their masks: data for config/segmentation.yaml.

    python -m data_loader.engine.images.draw_shapes data/shapes

Classes: 0 background, 1 disk, 2 square, 3 triangle. The edges of shapes are 255, which is ignored, in the masks.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PARTS = {"train": 400, "val": 100, "test": 100}
SIDE = 48


def draw(numbers: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """An image and its mask. Shapes are brighter than the background, but their color is independent of their class."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(numbers.integers(0, 100, 3).tolist()))
    mask = Image.new("L", (SIDE, SIDE))
    for _ in range(numbers.integers(1, 4)):
        kind, radius = numbers.integers(1, 4), numbers.integers(6, 13)
        x, y = numbers.integers(radius, SIDE - radius, 2).tolist()
        color = tuple(numbers.integers(130, 256, 3).tolist())
        for canvas, fill, edge in ((image, color, color), (mask, int(kind), 255)):
            pen = ImageDraw.Draw(canvas)
            box = (x - radius, y - radius, x + radius, y + radius)
            if kind == 1:
                pen.ellipse(box, fill, edge)
            elif kind == 2:
                pen.rectangle(box, fill, edge)
            else:
                pen.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill, edge)
    noisy = np.asarray(image) + numbers.normal(scale=12, size=(SIDE, SIDE, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), mask


def write(data_dir: Path, parts: dict[str, int] = PARTS) -> None:
    """data_dir/PART/images/N.png and masks/N.png; the same ones each time."""
    numbers = np.random.default_rng(0)
    for part, count in parts.items():
        for kind in ("images", "masks"):
            (data_dir / part / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, mask = draw(numbers)
            image.save(data_dir / part / "images" / f"{i}.png")
            mask.save(data_dir / part / "masks" / f"{i}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    write(parser.parse_args().data_dir)
