"""What trains the model. Start with trainer.py; the folders are engine, except callbacks/."""

from trainer.checkpoint.load import load_model
from trainer.engine.base_trainer import BaseTrainer
from trainer.trainer import Trainer

__all__ = ["BaseTrainer", "Trainer", "load_model"]
