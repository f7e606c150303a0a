"""What an evaluation found of each sample: for `test.py --save` and `--report`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from logger.console import log
from trainer.engine.evaluation.kinds import Kind, kind_of, probabilities, task_of
from trainer.engine.outputs import main_output
from utils.errors import Stopped, UsageError
from utils.process import group

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer

WORST = 10  # samples that a report lists
MATRIX = 20  # classes up to which the whole confusion matrix is shown
PAIRS = 10  # pairs of classes that are listed otherwise


class Samples(NamedTuple):
    """All samples of an evaluation, in their order: indices [N], names [N], outputs and targets [N, ...]."""

    indices: np.ndarray
    names: list[str]
    outputs: Tensor
    targets: Tensor


class Collector:
    """A callback that keeps the outputs and targets of an evaluation, on the CPU.

    what: needs them, for the UsageError of batches other than (inputs, targets).
    """

    def __init__(self, what: str = "--save and --report") -> None:
        self.what = what
        self.parts: list[tuple[np.ndarray, Tensor, Tensor]] = []

    def after_eval_batch(self, trainer: "BaseTrainer", batch: Any, outputs: Any) -> None:
        output, targets = main_output(outputs), None
        if isinstance(batch.data, (list, tuple)) and len(batch.data) > 1:
            targets = batch.data[1]
        if not isinstance(output, Tensor) or not isinstance(targets, Tensor) or len(batch.indices) != len(output):
            raise UsageError(
                f"{self.what} need the outputs of each sample: let eval_step return them, a tensor [B, ...], "
                "for batches of (inputs, targets)"
            )
        self.parts.append((batch.indices, output.float().cpu(), targets.cpu()))

    def collected(self, loader: Any) -> Samples | None:
        """Of all ranks, on rank 0. Every rank must call it."""
        parts = [part for of_rank in group.gather(self.parts) for part in of_rank]
        if not group.is_main():
            return None
        indices, outputs, targets = zip(*parts, strict=True)
        try:
            order = np.argsort(every := np.concatenate(indices), kind="stable")
            at = torch.from_numpy(order)
            return Samples(every[order], loader.names(every[order]), torch.cat(outputs)[at], torch.cat(targets)[at])
        except RuntimeError as e:
            raise UsageError(f"--save and --report need outputs of one shape for all samples: {e}") from e


def save(samples: Samples, path: Path, loss: str, facts: Mapping[str, Any]) -> None:
    """An .npz file with names, indices, targets, outputs; where there are classes, class_names and probabilities."""
    arrays: dict[str, Any] = {
        "names": np.array(samples.names),
        "indices": samples.indices,
        "targets": samples.targets.numpy(),
        "outputs": samples.outputs.numpy(),
    }
    if samples.outputs.dim() <= 2:
        kind = kind_of(loss, samples.outputs, facts.get("num_classes"))
        arrays["probabilities"] = probabilities(kind.name, samples.outputs).numpy()
        arrays["kind"] = np.array(str(kind.name))
    if "class_names" in facts:
        arrays["class_names"] = np.array([str(name) for name in facts["class_names"]])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as e:
        raise Stopped(f"{path} cannot be written: {e.strerror or e}; free space, or give another file") from e
    log.info(f"{len(samples.names):,} samples in {path}: {', '.join(arrays)}")


def report(samples: Samples, loss: str, facts: Mapping[str, Any]) -> list[str]:
    """Lines: precision, recall and F1 by class, the confusion matrix, and the samples that are most wrong."""
    kind = kind_of(loss, samples.outputs, facts.get("num_classes")) if samples.outputs.dim() <= 2 else None
    targets = samples.targets
    if kind is None or task_of(kind.name) != "classes" or targets.dim() != 1:
        return _of_values(samples, kind)
    found = probabilities(kind.name, samples.outputs)
    n = found.shape[1]
    known = torch.nonzero((targets >= 0) & (targets < n)).flatten()  # others are labels to ignore
    targets, found = targets[known], found[known]
    named = [samples.names[i] for i in known]
    given = [str(name) for name in facts.get("class_names") or ()]
    names = given if len(given) == n else [str(i) for i in range(n)]
    chosen = found.argmax(dim=1)
    confusion = torch.bincount(targets * n + chosen, minlength=n * n).reshape(n, n)  # [target, prediction]
    lines = [f"outputs are taken for {kind}", *_by_class(confusion, names), *_confusion(confusion, names)]
    of_target = found.gather(1, targets[:, None])[:, 0]
    wrong = torch.nonzero(chosen != targets).flatten()
    worst = wrong[of_target[wrong].argsort(stable=True)][:WORST]
    lines.append(f"worst of {len(wrong):,} wrong samples:" if len(wrong) else "no sample is wrong")
    lines += [
        f"  {named[i]}: {names[targets[i]]} taken for {names[chosen[i]]} ({found[i, chosen[i]]:.3f}; "
        f"{names[targets[i]]} {of_target[i]:.3g})"
        for i in worst.tolist()
    ]
    return lines


def _by_class(confusion: Tensor, names: list[str]) -> list[str]:
    right, there, taken = confusion.diag().double(), confusion.sum(dim=1), confusion.sum(dim=0)
    precision, recall = right / taken, right / there  # 0/0 is NaN: never predicted, never a target
    f1 = 2 * right / (there + taken)
    width = max(5, *map(len, names))
    lines = [f"  {'class':<{width}}  precision  recall  F1      samples"]
    for i, name in enumerate(names):
        lines.append(f"  {name:<{width}}  {precision[i]:<9.4f}  {recall[i]:<6.4f}  {f1[i]:.4f}  {int(there[i]):,}")
    lines.append(
        f"  {'mean':<{width}}  {precision.nanmean():<9.4f}  {recall.nanmean():<6.4f}  {f1.nanmean():.4f}  "
        f"{int(there.sum()):,}"
    )
    return lines


def _confusion(confusion: Tensor, names: list[str]) -> list[str]:
    if len(names) > MATRIX:
        off = confusion.clone()
        off.fill_diagonal_(0)
        values, places = off.flatten().topk(min(PAIRS, off.numel()))
        pairs = [(divmod(place, len(names)), n) for place, n in zip(places.tolist(), values.tolist(), strict=True) if n]
        return ["most often confused:", *(f"  {names[a]} taken for {names[b]}: {n:,}" for (a, b), n in pairs)]
    width = max(len(str(int(confusion.max()))), *map(len, names)) + 1
    lines = ["confusion (rows: what it is, columns: what it is taken for)"]
    lines.append(" " * (width + 2) + "".join(f"{name:>{width}}" for name in names))
    for name, row in zip(names, confusion.tolist(), strict=True):
        lines.append(f"  {name:<{width}}" + "".join(f"{n:>{width}}" for n in row))
    return lines


def _of_values(samples: Samples, kind: Kind | None) -> list[str]:
    """Of numbers: the samples with the largest error."""
    if kind is None or kind.name != "values" or samples.outputs.numel() != samples.targets.numel():
        raise UsageError("--report is for one class, or for numbers, per sample; use --save, and look at the outputs")
    error = (samples.outputs.reshape(len(samples.names), -1) - samples.targets.reshape(len(samples.names), -1)).double()
    size = error.abs().amax(dim=1)
    lines = [
        f"outputs are taken for {kind}",
        f"  error: mean {error.mean():.4g}, mean absolute {error.abs().mean():.4g}, root mean square "
        f"{error.square().mean().sqrt():.4g}, median absolute {error.abs().median():.4g}",
        "largest errors:",
    ]
    for i in size.argsort(descending=True, stable=True)[:WORST].tolist():
        lines.append(f"  {samples.names[i]}: {samples.outputs[i].tolist()}, target {samples.targets[i].tolist()}")
    return lines
