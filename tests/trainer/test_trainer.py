"""The trainer against a raw loop of 20 lines: not close, the same bits."""

import itertools
import math

import pytest
import torch

import train
from tests.slow import slow_but
from utils import config as configs
from utils.run_folder import Run
from utils.seed import mix, seed_all

BASE = {
    "name": "parity",
    "arch": {"type": "ConvNet", "args": {"widths": [8, 16], "dropout": 0.3}},
    "data_loader": {
        "type": "DigitsDataLoader",
        "args": {
            "batch_size": 47,
            "validation_split": 0.2,
            "transforms": [{"type": "RandomAffine", "args": {"rotate": 10.0}}],
        },
    },
    "loss": "cross_entropy",
    "metrics": ["accuracy"],
    "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
    "trainer": {"max_steps": 50, "valid_steps": 20, "log_steps": 7, "tensorboard": False, "verbosity": 0},
}


def raw_loop(trainer, model, accumulate, clip, schedule_of):
    """What a person would write by hand, fed with the samples of the trainer's steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    schedule = schedule_of(optimizer) if schedule_of else None
    stream = trainer.data_loader.iter_steps(0)
    model.train()
    for step in range(50):
        optimizer.zero_grad()
        batches = [next(stream) for _ in range(accumulate)]
        n = sum(batch.size for batch in batches)
        for i, batch in enumerate(batches):
            inputs, targets = batch.data
            seed_all(mix(1, step, i, 1))  # dropout's draws
            loss = torch.nn.functional.cross_entropy(model(inputs), targets)
            (loss * (batch.size / n)).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if schedule:
            schedule.step()
    return model


@pytest.mark.parametrize(
    "accumulate, clip, scheduled",
    slow_but(lambda n, clip, scheduled: scheduled == bool(clip), itertools.product([1, 3], [None, 0.5], [False, True])),
)
def test_equal_weights_after_50_steps(tmp_path, accumulate, clip, scheduled):
    overrides = [f"trainer.accumulate={accumulate}", f"trainer.save_dir={tmp_path}"]
    overrides += [f"trainer.clip_grad_norm={clip}"] if clip else []
    overrides += ["lr_scheduler={type: OneCycleLR, args: {max_lr: 0.02}}"] if scheduled else []
    config = configs.load([BASE], overrides)
    trainer = train.build(config, Run(tmp_path / "run"))
    reference = train.build(config, Run(tmp_path / "run")).model
    one_cycle = lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, 50)  # noqa: E731

    trainer.train()
    raw = raw_loop(trainer, reference, accumulate, clip, one_cycle if scheduled else None)

    for name, value in raw.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_rounding_only(tmp_path, accumulate):
    mlp = "arch={type: MLP, args: {in_features: 64}}"
    whole = train.build(configs.load([BASE], [mlp]), Run(tmp_path / "run"))
    cut = train.build(configs.load([BASE], [mlp, f"trainer.accumulate={accumulate}"]), Run(tmp_path / "run"))
    whole.train()
    cut.train()
    assert whole.step == cut.step == 50
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_last_loss_is_that_of_all_samples(tmp_path, monkeypatch):
    """The values logged are means over samples, also where batches have unequal sizes."""
    config = configs.load([BASE], ["trainer.max_steps=25", "trainer.log_steps=25", "optimizer.args.lr=0.0"])
    trainer = train.build(config, Run(tmp_path / "run"))
    points = []
    monkeypatch.setattr(trainer.reporter, "train_point", lambda step, values: points.append((step, values)))
    trainer.train()
    losses, n = 0.0, 0
    model = train.build(config, Run(tmp_path / "run")).model
    stream = trainer.data_loader.iter_steps(0)
    for step in range(25):
        inputs, targets = next(stream).data
        seed_all(mix(1, step, 0, 1))
        losses += torch.nn.functional.cross_entropy(model(inputs), targets).item() * len(targets)
        n += len(targets)
    assert n == sum(trainer.data_loader.sampler.size(step) for step in range(25))
    assert points[0][0] == 25
    assert math.isclose(points[0][1]["loss"], losses / n, rel_tol=1e-6)
