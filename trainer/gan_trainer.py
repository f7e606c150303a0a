"""A step with two optimizers: a generative adversarial network (Goodfellow et al., 2014)."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.base_trainer import BaseTrainer


class GANTrainer(BaseTrainer):
    """The model has `generator` ([B, latent] -> images) and `discriminator` (images -> logits [B]), with an
    optimizer for each. The criterion compares logits with 1 (real) and 0 (made)."""

    loss_names = ("loss", "d_loss")  # `loss` is the generator's

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def train_step(self, batches: list[Any]) -> None:
        self.optimize(self.discriminator_loss, batches, self.optimizer["discriminator"])
        self.optimize(self.generator_loss, batches, self.optimizer["generator"])

    def eval_step(self, batch: Any) -> None:
        self.discriminator_loss(batch)
        self.generator_loss(batch)

    def discriminator_loss(self, batch: Any) -> Tensor:
        real = batch[0]
        with torch.no_grad():
            made = self.make(len(real))
        on_real, on_made = self.model.discriminator(real), self.model.discriminator(made)
        loss = self.criterion(on_real, torch.ones_like(on_real)) + self.criterion(on_made, torch.zeros_like(on_made))
        self.record(d_loss=loss)
        return loss

    def generator_loss(self, batch: Any) -> Tensor:
        on_made = self.model.discriminator(self.make(len(batch[0])))
        loss = self.criterion(on_made, torch.ones_like(on_made))
        self.record(loss=loss)
        return loss

    def make(self, n: int) -> Tensor:
        """n images from noise: [n, C, H, W]."""
        return self.model.generator(torch.randn(n, self.model.latent, device=self.device))
