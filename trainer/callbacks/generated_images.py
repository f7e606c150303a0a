"""GeneratedImages: images that a GAN generates from the same noise after each epoch."""

from collections.abc import Mapping
from typing import Any

from logger.image_grid import image_grid
from utils.seed import mix, seed_all

NOISE_KEY = -2  # the same noise after each epoch


class GeneratedImages:
    """A picture of `images` generated images in TensorBoard."""

    def __init__(self, images: int = 64) -> None:
        self.images = images

    def after_epoch(self, trainer: Any, values: Mapping[str, float]) -> None:
        with trainer.eval_mode():
            seed_all(mix(trainer.seed, NOISE_KEY))
            trainer.reporter.picture("train/generated", image_grid(trainer.generate(self.images)), trainer.step)
