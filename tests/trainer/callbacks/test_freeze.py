"""Freeze: what it holds, batch norm in it, unfreezing as a loop by hand does it, resume and ranks."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import model.model
from tests.tiny import Tiny, tiny
from tests.trainer.checkpoint.harness import House, at_step, config, die, same_end
from trainer.checkpoint import files, state
from trainer.engine.commands import replay
from utils.errors import UsageError

__all__ = ["tiny"]
NET = "arch={type: ConvNet, args: {widths: [4, 6], depth: 1}}"
FREEZE = "callbacks=[{type: Freeze, args: {freeze: [features], "
KEPT = ("lr", "betas", "eps", "weight_decay", "momentum", "fused")


def test_frozen_weights_and_batch_norm_stay(tiny: Tiny) -> None:
    trainer = tiny.build(NET, FREEZE + "}}]")
    before = copy.deepcopy(trainer.model.state_dict())
    done = tiny.train(NET, FREEZE + "}}]", "optimizer=AdamW")
    for name, value in done.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("features."), name
    assert "Freeze: 272 of 342 parameters are frozen\n" in tiny.log()
    assert done.optimizer.state.keys() == {done.model.classifier.weight, done.model.classifier.bias}


class Plain(nn.Module):
    """A batch norm without weights of its own, in a part that can be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16, affine=False), nn.Dropout(0.1))
        self.head = nn.Sequential(nn.BatchNorm1d(16, affine=False), nn.Linear(16, 10))
        self.dropping: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.dropping.append(self.body[3].training)
        return self.head(self.body(x))


def test_an_end_after_the_run(tiny: Tiny) -> None:
    whole = ["trainer.epochs=null", "trainer.max_steps=2", "trainer.limit_batches=null"]
    tiny.train(NET, FREEZE + "until_step: 3}}]", *whole)
    assert "Freeze: the run ends before: it has 2 steps, so they are frozen to the end\n" in tiny.log()


def test_batch_norm_without_weights(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is frozen with what is around it; dropout is not; from step 3 on it moves."""
    monkeypatch.setattr(model.model, "Plain", Plain, raising=False)
    done = tiny.train("arch=Plain", "callbacks=[{type: Freeze, args: {freeze: [body], until_step: 3}}]")
    assert [int(part.num_batches_tracked) for part in (done.model.body[2], done.model.head[0])] == [9, 12]
    assert sum(done.model.dropping) == 12  # in all steps


@pytest.mark.parametrize("until", ["until_step: 3", "until_epoch: 1"])
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD, args: {lr: 0.1, momentum: 0.9, fused: false}"])
def test_equals_a_loop_by_hand(until: str, optimizer: str, tiny: Tiny) -> None:
    """Bit for bit, with a schedule and weight decay."""
    more = [NET, f"{FREEZE}{until}}}}}]", f"optimizer={{type: {optimizer}}}", "optimizer.args.weight_decay=0.1"]
    more += ["lr_scheduler=WarmupCosineLR"]
    trainer = tiny.build(*more, run="by hand")
    net, optimizer_ = copy.deepcopy(trainer.model).train(), trainer.optimizer
    kind = {"AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}[optimizer.split(",")[0]]
    by_hand: Any = kind(net.parameters(), **{k: v for k, v in optimizer_.defaults.items() if k in KEPT})
    rates = iter([point["lr"] for point in tiny_rates(tiny, more)])
    stream = trainer.data_loader.iter_steps(0)
    for step in range(12):
        is_frozen = step < (3 if "step" in until else 6)
        net.features.requires_grad_(not is_frozen)
        for part in net.features:
            part.train(not (is_frozen and isinstance(part, nn.BatchNorm2d)))
        inputs, targets = next(stream).data
        by_hand.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        for group in by_hand.param_groups:
            group["lr"] = next(rates)
        by_hand.step()
    stream.close()
    done = tiny.train(*more)
    for name, value in done.model.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name


def tiny_rates(tiny: Tiny, more: list[str]) -> list[dict[str, Any]]:
    tiny.train(*more, "trainer.log_steps=1", run="rates")
    return tiny.points("train", "rates")


@pytest.mark.parametrize("order", [1, -1])
def test_two_overlap(order: int, tiny: Tiny) -> None:
    """What both freeze trains when the later one ends."""
    one = "{type: Freeze, args: {freeze: [features], until_step: 2}}"
    two = "{type: Freeze, args: {freeze: ['features.0'], until_step: 6}}"
    done = tiny.train(NET, f"callbacks=[{', '.join([two, one][::order])}]", "optimizer=AdamW")
    steps = {name: int(done.optimizer.state[p]["step"]) for name, p in done.model.named_parameters()}
    assert steps["features.0.weight"] == 6
    assert steps["features.2.weight"] == 10
    assert steps["classifier.bias"] == 12


class Shared(nn.Module):
    """Two layers with one weight, and one that is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight
        self.norm, self.fixed = nn.BatchNorm1d(64), nn.Parameter(torch.ones(64), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.b(self.a(x.flatten(1)).relu())) * self.fixed)


