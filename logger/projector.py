"""Files for TensorBoard's tab PROJECTOR: vectors, a label for each, and a picture that holds all images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

SIDE = 8192  # pixels: TensorBoard takes no larger picture


def write(folder: Path, name: str, vectors: Tensor, labels: Sequence[str], images: Tensor | None) -> None:
    """Replaces what was written before. images: [N, C, H, W], values 0..1; left out where they are too large."""
    place = folder / "projector"
    place.mkdir(exist_ok=True)
    np.savetxt(place / "vectors.tsv", vectors.numpy(), delimiter="\t", fmt="%.6g")
    lines = [" ".join(label.split()) for label in labels]
    (place / "labels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = [
        f'tensor_name: "{name}"',
        'tensor_path: "projector/vectors.tsv"',
        'metadata_path: "projector/labels.tsv"',
    ]
    if images is not None and (rows := int(np.ceil(len(images) ** 0.5))) * max(images.shape[2:]) <= SIDE:
        _sprite(images, rows).save(place / "images.png")
        size = f"single_image_dim: {images.shape[3]} single_image_dim: {images.shape[2]}"
        settings.append(f'sprite {{ image_path: "projector/images.png" {size} }}')
    (folder / "projector_config.pbtxt").write_text("embeddings {\n  " + "\n  ".join(settings) + "\n}\n", "utf-8")


def _sprite(images: Tensor, rows: int) -> Image.Image:
    """All images in a square without gaps, row by row."""
    n, _, h, w = images.shape
    pixels = (images.expand(n, 3, h, w) * 255).byte().permute(0, 2, 3, 1).numpy()
    sprite = np.full((rows * h, rows * w, 3), 255, np.uint8)
    for i, image in enumerate(pixels):
        y, x = i // rows * h, i % rows * w
        sprite[y : y + h, x : x + w] = image
    return Image.fromarray(sprite)
