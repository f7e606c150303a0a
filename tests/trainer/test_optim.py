"""WarmupCosineLR's curve."""

import math

import pytest
import torch

from trainer.optim import WarmupCosineLR


def of(scheduler, steps, *args, **kwargs):
    """What the schedule itself gives for so many steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = scheduler(optimizer, *args, **kwargs)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return values


def test_warmup_cosine_curve():
    lr = of(WarmupCosineLR, 13, total_steps=10, warmup=2, min_lr=0.02)
    cosine = [0.02 + 0.08 * 0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(9)]
    assert lr == pytest.approx([0.1 * 1 / 3, 0.1 * 2 / 3, *cosine, 0.02, 0.02])


def test_warmup_as_a_share():
    assert of(WarmupCosineLR, 40, total_steps=40, warmup=0.1) == of(WarmupCosineLR, 40, total_steps=40, warmup=4)
