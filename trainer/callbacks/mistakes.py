"""Mistakes: the wrong predictions that the model is most confident about."""

from typing import Any

import torch
from torch import Tensor

from logger.figures import WRONG
from logger.image_grid import image_grid, is_images
from trainer.engine.evaluation.class_outputs import ClassCallback, Scores, class_names, tag
from utils.process import group

COLUMNS = 6
SHOWN = 12  # characters of a class's name
WIDTH = 112  # pixels: the captions fit under an image


class Mistakes(ClassCallback):
    """The `samples` most confident mistakes of each evaluation: often wrong labels. Images are drawn, others listed.

    Each has its index in the data set. Keeps that many inputs on the device.
    """

    def __init__(self, samples: int = 18) -> None:
        self.samples = samples

    def begin(self, trainer: Any) -> None:
        self.names: list[str] = []
        self.worst: dict[str, Tensor] = {}  # confidence, index, target, prediction [K]; images [K, C, H, W]

    def add(self, trainer: Any, batch: Any, scores: Scores) -> None:
        confidence, prediction = scores.probabilities.max(1)
        wrong = (prediction != scores.targets) & (scores.targets >= 0)
        found = {
            "confidence": torch.where(wrong, confidence, -1.0),
            "index": torch.as_tensor(batch.indices).to(scores.targets.device, non_blocking=True),
            "target": scores.targets,
            "prediction": prediction,
        }
        if is_images(batch.data[0]):
            found["images"] = batch.data[0]
        if self.worst:
            found = {name: torch.cat([self.worst[name], value]) for name, value in found.items()}
        order = found["confidence"].argsort(descending=True, stable=True)[: self.samples]  # stays on the device
        self.worst = {name: value[order] for name, value in found.items()}
        self.names = class_names(trainer, scores.probabilities.shape[1])

    def end(self, trainer: Any) -> None:
        parts = group.gather({name: value.cpu() for name, value in self.worst.items()})
        parts = [part for part in parts if part]
        if not trainer.reporter.shows or not parts:
            return
        worst = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = worst["confidence"].argsort(descending=True, stable=True)[: self.samples]
        worst = {name: value[order] for name, value in worst.items()}
        worst = {name: value[worst["confidence"] >= 0] for name, value in worst.items()}
        if len(worst["index"]):
            self.show(trainer, worst)

    def show(self, trainer: Any, worst: dict[str, Tensor]) -> None:
        name = tag(trainer, "most_confident_mistakes")
        rows = zip(*(worst[key].tolist() for key in ("index", "target", "prediction", "confidence")), strict=True)
        if "images" not in worst:
            lines = [f"sample {i}: {self.names[t]} taken for {self.names[p]} ({c:.1%})" for i, t, p, c in rows]
            trainer.reporter.text(name, "\n".join(lines), trainer.step)
            return
        short = [name[:SHOWN] for name in self.names]
        labels = [f"wrong, {c:.0%}  #{i}\npredicted {short[p]}\ntrue {short[t]}" for i, t, p, c in rows]
        title = f"The most confident mistakes after step {trainer.step:,}"
        normalization = getattr(trainer.data_loader, "normalization", None)
        drawn = image_grid(worst["images"], COLUMNS, normalization, labels, [WRONG] * len(labels), title, WIDTH)
        trainer.reporter.picture(name, drawn, trainer.step)
