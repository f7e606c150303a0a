"""Predictions: what the model makes of the same validation samples, over time."""

from typing import Any

import torch
from torch import Tensor

from logger.figures import RIGHT, WRONG
from logger.image_grid import image_grid, is_images
from trainer.engine.evaluation.class_outputs import ClassCallback, Scores, class_names, tag

COLUMNS = 6
SHOWN = 12  # characters of a class's name
WIDTH = 112  # pixels: the captions fit under an image


class Predictions(ClassCallback):
    """The first `samples` samples of each evaluation, right or wrong, with the probability of the predicted class.

    Images are drawn, others listed. Over several ranks, the first samples of rank 0.
    """

    def __init__(self, samples: int = 18) -> None:
        self.samples = samples

    def begin(self, trainer: Any) -> None:
        self.rows: list[tuple[int, int, int, float]] = []  # index, target, prediction, confidence
        self.images: list[Tensor] = []
        self.names: list[str] = []

    def add(self, trainer: Any, batch: Any, scores: Scores) -> None:
        missing = self.samples - len(self.rows)
        if missing <= 0 or not trainer.reporter.shows:
            return
        confidence, prediction = scores.probabilities[:missing].max(1)
        columns = (batch.indices[:missing], scores.targets[:missing], prediction, confidence)
        self.rows += zip(*(column.tolist() for column in columns), strict=True)  # waits for the device
        self.names = class_names(trainer, scores.probabilities.shape[1])
        if is_images(batch.data[0]):
            self.images.append(batch.data[0][:missing].cpu())

    def end(self, trainer: Any) -> None:
        if not self.rows:
            return
        name, right = tag(trainer, "predictions"), sum(t == p for _, t, p, _ in self.rows)
        title = f"After step {trainer.step:,}: {right} of {len(self.rows)} are right"
        labels = [self._label(*row) for row in self.rows]
        if not self.images or len(images := torch.cat(self.images)) != len(self.rows):
            lines = [f"{title}", *(label.replace("\n", ", ") for label in labels)]
            trainer.reporter.text(name, "\n".join(lines), trainer.step)
            return
        colors = [RIGHT if t == p else WRONG for _, t, p, _ in self.rows]
        normalization = getattr(trainer.data_loader, "normalization", None)
        drawn = image_grid(images, COLUMNS, normalization, labels, colors, title, WIDTH)
        trainer.reporter.picture(name, drawn, trainer.step)

    def _label(self, index: int, target: int, prediction: int, confidence: float) -> str:
        verdict = "right" if target == prediction else "wrong"
        true = self.names[target] if 0 <= target < len(self.names) else "none"
        return f"{verdict}, {confidence:.0%}  #{index}\npredicted {self.names[prediction][:SHOWN]}\ntrue {true[:SHOWN]}"
