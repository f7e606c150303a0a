"""Trainers of one's own in ten lines: distillation from a frozen teacher, and R-Drop. Exact over accumulation and a
resume; the teacher is in no checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import trainer.trainer
from tests.tiny import Tiny, tiny
from trainer import Trainer, load_model

__all__ = ["tiny"]


class DistillationTrainer(Trainer):
    """The outputs of a trained model as soft targets (Hinton et al., 2015). teacher: its run. temperature: theirs."""

    def __init__(self, teacher: str, temperature: float = 4.0, share: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._teacher = load_model(teacher, self.device).requires_grad_(False)  # `_`: not in the checkpoints
        self.temperature, self.share = temperature, share

    def train_step(self, batches: Sequence[Any]) -> None:
        for inputs, targets in self.micro_batches(batches):
            with self.autocast():
                outputs = self.model(inputs)
                hard = self.criterion(outputs, targets)
                with torch.no_grad():
                    wanted = (self._teacher(inputs) / self.temperature).log_softmax(dim=1)
                own = (outputs / self.temperature).log_softmax(dim=1)
                soft = F.kl_div(own, wanted, reduction="batchmean", log_target=True) * self.temperature**2
                loss = self.share * soft + (1 - self.share) * hard
            self.backward(loss)
            self.record(loss=hard, soft=soft, **self.metrics(outputs, targets))
        self.update(self.optimizer)


class RDropTrainer(Trainer):
    """Two passes with other dropout are to agree (Liang et al., 2021, arXiv:2106.14448). alpha: how much."""

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def train_step(self, batches: Sequence[Any]) -> None:
        for inputs, targets in self.micro_batches(batches):
            with self.autocast():
                first, second = self.model(inputs), self.model(inputs)
                loss = (self.criterion(first, targets) + self.criterion(second, targets)) / 2
                p, q = first.log_softmax(dim=1), second.log_softmax(dim=1)
                both = F.kl_div(p, q, log_target=True, reduction="batchmean")
                apart = (both + F.kl_div(q, p, log_target=True, reduction="batchmean")) / 2
            self.backward(loss + self.alpha * apart)
            self.record(loss=loss, apart=apart, **self.metrics(first, targets))
        self.update(self.optimizer)


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (DistillationTrainer, RDropTrainer):
        monkeypatch.setattr(trainer.trainer, part.__name__, part, raising=False)


def same(one: Any, two: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


@pytest.fixture
def distillation(tiny: Tiny, tmp_path: Path) -> list[str]:
    tiny.train("trainer.epochs=5", "trainer.limit_batches=null", run="teacher")
    keys = ["trainer.type=DistillationTrainer", f"trainer.args.teacher={tiny.folder / 'teacher'}"]
    return [*keys, "trainer.log_steps=1", "trainer.save_steps=3"]


def test_distillation(tiny: Tiny, distillation: list[str]) -> None:
    whole = tiny.train(*distillation, run="whole")
    tiny.train(*distillation, "trainer.max_steps=5")
    assert same(whole, tiny.train(*distillation))
    assert tiny.points("train") == tiny.points("train", "whole")
    plain, state = tiny.train(run="plain"), tiny.load("checkpoint-step12.pth")
    assert state.keys() == tiny.load("checkpoint-step12.pth", "plain").keys()
    assert sum(t.numel() for t in state["model"].values()) == sum(p.numel() for p in plain.model.parameters())
    tiny.train(*distillation, "trainer.accumulate=4", run="four")
    for four, one in zip(tiny.points("train", "four"), tiny.points("train"), strict=True):
        assert [four["loss"], four["soft"]] == pytest.approx([one["loss"], one["soft"]], rel=1e-5)
    assert tiny.points("train")[-1]["soft"] < tiny.points("train")[0]["soft"]


def test_a_student_of_itself_learns_nothing_from_it(tiny: Tiny, distillation: list[str]) -> None:
    """The gradient of the soft loss is zero where both agree."""
    keys = ["trainer.args.share=1.0", f"init_from={tiny.folder}/teacher/checkpoints/checkpoint-step250.pth"]
    done = tiny.train(*distillation, *keys, "trainer.max_steps=2")
    assert tiny.points("train")[0]["soft"] == pytest.approx(0, abs=1e-6)
    for a, b in zip(done.model.parameters(), done._teacher.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_r_drop(tiny: Tiny) -> None:
    dropout = "arch={type: ConvNet, args: {widths: [4], depth: 1, dropout: 0.3}}"
    keys = [dropout, "trainer.type=RDropTrainer", "trainer.save_steps=3", "trainer.log_steps=1"]
    whole = tiny.train(*keys, run="whole")
    tiny.train(*keys, "trainer.max_steps=4")
    assert same(whole, tiny.train(*keys))
    assert all(point["apart"] > 0 for point in tiny.points("train"))
    tiny.train(*keys, "arch.args.dropout=0.0", run="none")
    assert all(point["apart"] == 0 for point in tiny.points("train", "none"))
