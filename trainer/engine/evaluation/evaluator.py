"""A trainer that does not train: what test.py, predict.py and export.py call eval_step and predict_step of."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainer.checkpoint.load import weights_of
from trainer.engine import setup
from utils.errors import UsageError
from utils.tensors import load_weights

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


def set_options(config: Any) -> None:
    """Leave out what is for training only."""
    config.run.init_from = None
    options = config.run.trainer
    options.compile = False  # not worth it for one pass
    options.limit_batches = None  # all of the data, whatever the training was limited to
    options.accumulate, options.exact_ranks = 1, False  # they are for training, on its number of processes


def evaluator(
    config: Any, device: torch.device, data_loader: Any, model: nn.Module, criterion: Any, metrics: Any, callbacks: Any
) -> "BaseTrainer":
    """The trainer of a config with these parts, without optimizer."""
    return config.build(
        "trainer",
        model=model,
        criterion=criterion,
        metrics=metrics,
        optimizer=None,
        config=config,
        device=device,
        data_loader=data_loader,
        callbacks=callbacks,
    )


def predictor(config: Any, device: torch.device, data_loader: Any, saved: Any) -> "BaseTrainer":
    """A trainer for predict_step alone, with the weights that were validated: averages where there are.

    saved: the state in a checkpoint, with its path; or a model that is ready.
    """
    set_options(config)
    config.run.trainer.parallel, config.run.metrics = "ddp", []  # each process predicts for itself
    if isinstance(saved, nn.Module):
        model = saved
    else:
        model = setup.model(config, device, data_loader)
        try:
            load_weights(model, weights_of(*saved))
        except RuntimeError as e:
            why = str(e).splitlines()[-1].strip()
            raise UsageError(f"{saved[0]}: its weights do not fit the arch that the config has now: {why}") from e
    return evaluator(config, device, data_loader, model, None, [], [])
