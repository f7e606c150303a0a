"""Out-of-fold predictions: each sample by the runs that did not train with it. Metrics over all of them as one set."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.checkpoint.load import weights_of
from trainer.engine import setup
from trainer.engine.evaluation import test_report
from trainer.engine.evaluation.evaluator import evaluator, set_options
from trainer.engine.evaluation.kinds import kind_of, probabilities
from trainer.engine.evaluation.samples import Collector
from trainer.engine.metrics import Sums
from trainer.inference.columns import Columns, names_of, width_of
from utils.errors import UsageError
from utils.files import write_atomic
from utils.run_folder import find_checkpoint
from utils.tensors import load_weights

TABLE, KNOWN = "oof.csv", ".oof.json"
ROOT = Path(__file__).resolve().parents[2]
CHUNK = 1024  # samples that metrics get at a time


class Fold:
    """Predictions of a run's best model for the samples that the run held out."""

    def __init__(self, run: Path, fold: int, device: torch.device) -> None:
        path = find_checkpoint(str(run))
        self.fold, (self.config, saved) = fold, test_report.load(path, [])
        set_options(self.config)
        loader = self.config.build("data_loader")
        valid = setup.validation(self.config, loader)
        if valid is None or isinstance(valid, dict):
            raise UsageError(f"{run}: out-of-fold predictions need one validation set, that of the fold")
        setup.loaders(self.config, device, valid)
        model = setup.model(self.config, device, valid)
        load_weights(model, weights_of(path, saved))
        self.collected, self.loader = Collector("out-of-fold predictions"), valid
        self.trainer = self._trainer(device, valid, model, [self.collected])
        self.trainer.step = saved["step"]
        self.trainer.evaluate(valid, f"fold {fold}")

    def _trainer(self, device: torch.device, loader: Any, model: nn.Module, callbacks: list[Any]) -> Any:
        config = self.config
        return evaluator(config, device, loader, model, config.build("loss"), config.build("metrics"), callbacks)

    def values(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The loss and metrics of these outputs: what eval_step records if the model returns them."""
        device = self.trainer.device
        trainer, sums = self._trainer(device, self.loader, nn.Identity(), []), Sums()
        with trainer.eval_mode(), trainer.metrics.evaluating(), trainer.recording(sums):
            for start in range(0, len(outputs), CHUNK):
                part = slice(start, start + CHUNK)
                batch = (outputs[part].to(device), targets[part].to(device))
                trainer.evaluate_batch(batch, len(batch[0]))
            return dict(sums.means() | trainer.metrics.compute())


def write(folder: Path, runs: Mapping[Path, int], count: int, device: torch.device) -> dict[str, Any]:
    """Write oof.csv of these runs, each with its fold, and return the values over all samples. count: of all folds.

    Several runs of one fold, of different seeds, are averaged. Samples of missing folds have no row.
    """
    folds = [Fold(run, fold, device) for run, fold in runs.items()]
    parts = [(fold.fold, *part) for fold in folds for part in fold.collected.parts]
    indices = np.concatenate([i for _, i, _, _ in parts])
    outputs = torch.cat([o for _, _, o, _ in parts])
    targets = torch.cat([t for _, _, _, t in parts])
    fold_of = np.concatenate([np.full(len(i), number) for number, i, _, _ in parts])
    unique, first, inverse = np.unique(indices, return_index=True, return_inverse=True)
    positions = torch.from_numpy(inverse.reshape(-1))
    total = torch.zeros(len(unique), *outputs.shape[1:], dtype=torch.float64)
    total.index_add_(0, positions, outputs.double())
    shape = (-1, *[1] * (outputs.dim() - 1))
    mean = (total / torch.bincount(positions).reshape(shape)).float()
    targets, fold_of = targets[torch.from_numpy(first)], fold_of[first]
    values = folds[0].values(mean, targets)
    found = {"values": values, "samples": len(unique), "folds": len(set(runs.values())), "of": count, "table": None}
    if mean.dim() <= 2:  # masks are no rows
        found["table"] = TABLE
        write_atomic(folder / TABLE, _csv(folds[0], unique, fold_of, mean, targets).encode())
    write_atomic(folder / KNOWN, json.dumps({"of": _identity(runs), "found": found}).encode())
    return found


def known(folder: Path, runs: Mapping[Path, int]) -> dict[str, Any] | None:
    """The cached return value of `write` for the same checkpoints; None if there is none."""
    try:
        saved = json.loads((folder / KNOWN).read_bytes())
    except (OSError, ValueError):
        return None
    found: dict[str, Any] = saved["found"]
    there = found["table"] is None or (folder / TABLE).is_file()
    return found if there and saved["of"] == _identity(runs) else None


def _identity(runs: Mapping[Path, int]) -> list[list[Any]]:
    """What the values depend on: the checkpoints and your code, as far as names, sizes and times can tell."""
    files = [(find_checkpoint(str(run)), fold) for run, fold in runs.items()]
    files += [(path, -1) for room in ("model", "data_loader") for path in sorted((ROOT / room).glob("*.py"))]
    return [[list(path.parts[-3:]), fold, path.stat().st_size, path.stat().st_mtime_ns] for path, fold in files]


def _csv(fold: Fold, indices: np.ndarray, fold_of: np.ndarray, outputs: Tensor, targets: Tensor) -> str:
    facts = fold.config.facts
    kind = kind_of(fold.config.run.loss.type, outputs, facts.get("num_classes")).name
    table = {"fold": [str(number) for number in fold_of], "target": [_target(t, facts) for t in targets]}
    columns = Columns(None, True, kind, names_of(facts), width_of(outputs), table, leading=("id", "fold", "target"))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns.header)
    writer.writerows(columns.rows(range(len(indices)), fold.loader.names(indices), probabilities(kind, outputs)))
    return out.getvalue()


def _target(target: Tensor, facts: Mapping[str, Any]) -> str:
    names = facts.get("class_names")
    if target.dim() == 0 and not target.is_floating_point() and names:
        return str(names[int(target)])
    return " ".join(f"{value:.8g}" for value in target.reshape(-1).tolist())
