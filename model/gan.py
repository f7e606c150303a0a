"""Generative adversarial networks."""

from torch import Tensor, nn


class GAN(nn.Module):
    """A small DCGAN (arXiv:1511.06434) for 28 x 28 images, normalized as `MnistDataLoader` does.

    generator: noise [B, latent] -> images [B, 1, 28, 28]. discriminator: images -> logits [B], high for real images.
    Calling the GAN runs the generator.
    """

    def __init__(self, latent: int = 64, width: int = 32):
        super().__init__()
        self.latent = latent
        self.generator = nn.Sequential(
            nn.Linear(latent, 4 * width * 7 * 7, bias=False),
            nn.Unflatten(1, (4 * width, 7, 7)),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * width, 1, 4, stride=2, padding=1),
            _MnistRange(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Flatten(),
            nn.Linear(4 * width * 7 * 7, 1),
            nn.Flatten(0),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


class _MnistRange(nn.Module):
    """Any number -> the range of normalized MNIST pixels, (0 - mean) / std ... (1 - mean) / std."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.sigmoid() - 0.1307) / 0.3081
