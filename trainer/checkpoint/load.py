"""The trained model of a run, in one line: `model = load_model("saved/digits/RUN")`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.checkpoint import files
from trainer.engine.batches import spread_inputs
from utils.config import load
from utils.errors import UsageError
from utils.run_folder import find_checkpoint
from utils.tensors import load_weights


def load_model(run: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The model as it was validated, in eval mode. run: a run's folder (its best checkpoint), or a checkpoint.

    Raises UsageError where there is no sound checkpoint.
    """
    path = find_checkpoint(str(run))
    try:
        saved = files.load(path)
    except files.BrokenCheckpoint as e:
        raise UsageError(f"{path} cannot be used: {e}") from e
    config = load([saved["config"]])
    config.facts = saved["facts"]
    model: nn.Module = config.build("arch")
    spread_inputs(model)
    load_weights(model, weights_of(path, saved))
    return model.to(device).eval()


def weights_of(path: Path, saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights that were validated, of the checkpoint that was read from `path`."""
    if files.SHARDS in saved:
        from trainer.checkpoint import shards  # takes half a second to import

        return shards.load_weights(path)
    return saved["model"]
