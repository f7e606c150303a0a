"""A loss, a weight or an optimizer's state that is not finite: nothing of it is saved, and it is explained."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.checkpoint.harness import House, at_step, before, config, die, same_end, together
from trainer.checkpoint import writer
from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.nonfinite import FiniteCheck
from trainer.gan_trainer import GANTrainer
from trainer.parallel import Strategy
from trainer.trainer import Trainer


def spoilt(n: int) -> Any:
    """A patch: the inputs of step n hold an infinity, each time that step is computed."""

    def patch() -> None:
        def unpack(self: Any, batch: Any) -> Any:
            if self.step == n - 1 and self.model.training:
                return batch[0].clone().index_fill_(0, torch.tensor(1), math.inf), batch[1]
            return batch

        Trainer.unpack = unpack  # type: ignore[method-assign]

    return patch


def reported(house: House, **changes: Any) -> list[str]:
    text = house.train(**changes, code=3).text
    return text[text.index("stopped: ") :].splitlines()


def test_loss(house: House) -> None:
    lines = reported(house, patch=spoilt(10))
    assert lines[0] == "stopped: the loss is nan in step 10 (epoch 2, lr 0.01); nothing of it was saved"
    assert lines[1] == "first not finite: output of features.0 (Conv2d)"
    assert lines[2].startswith("samples of this step: [")
    assert lines[2].endswith("] and 14 more")
    assert lines[3] == "newest checkpoint: checkpoint-step8.pth"
    assert lines[4] == "replay exactly this step: python train.py -r saved/t/r --replay 10"
    assert lines[5].startswith("usual remedies: a lower learning rate (--lr), trainer.clip_grad_norm=1.0")
    assert (house.run / "log.txt").read_text().splitlines()[-1] == lines[-1]
    assert house.steps == [8, 6]


def test_replay_is_that_very_step(house: House) -> None:
    """The same loss to the last digit, from any checkpoint, and nothing written."""
    house.train("trainer.log_steps=1")
    files = house.files()
    for step in (18, 17, 15):
        lines = house.command("-r", "saved/t/r", "trainer.log_steps=1", "--replay", step).lines
        assert lines[-3] == f"step {step}: finite"
        loss = float(lines[-2].split("loss ")[1].split()[0])
        point = next(line for line in house.metrics().decode().splitlines() if f'"step": {step}, ' in line)
        assert f'"loss": {loss}' in point
    assert house.files() == files
    lines = house.command("-r", "saved/t/r", "--replay", "19").lines
    assert lines[-1] == "error: --replay 19: this run has steps 1 to 18"


def test_replay_finds_the_layer(house: House) -> None:
    house.train(patch=spoilt(10), code=3)
    result = house.command("-r", "saved/t/r", "--replay", "10", patch=spoilt(10))
    assert "step 10: the loss is nan; first not finite: output of features.0 (Conv2d)" in result.lines


def test_found_late(house: House) -> None:
    """As on a GPU, where nothing is looked at between two log points: the steps since the checkpoint are run again."""

    house.write(config(trainer__log_steps=6, trainer__save_steps=8))
    lines = reported(house, patch=together(spoilt(10), deferred))
    assert lines[0] == "stopped: the loss is nan in step 10 (epoch 2, lr 0.01); nothing of it was saved"
    assert lines[1] == "first not finite: output of features.0 (Conv2d)"
    assert house.steps == [8]


def deferred() -> None:
    """A patch: the checks of a GPU, on the CPU."""

    def check(self: FiniteCheck, step: int, what: str, value: Tensor) -> None:
        self._unseen.append((step, what, value.detach()))

    original = Strategy.clip

    def clip(self: Strategy, parameters: Any, limit: float | None) -> Tensor:
        return torch.as_tensor(original(self, parameters, limit))

    FiniteCheck.check = check  # type: ignore[method-assign]
    Strategy.clip = clip  # type: ignore[method-assign]


def test_in_the_first_step(house: House) -> None:
    """There is no checkpoint yet to go back to, and no need of one."""
    lines = reported(house, patch=spoilt(1))
    assert lines[:2] == [
        "stopped: the loss is nan in step 1 (epoch 1, lr 0.01); nothing of it was saved",
        "first not finite: output of features.0 (Conv2d)",
    ]
    assert "newest checkpoint: the start" in lines


def test_weight(house: House) -> None:
    """The update itself overflows: reported before the save, by name."""
    house.write(config(trainer__save_steps=1))
    overflow = {"type": "SGD", "args": {"lr": 1e38, "momentum": 0.9, "nesterov": True, "weight_decay": 1e30}}
    house.write(house.spec | {"optimizer": overflow})
    lines = reported(house)
    assert lines[0] == (
        "stopped: the weight features.0.weight is not finite in step 1 (epoch 1, lr 1e+38); nothing of it was saved"
    )
    assert house.steps == []


def test_optimizer_state(house: House) -> None:
    once: list[bool] = []

    def spoil(trainer: BaseTrainer) -> None:
        if once:
            return
        once.append(True)
        parameter = next(iter(trainer.model.parameters()))
        trainer.optimizer.state[parameter]["exp_avg_sq"].view(-1)[0] = math.inf

    lines = reported(house, patch=at_step(9, spoil))
    assert lines[0] == (
        "stopped: the optimizer's exp_avg_sq of features.0.weight is not finite in step 10 (epoch 2, lr 0.01); "
        "nothing of it was saved"
    )
    assert lines[1].startswith("first not finite: nothing, when run again: the hardware, or ")
    assert house.steps == [8, 6]


def test_large_is_not_infinite(house: House) -> None:
    """A norm overflows before a number does."""

    def enlarge(trainer: BaseTrainer) -> None:
        trainer.optimizer.state[next(iter(trainer.model.parameters()))]["exp_avg_sq"].fill_(1e30)

    house.train(patch=at_step(9, enlarge))


def test_masks_may_be_infinite(house: House, tmp_path: Any) -> None:
    """A buffer of -inf is no fault."""

    def patch() -> None:
        import model.vision

        class Masked(model.vision.ConvNet):
            def __init__(self) -> None:
                super().__init__(widths=(4,), depth=1)
                self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))

        vars(model.vision)["Masked"] = Masked

    house.write(config(arch="Masked"))
    house.train(patch=patch)
    assert house.steps[0] == 18


def test_gan_between_its_two_optimizers(tmp_path: Any) -> None:
    """The discriminator is updated already when the generator's loss goes wrong: run again from the checkpoint."""
    adam = {"type": "Adam", "args": {"lr": 0.01}}
    house = House(
        tmp_path,
        config(
            arch="TinyGAN",
            optimizer={"generator": adam, "discriminator": adam},
            loss="BCEWithLogitsLoss",
            metrics=[],
            trainer__type="GANTrainer",
        ),
    )

    def patch() -> None:
        original = GANTrainer.generator_loss
        GANTrainer.generator_loss = (  # type: ignore[method-assign]
            lambda self, n: original(self, n) * (math.nan if self.step == 9 else 1)
        )

    lines = reported(house, patch=patch)
    assert lines[0].startswith(
        "stopped: the loss is nan in step 10 (epoch 2, lr_discriminator 0.01, lr_generator 0.01)"
    )
    assert lines[1] == "first not finite: the loss itself, after finite outputs of all layers"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_are_exact_too(precision: str, tmp_path: Any) -> None:
    """fp16 with a scaler, whose scale is part of the checkpoint."""
    spec = config(trainer__precision=precision)
    house, whole = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    whole.train()

    house.train(patch=before(BaseTrainer, "run_step", die, when=10), code=137)
    house.train()
    same_end(house, whole)
    assert bool(house.state()["scaler"]) == (precision == "fp16")


@pytest.mark.parametrize("shape", [(), (5,), (100,), (3, 40), (40, 3), (2, 3, 5, 7), (0, 4)])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_copying_sees_each_number(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], value: float) -> None:
    """Wherever it stands, also in tensors of another memory format."""
    monkeypatch.setattr(writer, "CHUNK", 8)
    clean = torch.randn(shape)
    clean = clean.to(memory_format=torch.channels_last) if len(shape) == 4 else clean
    for i in range(clean.numel() + 1):
        spoilt = clean.clone()
        if i < clean.numel():
            spoilt[torch.unravel_index(torch.tensor(i), shape) if shape else ()] = value
        to = torch.zeros_like(spoilt)
        sums = torch.stack(writer._copy_and_sum(spoilt, to))
        assert torch.equal(to.nan_to_num(), spoilt.nan_to_num())
        assert bool(sums.isfinite().all()) == (i == clean.numel())
