"""SWA: the mean of weights and its batch norm as torch.optim.swa_utils has them, a resume, and several ranks."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn, update_bn

import model.model
import trainer.callbacks
from tests.tiny import Tiny, tiny
from tests.trainer.parallel.ranks import on_ranks, trained
from trainer import load_model
from trainer.callbacks.swa import SWA
from utils.errors import UsageError

__all__ = ["tiny"]
BATCH_NORM = "arch={type: ConvNet, args: {widths: [4, 6], depth: 1}}"
EVERY_3 = "callbacks=[Weights, {type: SWA, args: {start: 6, every: 3}}]"


class Weights:
    """Keeps a copy of all weights and buffers after each step."""

    def __init__(self) -> None:
        self._seen: list[dict[str, torch.Tensor]] = []

    def after_step(self, trainer: Any) -> None:
        self._seen.append(copy.deepcopy(trainer.model.state_dict()))


@pytest.fixture(autouse=True)
def _name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.callbacks, "Weights", Weights, raising=False)


def test_it_is_the_average_of_torch_with_its_batch_norm(tiny: Tiny) -> None:
    done = tiny.train(BATCH_NORM, EVERY_3, "trainer.epochs=3")
    weights, swa = done.callbacks
    model = copy.deepcopy(done.model)
    expected = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())
    for step in (6, 9, 12, 15, 18):
        model.load_state_dict(weights._seen[step - 1])
        expected.update_parameters(model)
    stream = done.data_loader.iter_steps(18)
    update_bn((next(stream).data for _ in range(6)), expected.module)
    state = expected.module.state_dict()
    assert swa.averaged == 5
    assert swa.average.keys() == state.keys()
    assert [n for n, value in swa.average.items() if not torch.equal(value, state[n])] == []
    assert not torch.equal(state["features.2.running_mean"], done.model.state_dict()["features.2.running_mean"])


def test_it_trains_as_without_it_and_is_what_is_validated_and_saved(tiny: Tiny) -> None:
    plain = tiny.train(BATCH_NORM, "trainer.epochs=3", run="plain")
    done = tiny.train(BATCH_NORM, EVERY_3, "trainer.epochs=3", "trainer.monitor=max val_accuracy")
    assert tiny.points("train") == tiny.points("train", "plain")
    now, before = done.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())
    saved = load_model(tiny.folder / "run/checkpoints/checkpoint-step18.pth")
    assert all(torch.equal(done.callbacks[1].average[name], value) for name, value in saved.state_dict().items())
    plain.model.load_state_dict(saved.state_dict())
    expected = plain.evaluate(plain.valid_data_loader)
    assert {name: tiny.points("valid")[-1][name] for name in expected} == expected


@pytest.mark.parametrize("step", [5, 7, 12])
def test_it_resumes(tiny: Tiny, step: int) -> None:
    keys = [BATCH_NORM, EVERY_3, "trainer.epochs=3", "data_loader.args.transforms=[{type: RandomHorizontalFlip}]"]
    whole = tiny.train(*keys, run="whole")
    tiny.train(*keys, f"trainer.max_steps={step}")
    resumed = tiny.train(*keys)
    one, two = whole.callbacks[1], resumed.callbacks[1]
    assert one.averaged == two.averaged == 5
    assert all(torch.equal(value, two.average[name]) for name, value in one.average.items())
    assert tiny.points("valid")[-1] == tiny.points("valid", "whole")[-1]


@pytest.mark.slow
def test_accumulation_and_ranks_agree(tmp_path: Path) -> None:
    """The statistics are over two shards of each step, on one rank or two."""
    keys = ["callbacks=[{type: SWA, args: {start: 4, every: 4}}]", "trainer.valid_steps=8"]
    one = trained([*keys, "trainer.accumulate=2"])
    two = on_ranks(2, trained, keys)
    (values,) = [point for split, step, point in one["points"] if (split, step) == ("valid", 8)]
    (on_two,) = [point for split, step, point in two[0]["points"] if (split, step) == ("valid", 8)]
    assert on_two["loss"] == pytest.approx(values["loss"], rel=1e-5)
    for name in (name for name in one["weights"] if "running" not in name and "num" not in name):
        np.testing.assert_allclose(two[0]["weights"][name], one["weights"][name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_exact_ranks_have_the_same_bits(tmp_path: Path) -> None:
    keys = ["callbacks=[{type: SWA, args: {start: 2, every: 2}}]", "trainer.exact_ranks=true", "trainer.accumulate=2"]
    keys += ["arch.args.dropout=0.3", "trainer.max_steps=4"]
    for world in (1, 2):
        on_ranks(world, trained, keys, tmp_path / str(world))
    one, two = (
        torch.load(tmp_path / f"{world}/run/checkpoints/checkpoint-step4.pth", weights_only=True)["model"]
        for world in (1, 2)
    )
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert one["features.2.num_batches_tracked"] == 2 * len(range(0, 1403, 50))


def test_frozen_batch_norm_stays(tiny: Tiny) -> None:
    freeze = "callbacks=[{type: Freeze, args: {freeze: [features.2]}}, {type: SWA, args: {start: 6, every: 3}}]"
    done = tiny.train(BATCH_NORM, freeze)
    assert done.callbacks[1].averaged == 3
    assert "features.2.running_mean" not in done.callbacks[1].average
    assert "features.6.running_mean" in done.callbacks[1].average
    assert done.model.features[2].running_mean.eq(0).all()


def test_what_it_does_not_accept(tiny: Tiny) -> None:
    for wrong in ({"start": 1.5}, {"start": -5}, {"every": 0}, {"bn_steps": -1}):
        with pytest.raises(UsageError, match=f"SWA: {next(iter(wrong))} is"):
            SWA(**wrong)
    gan = ["arch=GAN", "loss=BCEWithLogitsLoss", "metrics=[]", "trainer.type=GANTrainer", "callbacks=[SWA]"]
    gan += ["optimizer={generator: {type: Adam}, discriminator: {type: Adam}}", "trainer.epochs=1"]
    with pytest.raises(UsageError, match="GANTrainer calls parts of the model"):
        tiny.train(*gan)


def test_no_step_to_average(tiny: Tiny) -> None:
    whole = ["trainer.epochs=null", "trainer.max_steps=6", "trainer.limit_batches=null"]
    done = tiny.train("callbacks=[{type: SWA, args: {start: 7, every: 7}}]", *whole)
    assert "SWA: it averages nothing: the run has 6 steps" in tiny.log()
    assert done.callbacks[0].averaged == 0


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.last.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x.flatten(1)).relu())[:, :10]


def test_a_weight_of_two_names_is_averaged_under_both(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.model, "Tied", Tied, raising=False)
    done = tiny.train("arch=Tied", "callbacks=[{type: SWA, args: {start: 6, every: 3}}]")
    saved = load_model(tiny.folder / "run/checkpoints/checkpoint-step12.pth").state_dict()
    average = done.callbacks[0].average
    assert torch.equal(average["first.weight"], average["last.weight"])
    assert torch.equal(saved["last.weight"], average["first.weight"])
    assert not torch.equal(saved["last.weight"], done.model.first.weight)
