"""Between two log points no step waits for the GPU. The GPU here is torch's `meta`: a device of tensors without data.

Whatever would bring a number to the host (`.item()`, `if tensor:`, `nonzero`, indexing with a mask) is an error there;
copies from the host that wait are looked for besides.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import tiny
from trainer.engine import metrics, setup
from trainer.engine.optim.optimizers import build_optimizer
from trainer.engine.optim.schedules import build_lr_scheduler
from trainer.trainer import Trainer

__all__ = ["tiny"]
META = torch.device("meta")
STEPS = 10


class Copies(TorchDispatchMode):
    """Counts copies between devices for which the host waits."""

    waiting = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and result.device != args[0].device:
            self.waiting += not kwargs.get("non_blocking")
        return result


@pytest.fixture
def copies(monkeypatch):
    """Also those in `torch.tensor([...], device=...)`, which no dispatch mode sees."""
    copies, tensor = Copies(), torch.tensor

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        copies.waiting += kwargs.get("device") not in (None, torch.device("cpu"))
        return tensor(*args, **kwargs)

    monkeypatch.setattr(torch, "tensor", counted)
    monkeypatch.setattr(metrics, "FOLD", 4)  # values of a name after which they are added up
    return copies


def steps(tiny, copies, keys, trainer_class=Trainer):
    """Train without a log point; the copies that waited."""
    on_cpu = tiny.build(*keys, "optimizer.args.fused=false", "trainer.log_steps=1000", "trainer.limit_batches=null")
    config, loader = on_cpu.config, on_cpu.data_loader
    setup.loaders(config, META, loader)
    model = config.build("arch").to(META)
    optimizer = build_optimizer(config, model)
    trainer = trainer_class(
        model=model,
        criterion=config.build("loss"),
        metrics=config.build("metrics"),
        optimizer=optimizer,
        config=config,
        device=META,
        data_loader=loader,
        lr_scheduler=build_lr_scheduler(config, optimizer, loader.steps_per_epoch),
        callbacks=config.build("callbacks"),
    )
    trainer.model.train()
    trainer.steps_per_epoch = 10**6  # else each ends with a log point
    stream = loader.iter_steps(0)
    trainer.run_step(stream)  # the first makes the optimizer's state
    copies.waiting = 0
    with copies:
        for _ in range(STEPS):
            trainer.run_step(stream)
    assert trainer.step == STEPS + 1
    return copies.waiting


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["trainer.clip_grad_norm=0.1", "metrics=[accuracy, top_k_acc]", "callbacks=[EMA]"],
        ["trainer.accumulate=2", "optimizer={type: AdamW, args: {lr: 0.1}}", "lr_scheduler=WarmupCosineLR"],
        ["arch={type: ConvNet, args: {widths: [4], depth: 1, dropout: 0.1}}"],
    ],
)
def test_no_step_waits(tiny, copies, keys):
    assert steps(tiny, copies, keys) == 0


class Looking(Trainer):
    def backward(self, loss, weight=None, **options):
        super().backward(loss / loss.item(), weight)


class Copying(Trainer):
    def backward(self, loss, weight=None, **options):
        super().backward(loss * torch.ones(()).to(META), weight)


class Listing(Trainer):
    def backward(self, loss, weight=None, **options):
        super().backward(loss * torch.tensor([1.0], device=META).sum(), weight)


def test_that_a_step_that_waits_would_be_seen(tiny, copies):
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        steps(tiny, copies, [], Looking)
    assert steps(tiny, copies, [], Copying) == STEPS
    assert steps(tiny, copies, [], Listing) == STEPS
