"""Losses, and what their mean is over."""

import math

import pytest
import torch

from model.loss import count_labels, cross_entropy, nll_loss


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