@pytest.mark.parametrize(
    ("args", "changed"),
    [
        ("{freeze: b}", {"a.bias", "head.weight", "head.bias", "norm.weight", "norm.bias"}),
        ("{freeze: '*', but_not: [b.weight]}", {"a.weight"}),
        ("{freeze: BatchNorm1d, but_not: []}", {"a.weight", "a.bias", "b.bias", "head.weight", "head.bias"}),
        ("{freeze: [a, b, fixed], until_step: 12}", {"head.weight", "head.bias", "norm.weight", "norm.bias"}),
    ],
)  # fmt: skip
def test_shared_weights_and_classes(args: str, changed: set[str], tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared weight has two names; a class stands for its layers; what the model froze stays so after the end."""
    monkeypatch.setattr(model.model, "Shared", Shared, raising=False)
    keys = ["arch=Shared", f"callbacks=[{{type: Freeze, args: {args}}}]", "optimizer=AdamW"]
    before = copy.deepcopy(tiny.build(*keys).model)
    done = tiny.train(*keys, "trainer.max_steps=12", "trainer.epochs=null")
    pairs = zip(before.named_parameters(), done.model.parameters(), strict=True)
    assert {name for (name, old), new in pairs if not torch.equal(old, new)} == changed
    assert not done.model.fixed.requires_grad


def test_replay_of_a_frozen_step(tiny: Tiny) -> None:
    """Also by a trainer that has gone past it."""
    done = tiny.train(
        NET, FREEZE + "until_step: 3}}]", "trainer.save_steps=2", "trainer.keep_last=9", "trainer.log_steps=1"
    )
    path = done.run.checkpoints / "checkpoint-step2.pth"
    state.restore(done, files.load(path), path)
    again = replay.run_to(done, 5)
    assert again.values["loss"] == tiny.points("train")[4]["loss"]


def test_a_frozen_part_in_ema(tiny: Tiny) -> None:
    done = tiny.train(NET, "callbacks=[{type: Freeze, args: {freeze: [features]}}, EMA]")
    average = done.callbacks[1].average
    assert all(torch.equal(average[k], v) for k, v in done.model.state_dict().items() if k in average and "feat" in k)


WRONG = {
    "{freeze: [featurs]}": "Freeze: freeze: 'featurs' matches no parameter (did you mean 'features'?)",
    "{freeze: [features], but_not: [fc]}": "Freeze: but_not: 'fc' matches no parameter",
    "{freeze: ['*']}": "callbacks: Freeze: ['*'] freezes all parameters; leave out some by but_not",
    "{freeze: ['*'], until_step: 1, until_epoch: 1}": "Freeze: until_epoch is 1 and until_step 1; give one of them",
    "{freeze: ['*'], until_step: -1}": "Freeze: until_epoch is None and until_step -1; give one",
    "{freeze: [features], but_not: [features]}": "freezes nothing; give patterns",
}


@pytest.mark.parametrize("args", WRONG)
def test_wrong_arguments(args: str, tiny: Tiny) -> None:
    with pytest.raises(UsageError) as error:
        tiny.train(NET, f"callbacks=[{{type: Freeze, args: {args}}}]")
    assert WRONG[args] in str(error.value)
    assert not (tiny.folder / "run").exists()


@pytest.mark.parametrize("at", [5, 9])
def test_resume_across_the_unfreezing(at: int, tmp_path: Any) -> None:
    freeze = {"type": "Freeze", "args": {"freeze": ["features"], "until_step": 7}}
    spec = config(callbacks=[freeze], lr_scheduler="WarmupCosineLR")
    killed, plain = House(tmp_path / "killed", spec), House(tmp_path / "plain", spec)
    plain.train()
    killed.train(patch=at_step(at, die), code=137)
    killed.train()
    same_end(killed, plain)


# -- ranks ------------------------------------------------------------------------------------------------------------

STAGES = ["callbacks=[{type: Freeze, args: {freeze: [features], until_step: 4}}]"]
NO_NORM = ["arch={type: MLP, args: {in_features: 64, hidden: [16]}}"]
NO_NORM += ["callbacks=[{type: Freeze, args: {freeze: ['layers.0'], until_step: 4}}]"]


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [False, True])
def test_same_on_two_ranks(gpu: bool) -> None:
    from tests.trainer.parallel.test_same_result import assert_same_run, results, trained, trained_as_on_gpus

    function = trained_as_on_gpus if gpu else trained
    assert_same_run(results(1, NO_NORM), results(2, NO_NORM, function=function))
    exact = ["trainer.exact_ranks=true", "trainer.accumulate=2"]
    if not gpu:
        one, two = (results(world, [*STAGES, *exact]) for world in (1, 2))
        assert all((one["weights"][name] == two["weights"][name]).all() for name in one["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["trainer.exact_ranks=true", "trainer.accumulate=3"]])
def test_frozen_statistics_are_not_rounded_on_three_ranks(more: list[str], tmp_path: Any) -> None:
    """Their mean over three ranks would be."""
    from tests.trainer.parallel.test_same_result import results

    net = results(1, ["trainer.max_steps=3"], tmp_path)["weights"]
    begin = [f"init_from={tmp_path}/run/checkpoints/checkpoint-step3.pth"]
    freeze = ["callbacks=[{type: Freeze, args: {freeze: [features]}}]"]
    three = results(3, [*begin, *freeze, *more])["weights"]
    frozen = [name for name in net if name.startswith("features.")]
    assert any("running_var" in name for name in frozen)
    assert all((three[name] == net[name]).all() for name in frozen)


@pytest.mark.slow
@pytest.mark.parametrize("until", [3, 6])
def test_fsdp_resumes_across_the_unfreezing(until: int, tmp_path: Any) -> None:
    from tests.trainer.parallel.test_fsdp import FSDP, kill_in_step_6
    from tests.trainer.parallel.test_same_result import on_ranks, results, same, trained

    freeze = f"callbacks=[{{type: Freeze, args: {{freeze: ['layers.0'], until_step: {until}}}}}]"
    keys = [NO_NORM[0], freeze, "trainer.save_steps=2", "optimizer={type: AdamW, args: {lr: 0.01}}"]
    one = results(1, keys)
    whole = results(2, [*keys, FSDP], tmp_path / "whole")
    assert same(one["weights"], whole["weights"], 1e-6)
    assert on_ranks(2, trained, [*keys, FSDP], tmp_path / "killed", kill_in_step_6) == [-9, -9]
    assert same(results(2, [*keys, FSDP], tmp_path / "killed")["weights"], whole["weights"], 0)
