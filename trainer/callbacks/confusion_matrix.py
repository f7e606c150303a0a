"""ConfusionMatrix: which classes are taken for which, as a figure after each evaluation."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from logger import figures
from trainer.engine.evaluation.class_outputs import ClassCallback, Scores, class_names, tag
from utils.process import group

IN_CELLS = 20  # classes: with more, the cells would be too small for numbers
FACETS, BARS = 12, 4  # of many classes: those that are most often wrong, and what each is taken for


class ConfusionMatrix(ClassCallback):
    """Rows are the true classes, columns the predictions. Over 20 classes: the worst ones, each with a panel."""

    libraries = figures.LIBRARIES
    pixels = True

    def begin(self, trainer: Any) -> None:
        self.counts: Tensor | None = None  # [C * C + 1], target-major; the last: ignored targets

    def add(self, trainer: Any, batch: Any, scores: Scores) -> None:
        n = scores.probabilities.shape[1]
        if self.counts is None:
            self.counts = torch.zeros(n * n + 1, dtype=torch.long, device=scores.targets.device)
        place = scores.targets * n + scores.probabilities.argmax(1)
        place = torch.where((scores.targets >= 0) & (scores.targets < n), place, n * n)
        self.counts.index_add_(0, place, torch.ones_like(place))  # bincount would wait for the device

    def end(self, trainer: Any) -> None:
        parts = group.gather(None if self.counts is None else self.counts.tolist())
        found = [np.array(part[:-1]) for part in parts if part is not None]
        if trainer.reporter.shows and found:
            n = round(len(found[0]) ** 0.5)
            counts = np.sum(found, axis=0).reshape(n, n)
            trainer.reporter.picture(
                tag(trainer, "confusion_matrix"), draw(counts, class_names(trainer, n)), trainer.step
            )


def draw(counts: np.ndarray, names: list[str]) -> Tensor:
    """counts: [C, C], rows are the true classes."""
    return _matrix(counts, names) if len(names) <= IN_CELLS else _facets(counts, names)


def _title(counts: np.ndarray) -> str:
    total = int(counts.sum())
    return f"{np.trace(counts) / max(total, 1):.2%} of {total:,} are right"


def _matrix(counts: np.ndarray, names: list[str]) -> Tensor:
    n = len(names)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(3.5, 0.48 * n + 1.4)
    drawn = figures.figure(side + 0.6, side)
    axes = drawn.subplots()
    from matplotlib.colors import PowerNorm

    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))  # so that small shares are visible
    for row, column in np.ndindex(n, n):
        if counts[row, column]:
            color = "white" if share[row, column] > 0.35 else "black"
            size = figures.FONT if counts.max() < 10_000 else figures.FONT - 3
            figures.label(
                axes, column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color, fontsize=size
            )
    short = [figures.shortened(name) for name in names]
    turned = max(map(len, short)) > 3
    axes.set_xticks(
        range(n), short, fontsize=figures.FONT, rotation=60 if turned else 0, ha="right" if turned else "center"
    )
    axes.set_yticks(range(n), short, fontsize=figures.FONT)
    axes.set_xlabel("prediction")
    axes.set_ylabel("true class")
    axes.set_title(_title(counts), fontsize=figures.FONT + 2)
    drawn.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figures.picture(drawn, names)


def _facets(counts: np.ndarray, names: list[str]) -> Tensor:
    """A panel for each of the classes that are most often wrong: what its samples are taken for."""
    there = np.maximum(counts.sum(1), 1)
    wrong = 1 - np.diag(counts) / there
    wrong[counts.sum(1) == 0] = -1
    worst = np.argsort(-wrong, kind="stable")[:FACETS]
    rows, columns = figures.rows_and_columns(len(worst), 4)
    drawn = figures.figure(2.7 * columns, 1.6 * rows + 0.5)
    drawn.suptitle(f"{_title(counts)}; the {len(worst)} worst of {len(names)} classes", fontsize=figures.FONT + 2)
    for axes, k in zip(drawn.subplots(rows, columns, sharex=True).ravel(), worst, strict=False):
        taken = [j for j in np.argsort(-counts[k], kind="stable")[:BARS] if counts[k, j]][::-1]
        share = [counts[k, j] / there[k] for j in taken]
        colors = [figures.RIGHT if j == k else figures.WRONG for j in taken]
        axes.barh(range(len(taken)), share, color=colors)
        labels = [f"{figures.shortened(names[j], 14)}{' ✓' if j == k else ''}" for j in taken]
        axes.set_yticks(range(len(taken)), labels, fontsize=figures.FONT - 1)
        for i, j in enumerate(taken):
            figures.label(axes, share[i] + 0.02, i, f"{counts[k, j]:,}", va="center", fontsize=figures.FONT - 1)
        axes.set_xlim(0, 1.25)
        axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
        axes.set_title(f"true: {figures.shortened(names[k])} ({counts[k].sum():,})", fontsize=figures.FONT)
        figures.plain(axes)
    drawn.supxlabel("share of the class that is predicted so", fontsize=figures.FONT)
    return figures.picture(drawn, names)
