"""Models of signals. Those of spectrograms are tested with their loader."""

import torch
import torch.nn.functional as F

from model.audio import CNN1d


def test_cnn1d_learns_frequencies() -> None:
    torch.manual_seed(0)
    frequency, phase = torch.arange(60) % 3, torch.rand(60)
    time = torch.arange(64) / 64
    x = torch.sin(2 * torch.pi * ((frequency[:, None] + 2) * 2 * time + phase[:, None]))[:, None]
    net = CNN1d(num_classes=3, widths=(8, 16), strides=(2, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x[:45]), frequency[:45]).backward()
        optimizer.step()
    assert (net.eval()(x[45:]).argmax(1) == frequency[45:]).float().mean() == 1
    assert net(torch.randn(2, 1, 501)).shape == (2, 3)
