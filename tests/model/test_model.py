"""Models: shapes, sizes and learning. Losses and metrics: values."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F

from model.gan import GAN
from model.loss import count_labels, cross_entropy, nll_loss
from model.metric import accuracy, top_k_acc
from model.model import MLP, MnistModel
from model.vision import ConvNet, SmallResNet


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_mnist_model_is_that_of_the_2020_template() -> None:
    model = MnistModel()
    assert parameters(model) == 21_840
    log_p = model(torch.randn(3, 1, 28, 28))
    assert log_p.shape == (3, 10)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(3))
    assert list(model.state_dict())[:2] == ["conv1.weight", "conv1.bias"]  # its checkpoints' keys


@pytest.mark.parametrize("size", [8, 28, 33])
def test_conv_net_takes_any_size(size: int) -> None:
    assert ConvNet(widths=(8, 16), num_classes=7)(torch.randn(2, 1, size, size)).shape == (2, 7)


def test_mlp_takes_any_shape() -> None:
    model = MLP(12, hidden=(8, 6), num_classes=3)
    assert parameters(model) == 12 * 8 + 8 + 8 * 6 + 6 + 6 * 3 + 3
    assert model(torch.randn(2, 3, 2, 2)).shape == (2, 3)


@pytest.mark.parametrize("module", ["model.model", "model.loss", "model.metric"])
def test_a_pasted_layer_finds_its_imports(module: str) -> None:
    pasted = "def pasted(x): return F.relu(torch.ones(1)) * math.pi, nn.Linear(1, 1), Tensor"
    names = dict(vars(importlib.import_module(module)))
    exec(pasted, names)
    assert names["pasted"](0)[0].item() == pytest.approx(math.pi)


def test_small_resnet_is_resnet18() -> None:
    model = SmallResNet()
    assert parameters(model) == 11_173_962  # the usual form for CIFAR-10
    assert SmallResNet(width=8)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("model", [lambda: ConvNet(widths=(8, 16)), lambda: SmallResNet(1, blocks=(1, 1), width=8)])
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


def test_gan() -> None:
    gan = GAN(latent=16, width=4)
    images = gan(torch.randn(5, 16))
    assert images.shape == (5, 1, 28, 28)
    black, white = (0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081
    assert black < images.min() < images.max() < white
    assert gan.discriminator(images).shape == (5,)
    assert parameters(gan) == parameters(gan.generator) + parameters(gan.discriminator)


def test_losses() -> None:
    logits, target = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([1, 0])
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert nll_loss(logits.log_softmax(1), target).item() == pytest.approx(expected)
    assert cross_entropy(logits, target).item() == pytest.approx(expected)
    smoothed = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)  # half of the probability is spread over both classes
    assert cross_entropy(logits[:1], target[:1], label_smoothing=0.5).item() == pytest.approx(smoothed)


@pytest.mark.parametrize("loss", [cross_entropy, nll_loss])
def test_a_loss_states_how_many_labels_its_mean_is_over(loss) -> None:
    """Weighted by it, the means of two micro-batches make the mean of both, although -100 is ignored."""
    torch.manual_seed(0)
    output = torch.randn(6, 5, 4).log_softmax(1)
    target = torch.randint(5, (6, 4))
    target[0, :3] = target[4, 1] = -100
    weights = [float(loss.weight_of(part)) for part in (target[:2], target[2:])]
    assert weights == [5, 15]
    means = [loss(output[:2], target[:2]), loss(output[2:], target[2:])]
    torch.testing.assert_close((means[0] * 5 + means[1] * 15) / 20, loss(output, target))


def test_labels_are_counted_on_any_device_and_as_probabilities() -> None:
    assert count_labels(torch.tensor([1, 0, 2])) == 3
    assert count_labels(torch.full((2,), -100)) == 0
    assert count_labels(torch.zeros(0, dtype=torch.long)) == 0
    on_meta = count_labels(torch.tensor([1, -100], device="meta"))
    assert isinstance(on_meta, torch.Tensor)
    assert (on_meta.is_meta, on_meta.shape) == (True, ())
    probabilities = torch.full((3, 4), 0.25)
    assert count_labels(probabilities) == 3
    assert count_labels(probabilities[:, :, None].expand(3, 4, 7)) == 21
    logits = torch.randn(3, 4)
    assert cross_entropy(logits, probabilities).item() == pytest.approx(-logits.log_softmax(1).mean(1).sum().item() / 3)


def test_metrics_are_values_per_sample() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4, 0.0], [0.9, 0.05, 0.03, 0.02]])
    target = torch.tensor([2, 3])
    assert accuracy(scores, target).tolist() == [False, False]
    assert accuracy(scores, torch.tensor([1, 0])).tolist() == [True, True]
    assert top_k_acc(scores, target, k=2).tolist() == [True, False]
    assert top_k_acc(scores, target, k=4).tolist() == [True, True]
    with pytest.raises(ValueError, match="top_k_acc: k is 5, but the model has 4 classes; set k to that or less"):
        top_k_acc(scores, target, k=5)
