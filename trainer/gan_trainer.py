"""A step with two optimizers: a generative adversarial network (Goodfellow et al., 2014)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.engine.base_trainer import BaseTrainer


class GANTrainer(BaseTrainer):
    """The model has `generator` ([B, latent] -> images) and `discriminator` (images -> logits [B]), with an optimizer
    for each. The criterion compares logits with 1 (real) and 0 (generated)."""

    loss_names = ("loss", "d_loss")  # `loss` is the generator's
    calls_parts = True

    def train_step(self, batches: Sequence[Any]) -> None:
        for real, *_ in self.micro_batches(batches):
            with self.autocast():
                d_loss = self.discriminator_loss(real)
            self.backward(d_loss)
            self.record(d_loss=d_loss)
        self.update(self.optimizer["discriminator"])

        for real, *_ in self.micro_batches(batches):
            with self.autocast():
                loss = self.generator_loss(len(real))
            self.backward(loss)
            self.record(loss=loss)
        self.update(self.optimizer["generator"])

    def eval_step(self, batch: Any) -> None:
        real, *_ = batch
        self.record(d_loss=self.discriminator_loss(real))
        self.record(loss=self.generator_loss(len(real)))

    def unpack(self, batch: Any) -> Any:
        return (batch,) if isinstance(batch, Tensor) else batch  # of a data set of images alone

    def inputs_of(self, batch: Any) -> Tensor:
        return torch.randn(len(batch[0]), self.model.latent, device=self.device)

    def predict_step(self, inputs: Tensor) -> Tensor:
        return self.model.generator(inputs)

    def discriminator_loss(self, real: Tensor) -> Tensor:
        """real: images [B, C, H, W]."""
        with torch.no_grad():
            generated = self.generate(len(real))
        on_real, on_generated = self.model.discriminator(real), self.model.discriminator(generated)
        ones, zeros = torch.ones_like(on_real), torch.zeros_like(on_generated)
        return self.criterion(on_real, ones) + self.criterion(on_generated, zeros)

    def generator_loss(self, n: int) -> Tensor:
        on_generated = self.model.discriminator(self.generate(n))
        return self.criterion(on_generated, torch.ones_like(on_generated))

    def generate(self, n: int) -> Tensor:
        """n images from noise: [n, C, H, W]."""
        return self.model.generator(torch.randn(n, self.model.latent, device=self.device))
