"""The GAN."""

import torch

from model.gan import GAN
from utils.tensors import count_parameters


def test_gan() -> None:
    gan = GAN(latent=16, width=4)
    images = gan(torch.randn(5, 16))
    assert images.shape == (5, 1, 28, 28)
    black, white = (0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081
    assert black < images.min() < images.max() < white
    assert gan.discriminator(images).shape == (5,)
    assert count_parameters(gan) == count_parameters(gan.generator) + count_parameters(gan.discriminator)
