"""Models of texts: shapes, padding that changes nothing, causality, and perplexity over batches of uneven size."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.text import GPT, BagOfTokens, Perplexity, TextCNN, TextTransformer, rotated

TOKENS = torch.tensor([[2, 3, 4, 5], [6, 2, 0, 0]])


@pytest.mark.parametrize("cls", [BagOfTokens, TextCNN, TextTransformer])
def test_padding_changes_nothing(cls: Any) -> None:
    torch.manual_seed(0)
    net = cls(vocab_size=9, num_classes=3, width=8).eval()
    out = net(TOKENS)
    assert out.shape == (2, 3)
    torch.testing.assert_close(net(F.pad(TOKENS, (0, 5))), out)
    torch.testing.assert_close(net(TOKENS[1:, :2]), out[1:])
    assert not torch.allclose(out[0], out[1])
    out.sum().backward()
    assert not (net.tokens if cls is TextTransformer else net.embedding).weight.grad[0].any()  # of padding


def test_a_transformer_knows_the_order_of_tokens() -> None:
    torch.manual_seed(0)
    net = TextTransformer(vocab_size=9, num_classes=3, width=8, heads=2).eval()
    assert not torch.allclose(net(TOKENS), net(TOKENS.flip(1)), atol=1e-4)
    assert net(torch.zeros(2, 3, dtype=torch.long)).isfinite().all()  # of an empty text


def test_a_bag_is_the_sum_over_the_root_of_the_number() -> None:
    net = BagOfTokens(9, 2, width=4).eval()
    embedded = net.embedding.weight[[6, 2]].sum(0) / math.sqrt(2)
    torch.testing.assert_close(net(TOKENS)[1], net.head(embedded))
    assert net(torch.zeros(1, 3, dtype=torch.long)).isfinite().all()


def test_gpt_sees_nothing_that_comes_later() -> None:
    torch.manual_seed(0)
    net = GPT(vocab_size=9, block_size=4, layers=2, heads=2, width=8).eval()
    out = net(TOKENS)
    assert out.shape == (2, 9, 4)
    changed = TOKENS.clone()
    changed[:, 2] = 8
    again = net(changed)
    torch.testing.assert_close(again[..., :2], out[..., :2])
    assert not torch.allclose(again[..., 2:], out[..., 2:])
    torch.testing.assert_close(net(TOKENS[:, :2]), out[..., :2])
    assert out.std() < 0.2  # at the start all tokens are about equally likely
    assert sum(p.numel() for p in GPT(256, 64).parameters()) == 820_352
    with pytest.raises(ValueError, match="width is 12 and heads 4; give a width that is a multiple of 2 x heads"):
        GPT(9, 4, heads=4, width=12)


def test_attention_depends_on_distances() -> None:
    """Of two tokens at any two places that are as far from each other; and on the distance itself."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 8)
    products = rotated(q.expand(6, 8)) @ rotated(k.expand(6, 8)).T
    for distance in range(-5, 6):
        same = products.diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand_as(same))
    assert products[0].unique().numel() == 6
    assert products[0, 0].item() == pytest.approx((q @ k).item())


def test_perplexity_is_over_tokens_not_batches() -> None:
    torch.manual_seed(0)
    output, target = torch.randn(6, 5, 7) * 3, torch.randint(5, (6, 7))
    target[1:5, 2:] = -100
    metric = Perplexity()
    for part in (slice(0, 1), slice(1, 5), slice(5, 6)):
        metric.update(output[part], target[part])
    expected = F.cross_entropy(output, target).exp().item()
    assert metric.compute() == pytest.approx(expected, rel=1e-6)
    means = [F.cross_entropy(output[part], target[part]) for part in (slice(0, 1), slice(1, 5), slice(5, 6))]
    assert abs(torch.stack(means).mean().exp().item() / expected - 1) > 1e-2
    metric.reset()
    assert math.isnan(metric.compute())
