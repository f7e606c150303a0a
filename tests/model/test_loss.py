"""Losses, and what their mean is over."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

import data_loader.data_loaders
from model.loss import BalancedCrossEntropy, count_labels, cross_entropy, dice_loss, focal_loss, nll_loss
from tests.tiny import Tiny, hand_loop, tiny
from tests.trainer.steps import TokensDataLoader, name_parts

__all__ = ["tiny"]


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


def test_cross_entropy_of_pixels_with_deterministic_kernels() -> None:
    """A GPU has none for pixels: they are computed as samples."""
    torch.manual_seed(0)
    output, target = torch.randn(2, 5, 3, 4, requires_grad=True), torch.randint(5, (2, 3, 4))
    target[0, 1] = 255
    plain = cross_entropy(output, target, label_smoothing=0.1, ignore_index=255)
    gradient = torch.autograd.grad(plain, output)[0]
    probabilities = cross_entropy(output, output.detach().softmax(1))
    torch.use_deterministic_algorithms(True)
    try:
        exact = cross_entropy(output, target, label_smoothing=0.1, ignore_index=255)
        torch.testing.assert_close(exact, plain)
        torch.testing.assert_close(torch.autograd.grad(exact, output)[0], gradient)
        torch.testing.assert_close(cross_entropy(output, output.detach().softmax(1)), probabilities)
    finally:
        torch.use_deterministic_algorithms(False)


def test_focal_loss() -> None:
    torch.manual_seed(0)
    output, target = torch.randn(6, 5, 4), torch.randint(5, (6, 4))
    target[0, :3] = target[4, 1] = -100
    torch.testing.assert_close(focal_loss(output, target, gamma=0.0), cross_entropy(output, target))
    two = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # the right class has 3/4 and 1/2
    expected = ((1 / 4) ** 2 * math.log(4 / 3) + (1 / 2) ** 2 * math.log(2)) / 2
    assert focal_loss(two, torch.tensor([1, 0])).item() == pytest.approx(expected)
    multiclass = focal_loss(torch.stack([torch.zeros(4), output[0, 0]], 1), torch.tensor([1, 0, 1, 1]))
    binary = sigmoid_focal_loss(output[0, 0], torch.tensor([1.0, 0, 1, 1]), alpha=-1, reduction="mean")
    torch.testing.assert_close(multiclass, binary)
    weight_of = focal_loss.weight_of  # type: ignore[attr-defined]
    assert float(weight_of(target)) == 20


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_gradient_of_a_certain_answer_is_finite(gamma: float) -> None:
    output = torch.tensor([[200.0, 0.0], [0.0, 1.0]], requires_grad=True)
    focal_loss(output, torch.tensor([0, 0]), gamma=gamma).backward()
    assert output.grad is not None
    assert output.grad[0].eq(0).all()
    assert output.grad[1].ne(0).all()


def test_focal_loss_of_probabilities_is_over_samples() -> None:
    """Those of MixUp."""
    output, target = torch.randn(6, 5), torch.randn(6, 5).softmax(1)
    torch.testing.assert_close(focal_loss(output, target, gamma=0.0), cross_entropy(output, target))


def test_dice_loss() -> None:
    target = torch.tensor([[[0, 0], [1, 1]], [[0, 0], [0, 0]]])  # the second image has one class
    certain = 50.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    assert dice_loss(certain, target).item() == pytest.approx(0.0, abs=1e-6)
    assert dice_loss(certain.flip(1), target).item() > 0.4
    even = torch.zeros(1, 2, 2, 2)  # each class has probability 1/2 in four pixels, and two of them
    assert dice_loss(even, target[:1], smooth=0.0).item() == pytest.approx(1 - 2 * 1 / (2 + 2))
    ignored = target[:1].clone()
    ignored[0, 0, 0] = 255
    without = even[:, :, 1:], target[:1, 1:]
    expected = 1 - ((2 * 0.5 / (1.5 + 1)) + (2 * 1 / (1.5 + 2))) / 2
    assert dice_loss(even, ignored, smooth=0.0).item() == pytest.approx(expected)
    assert dice_loss(*without, smooth=0.0).item() == pytest.approx(1 - (0 + 2 * 1 / (1 + 2)) / 2)
    parts = [dice_loss(certain.flip(1)[i : i + 1], target[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(sum(parts) / 2, dice_loss(certain.flip(1), target))  # the mean is over images


def test_balanced_cross_entropy() -> None:
    def weights(counts: list[int], power: float = 1.0) -> list[float]:
        weight = BalancedCrossEntropy(counts, power).weight
        assert weight is not None
        return weight.tolist()

    assert weights([10, 30, 60]) == pytest.approx([10 / 3, 10 / 9, 5 / 9])
    assert weights([10, 30, 60], power=0) == [1, 1, 1]
    assert all(map(math.isfinite, weights([0, 10], power=0.5)))


class CountedTokensDataLoader(TokensDataLoader):
    """With the facts of its labels."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        labels = self.dataset.tensors[1]
        self.facts = {"num_classes": 3, "class_counts": torch.bincount(labels[labels >= 0], minlength=3).tolist()}


NEW: dict[str, Any] = {
    "focal_loss": lambda loader: focal_loss,
    "{type: focal_loss, args: {gamma: 1.0, ignore_index: 1}}": lambda loader: partial(
        focal_loss, gamma=1.0, ignore_index=1
    ),
    "{type: dice_loss, args: {ignore_index: -100}}": lambda loader: partial(dice_loss, ignore_index=-100),
    "BalancedCrossEntropy": lambda loader: BalancedCrossEntropy(loader.facts["class_counts"]),
}


def options(loss: str) -> list[str]:
    return [
        "arch={type: Tagger, args: {}}",
        "data_loader={type: CountedTokensDataLoader, args: {batch_size: 16, ignored: "
        + str("ignore_index: 1" not in loss).lower()
        + "}}",
        f"loss={loss}",
        "metrics=[]",
        "optimizer={type: AdamW, args: {lr: 0.1}}",
        "trainer={max_steps: 4, epochs: null, limit_batches: null, log_steps: 1}",
    ]


@pytest.mark.parametrize("loss", NEW)
def test_accumulation_and_class_counts_agree_with_a_plain_loop(tiny: Tiny, loss: str, monkeypatch: Any) -> None:
    name_parts()
    monkeypatch.setattr(data_loader.data_loaders, "CountedTokensDataLoader", CountedTokensDataLoader, raising=False)
    built = tiny.build(*options(loss), run="raw")
    x, y = built.data_loader.dataset.tensors
    losses = hand_loop(built, x, y, NEW[loss](built.data_loader), 4)
    done = tiny.train(*options(loss), "trainer.accumulate=4")
    assert [point["loss"] for point in tiny.points("train")] == pytest.approx(losses, rel=1e-5)
    for name, value in built.model.state_dict().items():
        torch.testing.assert_close(done.model.state_dict()[name], value, rtol=0, atol=2e-6)
