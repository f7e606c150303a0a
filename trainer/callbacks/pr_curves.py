"""PRCurves: precision over recall of each class, as a figure after each evaluation."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from logger import figures
from trainer.engine.evaluation.class_outputs import ClassCallback, Scores, class_names, tag
from utils.process import group

THRESHOLDS = 200
FACETS = 12  # classes: of more, those with the lowest average precision
WIDTH, HEIGHT = 1.35, 1.5  # of a panel, whose curve is within 1 x 1


class PRCurves(ClassCallback):
    """One class against the others, counted at 200 thresholds of its probability, so that no sample has to be kept.

    The area under a curve is the average precision, within about 1/200. Two classes: only the curve of the second.
    """

    libraries = figures.LIBRARIES

    def begin(self, trainer: Any) -> None:
        self.counts: Tensor | None = None  # [C, THRESHOLDS, 2]: samples by probability; of other classes, of this one

    def add(self, trainer: Any, batch: Any, scores: Scores) -> None:
        n = scores.probabilities.shape[1]
        if self.counts is None:
            self.counts = torch.zeros(n, THRESHOLDS, 2, dtype=torch.long, device=scores.targets.device)
        known = (scores.targets >= 0).long()
        bins = (scores.probabilities * THRESHOLDS).long().clamp(0, THRESHOLDS - 1)  # [N, C]
        classes = torch.arange(n, device=bins.device)
        is_class = (scores.targets[:, None] == classes).long()
        place = (classes * THRESHOLDS + bins) * 2 + is_class
        self.counts.view(-1).index_add_(0, place.flatten(), known[:, None].expand(-1, n).flatten())

    def end(self, trainer: Any) -> None:
        parts = group.gather(None if self.counts is None else self.counts.tolist())
        found = [np.array(part) for part in parts if part is not None]
        if trainer.reporter.shows and found:
            counts = np.sum(found, axis=0)
            first = 1 if len(counts) == 2 else 0  # of two classes, the second is shown
            if not counts[first:, :, 1].any():
                return  # no sample of any of them
            drawn = draw(counts, class_names(trainer, len(counts)))
            trainer.reporter.picture(tag(trainer, "precision_recall"), drawn, trainer.step)


def curve(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Recall, precision [T] from the highest threshold on, and the average precision, of counts [T, 2]."""
    false, true = np.cumsum(counts[::-1], 0).T
    precision = np.divide(true, true + false, out=np.ones(len(true)), where=true + false > 0)
    recall = true / max(true[-1], 1)
    area = float(np.sum(np.diff(recall, prepend=0) * precision))
    end = int(np.argmax(recall)) + 1  # lower thresholds find nothing more
    return recall[:end], precision[:end], area


def draw(counts: np.ndarray, names: list[str]) -> Tensor:
    """counts: [C, T, 2]."""
    classes = range(1, 2) if len(names) == 2 else range(len(names))
    curves = {k: curve(counts[k]) for k in classes if counts[k, :, 1].sum()}
    shown = sorted(curves, key=lambda k: curves[k][2])[:FACETS]
    rows, columns = figures.rows_and_columns(len(shown), 4)
    drawn = figures.figure(2.2 * columns + 0.4, 2.0 * rows + 0.8)
    mean = np.mean([area for _, _, area in curves.values()])
    which = f"the lowest {len(shown)} of {len(curves)}" if len(shown) < len(curves) else "lowest first"
    title = f"Average precision of each class ({which}); mean {mean:.3f}" if len(curves) > 1 else "Average precision"
    drawn.suptitle(title, fontsize=figures.FONT + 2)
    axes = drawn.subplots()  # one for all panels: matplotlib takes 0.1 s for each
    axes.set(xlim=(-0.2, columns * WIDTH - 0.1), ylim=(0.15 - rows * HEIGHT, 0.25))
    axes.set_axis_off()
    for i, k in enumerate(shown):
        recall, precision, area = curves[k]
        x, y = i % columns * WIDTH, -(i // columns + 1) * HEIGHT + 0.4
        axes.plot([x, x, x + 1], [y + 1.05, y, y], color="black", linewidth=0.8)
        axes.plot(x + np.append(0, recall), y + np.append(precision[0], precision), color=figures.RIGHT)
        title = f"{figures.shortened(names[k])}: {area:.3f}"
        figures.label(axes, x + 0.5, y + 1.1, title, ha="center", fontsize=figures.FONT)
        for value in (0, 0.5, 1):
            small = {"fontsize": figures.FONT - 1, "color": "#444444"}
            figures.label(axes, x + value, y - 0.05, f"{value:g}", ha="center", va="top", **small)
            figures.label(axes, x - 0.04, y + value, f"{value:g}", ha="right", va="center", **small)
    drawn.supxlabel("recall", fontsize=figures.FONT)
    drawn.supylabel("precision", fontsize=figures.FONT)
    return figures.picture(drawn, names)
