"""Image classifiers."""

import pytest
import torch
import torch.nn.functional as F

from model.vision import ConvNet, SmallResNet, ViT
from utils.tensors import count_parameters


@pytest.mark.parametrize("size", [8, 28, 33])
def test_conv_net_takes_any_size(size: int) -> None:
    assert ConvNet(widths=(8, 16), num_classes=7)(torch.randn(2, 1, size, size)).shape == (2, 7)


def test_small_resnet_is_resnet18() -> None:
    model = SmallResNet()
    assert count_parameters(model) == 11_173_962  # the usual form for CIFAR-10
    assert SmallResNet(width=8)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_vit() -> None:
    assert ViT(size=32, in_channels=3, num_classes=7, depth=1)(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    net, x = ViT(size=8, patch=4, width=8, depth=2, heads=2).eval(), torch.randn(1, 1, 8, 8)
    moved = torch.cat([x[..., 4:], x[..., :4]], dim=3)  # the same squares in other places
    assert not torch.allclose(net(x), net(moved))
    with torch.no_grad():
        net.positions.zero_()
    torch.testing.assert_close(net(x), net(moved))
    with pytest.raises(ValueError, match="size 30 must be a multiple of patch 4"):
        ViT(size=30)


def vit() -> ViT:
    return ViT(size=12, width=16, depth=2)


@pytest.mark.parametrize(
    "model", [lambda: ConvNet(widths=(8, 16)), lambda: SmallResNet(1, blocks=(1, 1), width=8), vit]
)
def test_learns_a_batch(model) -> None:
    torch.manual_seed(0)
    net, x, y = model(), torch.randn(32, 1, 12, 12), torch.arange(32) % 10
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
