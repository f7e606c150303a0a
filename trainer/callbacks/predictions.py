"""Predictions: the model's predictions for the same validation samples, over time."""

from typing import Any

import torch

from logger.figures import RIGHT, WRONG
from logger.image_grid import image_grid, is_images
from trainer.engine.evaluation.class_outputs import ClassCallback, Scores, class_names, tag
from trainer.engine.evaluation.first_samples import FirstSamples

COLUMNS = 6
SHOWN = 12  # characters of a class's name
WIDTH = 112  # pixels: the captions fit under an image


class Predictions(ClassCallback):
    """The first `samples` samples of each evaluation, right or wrong, with the probability of the predicted class.

    Images are drawn, others listed.
    """

    def __init__(self, samples: int = 18) -> None:
        self.samples = samples

    def begin(self, trainer: Any) -> None:
        self.first = FirstSamples(trainer, self.samples)
        self.names: list[str] = []

    def add(self, trainer: Any, batch: Any, scores: Scores) -> None:
        confidence, prediction = scores.probabilities.max(1)
        found = {"target": scores.targets, "prediction": prediction, "confidence": confidence}
        if is_images(batch.data[0]):
            found["images"] = batch.data[0]
        self.first.add(index=torch.as_tensor(batch.indices), **found)
        self.names = class_names(trainer, scores.probabilities.shape[1])

    def end(self, trainer: Any) -> None:
        found = self.first.together()
        if not found or not trainer.reporter.shows:
            return
        columns = (found[name].tolist() for name in ("index", "target", "prediction", "confidence"))
        self.rows: list[tuple[int, int, int, float]] = list(zip(*columns, strict=True))
        name, right = tag(trainer, "predictions"), sum(t == p for _, t, p, _ in self.rows)
        title = f"After step {trainer.step:,}: {right} of {len(self.rows)} are right"
        labels = [self._label(*row) for row in self.rows]
        if "images" not in found:
            lines = [f"{title}", *(label.replace("\n", ", ") for label in labels)]
            trainer.reporter.text(name, "\n".join(lines), trainer.step)
            return
        colors = [RIGHT if t == p else WRONG for _, t, p, _ in self.rows]
        normalization = getattr(trainer.data_loader, "normalization", None)
        drawn = image_grid(found["images"], COLUMNS, normalization, labels, colors, title, WIDTH)
        trainer.reporter.picture(name, drawn, trainer.step)

    def _label(self, index: int, target: int, prediction: int, confidence: float) -> str:
        verdict = "right" if target == prediction else "wrong"
        true = self.names[target] if 0 <= target < len(self.names) else "none"
        return f"{verdict}, {confidence:.0%}  #{index}\npredicted {self.names[prediction][:SHOWN]}\ntrue {true[:SHOWN]}"
