"""The trainers that a config's `trainer.type` may name."""

from trainer.gan_trainer import GANTrainer
from trainer.trainer import Trainer

__all__ = ["GANTrainer", "Trainer"]
