"""PerClassAccuracy: the accuracy of each class, as a figure and as values over time."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from logger import figures
from trainer.engine.evaluation.class_outputs import ClassCallback, Scores, class_names, tag
from utils.process import group

VALUES = 20  # classes: more would be too many charts
BARS = 30  # classes in the figure: of more, the worst


class PerClassAccuracy(ClassCallback):
    """Bars from the worst class to the best; with up to 20 classes also a chart class_accuracy/NAME for each."""

    libraries = figures.LIBRARIES
    pixels = True

    def begin(self, trainer: Any) -> None:
        self.counts: Tensor | None = None  # [2, C + 1]: right, all; the last column: ignored targets

    def add(self, trainer: Any, batch: Any, scores: Scores) -> None:
        n = scores.probabilities.shape[1]
        if self.counts is None:
            self.counts = torch.zeros(2, n + 1, dtype=torch.long, device=scores.targets.device)
        targets = torch.where((scores.targets >= 0) & (scores.targets < n), scores.targets, n)
        right = (scores.probabilities.argmax(1) == scores.targets).long()
        self.counts[0].index_add_(0, targets, right)
        self.counts[1].index_add_(0, targets, torch.ones_like(right))

    def end(self, trainer: Any) -> None:
        parts = group.gather(None if self.counts is None else self.counts[:, :-1].tolist())
        found = [np.array(part) for part in parts if part is not None]
        if not trainer.reporter.shows or not found:
            return
        right, there = np.sum(found, axis=0)
        names = class_names(trainer, len(there))
        seen = [i for i in range(len(there)) if there[i]]
        if not seen:
            return
        accuracy = {names[i]: float(right[i] / there[i]) for i in seen}
        if len(names) <= VALUES:
            split, _, name = tag(trainer, "class_accuracy").partition("/")
            trainer.reporter.details(trainer.step, split, {f"{name}/{k}": v for k, v in accuracy.items()})
        drawn = draw(accuracy, {names[i]: int(there[i]) for i in seen})
        trainer.reporter.picture(tag(trainer, "per_class_accuracy"), drawn, trainer.step)


def draw(accuracy: dict[str, float], there: dict[str, int]) -> Tensor:
    """Both by name of the class; there: its number of samples."""
    shown = sorted(accuracy, key=lambda name: accuracy[name])[:BARS][::-1]
    drawn = figures.figure(6, 0.26 * len(shown) + 1.2)
    axes = drawn.subplots()
    axes.barh(range(len(shown)), [accuracy[name] for name in shown], color=figures.RIGHT)
    axes.set_yticks(range(len(shown)), [figures.shortened(name, 24) for name in shown])
    for i, name in enumerate(shown):
        figures.label(axes, 1.02, i, f"{accuracy[name]:.1%} of {there[name]:,}", va="center", fontsize=figures.FONT - 1)
    mean = sum(accuracy.values()) / len(accuracy)
    axes.axvline(mean, color="black", linewidth=1, linestyle="--")
    axes.set_xlim(0, 1.25)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.set_xlabel(f"accuracy (dashed: mean of the classes, {mean:.1%})", fontsize=figures.FONT)
    worst = f"the {len(shown)} worst of {len(accuracy)} classes" if len(shown) < len(accuracy) else "each class"
    axes.set_title(f"Accuracy of {worst}", fontsize=figures.FONT + 2)
    figures.plain(axes)
    return figures.picture(drawn, accuracy)
