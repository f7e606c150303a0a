"""Parameter groups by pattern, no weight decay for biases and norms, learning rates by layer."""

import json
from typing import Any

import pytest
import torch
from torch import nn

import model.model
from tests.tiny import Tiny, tiny
from tests.trainer.checkpoint.harness import House, at_step, config, die, same_end
from trainer.engine.optim import groups
from utils import config as configs
from utils.errors import UsageError

__all__ = ["tiny"]
ADAMW = "optimizer={type: AdamW, args: {lr: 0.01}, "
NET = "arch={type: MLP, args: {in_features: 64, hidden: [16, 16]}}"


def built(tiny: Tiny, optimizer: str, *more: str) -> Any:
    return tiny.build(NET, f"optimizer={optimizer}", *more).optimizer


def named(trainer: Any) -> dict[str, dict[str, Any]]:
    """The group of each parameter."""
    held = {p: group for group in trainer.optimizer.param_groups for p in group["params"]}
    return {name: held[p] for name, p in trainer.model.named_parameters()}


def weights(trainer: Any) -> list[torch.Tensor]:
    return list(trainer.model.parameters())


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_groups_with_equal_values_are_one_group(optimizer: str, tiny: Tiny) -> None:
    """Bit for bit, with clipping at work and a schedule, accumulated."""
    more = ["trainer.clip_grad_norm=0.05", "lr_scheduler=WarmupCosineLR", "trainer.accumulate=2", NET]
    one = tiny.train(f"optimizer={{type: {optimizer}, args: {{lr: 0.01}}}}", *more, run="one")
    groups = "groups: [{match: 'layers.2', lr: 0.01}, {match: '*.bias', lr: 0.01}]"
    several = tiny.train(f"optimizer={{type: {optimizer}, args: {{lr: 0.01}}, {groups}}}", *more, run="several")
    assert len(several.optimizer.param_groups) == 3
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(several), strict=True))


def test_the_first_match_has_a_parameter_and_each_rate_is_logged(tiny: Tiny) -> None:
    groups = "groups: [{match: layers.4, lr: 0.5, name: head}, {match: ['*.bias', layers.0.*], weight_decay: 0.0}]}"
    trainer = tiny.train(ADAMW + groups, NET, "lr_scheduler={type: StepLR, args: {step_size: 1, gamma: 0.1}}")
    place = {name: group["name"] for name, group in named(trainer).items()}
    assert place == {
        "layers.0.weight": "bias_layers_0", "layers.0.bias": "bias_layers_0", "layers.2.weight": "",
        "layers.2.bias": "bias_layers_0", "layers.4.weight": "head", "layers.4.bias": "head",
    }  # fmt: skip
    assert [named(trainer)[f"layers.{i}.weight"]["weight_decay"] for i in (0, 2, 4)] == [0.0, 0.01, 0.01]
    rates = [{k: v for k, v in point.items() if k.startswith("lr")} for point in tiny.points("train")]
    assert rates[0] == {"lr": 0.01, "lr_head": 0.5, "lr_bias_layers_0": 0.01}
    assert rates[-1] == pytest.approx({"lr": 0.001, "lr_head": 0.05, "lr_bias_layers_0": 0.001})


def test_groups_train_as_by_hand(tiny: Tiny) -> None:
    trainer = tiny.build(NET, ADAMW + "groups: [{match: layers.4, lr: 0.5}], no_decay: true}", "trainer.max_steps=3")
    net: Any = trainer.model
    groups: list[dict[str, Any]] = [
        {"params": [net.layers[0].weight, net.layers[2].weight]},
        {"params": [net.layers[0].bias, net.layers[2].bias], "weight_decay": 0.0},
        {"params": [net.layers[4].weight], "lr": 0.5},
        {"params": [net.layers[4].bias], "lr": 0.5, "weight_decay": 0.0},
    ]
    by_hand = torch.optim.AdamW(groups, lr=0.01)
    for ours, theirs in zip(trainer.optimizer.param_groups, by_hand.param_groups, strict=True):
        assert ours["params"] == theirs["params"]
        assert (ours["lr"], ours["weight_decay"]) == (theirs["lr"], theirs["weight_decay"])


class MyNorm2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 64))


class Normed(nn.Module):
    """Norms of all kinds: one has weights of two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.zeros(1, 64))
        self.norm, self.scale = nn.LayerNorm([1, 64]), nn.Parameter(torch.ones(()))
        self.mine = MyNorm2d()
        self.body = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.RMSNorm(16), nn.Linear(16, 10, bias=False))

    def no_weight_decay(self) -> set[str]:  # as models of timm have it
        return {"embed"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body((self.norm((x.flatten(1) * self.mine.weight + self.embed)[:, None]) * self.scale).flatten(1))


def test_no_decay_on_biases_and_norms(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.model, "Normed", Normed, raising=False)
    trainer = tiny.build("arch=Normed", ADAMW + "no_decay: true}")
    decayed = {name for name, group in named(trainer).items() if group["weight_decay"]}
    assert decayed == {"body.0.weight", "body.3.weight"}
    assert trainer.learning_rates() == {"lr": 0.01}


def test_a_shared_weight_has_two_names(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(64, 10), nn.Linear(64, 10)
            self.head.weight = self.embed.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(1))

    monkeypatch.setattr(model.model, "Shared", Shared, raising=False)
    trainer = tiny.build("arch=Shared", ADAMW + "groups: [{match: head, lr: 0.1}, {match: embed.bias, lr: 1}]}")
    rates = {name: group["lr"] for name, group in named(trainer).items()}
    assert rates == {"embed.weight": 0.1, "head.bias": 0.1, "embed.bias": 1}


LAYERS = {
    "a ViT": (
        ["cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.mlp.fc.weight", "blocks.1.a.weight",
         "norm.weight", "head.weight"],
        [0, 0, 1, 1, 2, 3, 3],
    ),
    "a ResNet": (["conv1.weight", "bn1.bias", "layer1.0.a.weight", "layer1.1.a.weight", "layer2.0.a.weight", "fc.bias"],
                 [0, 0, 1, 2, 3, 4]),
    "torchvision's ViT": (["class_token", "encoder.layers.encoder_layer_0.ln_1.weight",
                           "encoder.layers.encoder_layer_1.ln_1.weight", "encoder.ln.weight", "heads.head.weight"],
                          [0, 1, 2, 3, 3]),
    "a DenseNet": (["features.conv0.weight", "features.norm0.weight", "features.denseblock1.denselayer1.norm1.weight",
                    "features.denseblock1.denselayer2.norm1.weight", "features.transition1.norm.weight",
                    "classifier.weight"], [0, 0, 1, 1, 2, 3]),
    "a GoogLeNet": (["conv1.conv.weight", "inception3a.branch1.conv.weight", "inception3a.branch2.0.conv.weight",
                     "inception3a.branch2.1.conv.weight", "fc.weight"], [0, 1, 1, 1, 2]),
    "blocks of a convolution and its norm": (["layer1.0.weight", "layer1.1.weight", "layer2.0.weight"], [0, 0, 1]),
    "no numbers": (["conv.weight", "conv.bias", "norm.weight", "head.weight"], [0, 0, 1, 2]),
    "numbers of single layers": (["net.conv1.weight", "net.conv1.bias", "net.conv2.weight", "net.fc.weight"],
                                 [0, 0, 1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_layers(case: str) -> None:
    names, expected = LAYERS[case]
    assert list(groups._layers(names).values()) == expected


def test_rates_decay_by_layer(tiny: Tiny) -> None:
    groups = "groups: [{match: '*.bias', lr: 0.1}], layer_decay: 0.5}"
    trainer = tiny.build(NET, ADAMW + groups)
    rates = {name: group["lr"] for name, group in named(trainer).items()}
    assert rates == {
        "layers.0.weight": 0.0025, "layers.0.bias": 0.025, "layers.2.weight": 0.005, "layers.2.bias": 0.05,
        "layers.4.weight": 0.01, "layers.4.bias": 0.1,
    }  # fmt: skip
    assert set(trainer.learning_rates()) == {
        "lr", "lr_layer0", "lr_layer1", "lr_bias", "lr_bias_layer0", "lr_bias_layer1"
    }  # fmt: skip


@pytest.mark.parametrize("schedule", ["OneCycleLR, args: {max_lr: 0.02}", "CyclicLR, args: {base_lr: 0.01, max_lr: 1}"])
def test_cycles_keep_the_ratios_of_groups(schedule: str, tiny: Tiny) -> None:
    trainer = tiny.train(
        NET, "optimizer={type: SGD, args: {lr: 0.01, momentum: 0.9}, groups: [{match: layers.4, lr: 0.1}]}",
        f"lr_scheduler={{type: {schedule}, interval: step}}", "trainer.log_steps=1",
    )  # fmt: skip
    assert trainer.step == 12
    for point in tiny.points("train"):
        assert point["lr_layers_4"] == pytest.approx(10 * point["lr"])


WRONG = {
    "groups: [{match: 'hed.*', lr: 1}]": "groups.0.match: 'hed.*' matches no parameter; the model has layers,",
    "groups: [{match: layer.4, lr: 1}]": "'layer.4' matches no parameter (did you mean 'layers.4'?)",
    "groups: [{match: layers, lr: 1}, {match: layers.4, lr: 2}]": "earlier groups have all that layers.4 matches",
    "groups: [{match: layers.4, defaults: 1}]": "unknown argument 'defaults'",
    "groups: [{match: layers.4, lrr: 1}]": "optimizer.groups.0.lrr: unknown argument 'lrr' (did you mean 'lr'?)",
    "groups: [{match: layers.4, lr: -1}]": "optimizer.groups.0.lr: got -1, expected 0 or more",
    "groups: [{match: layers.4, lr: fast}]": 'optimizer.groups.0.lr: got "fast", expected a number',
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_groups(text: str, tiny: Tiny) -> None:
    with pytest.raises(UsageError) as error:
        tiny.build(NET, ADAMW + text + "}")
    assert WRONG[text] in str(error.value)


def test_an_optimizer_without_weight_decay_cannot_leave_it_out(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"optimizer.no_decay: Rprop has no weight_decay; remove no_decay"):
        tiny.build("optimizer={type: Rprop, no_decay: true}")


# -- resume -----------------------------------------------------------------------------------------------------------

GROUPS = [{"match": "classifier", "lr": 0.1}, {"match": "*.bias", "weight_decay": 0.0}]
SPEC = {"optimizer": {"type": "AdamW", "args": {"lr": 0.01}, "groups": GROUPS, "layer_decay": 0.5, "no_decay": True}}


def rates(house: House) -> list[float]:
    return [group["lr"] for group in house.state()["optimizer"]["param_groups"]]


@pytest.mark.parametrize("schedule", [None, {"type": "WarmupCosineLR"}, {"type": "OneCycleLR", "args": {"max_lr": 1}}])
def test_lr_scales_all_groups_alike(schedule: Any, tmp_path: Any) -> None:
    """As if they had been that from the start; a second resume leaves them alone."""
    spec = config(lr_scheduler=schedule, trainer__epochs=2, **SPEC)
    killed, plain = House(tmp_path / "killed", spec), House(tmp_path / "plain", spec)
    plain.train(patch=at_step(9, die), code=137)
    killed.train(patch=at_step(3, die), code=137)
    lines = killed.command("-r", "saved/t/r", "--lr", "0.02", patch=at_step(7, die)).lines
    assert killed.command("-r", "saved/t/r", patch=at_step(9, die)).code == 137
    ratio = 1 if schedule and "args" in schedule else 2  # a cycle has its own rates
    assert rates(killed) == pytest.approx([ratio * rate for rate in rates(plain)])
    assert len(set(rates(plain))) == 3
    if schedule is None:
        assert "learning rate of classifier: 0.1 -> 0.2, as the config has changed" in lines


def test_resume_is_exact(tmp_path: Any) -> None:
    spec = config(lr_scheduler="WarmupCosineLR", **SPEC)
    killed, plain = House(tmp_path / "killed", spec), House(tmp_path / "plain", spec)
    plain.train()
    killed.train(patch=at_step(7, die), code=137)
    killed.train()
    same_end(killed, plain)


def test_other_groups_are_refused(house: House) -> None:
    house.write(config(**SPEC))
    house.train(patch=at_step(5, die), code=137)
    other = json.dumps([{"match": "*.bias", "lr": 0.1}, {"match": "classifier", "weight_decay": 0.0}])
    result = house.train(f"optimizer.groups={other}", code=2)
    assert "optimizer: the config now groups the parameters in another way" in result.text


def test_the_command_line_scales_groups() -> None:
    base = {"name": "a", "arch": "M", "data_loader": "D", "loss": "l", "trainer": {"epochs": 1}}
    spec: Any = {"type": "A", "args": {"lr": 0.01}, "groups": [{"match": "head", "lr": 0.1}, {"match": "b", "eps": 1}]}
    run: Any = configs.load([base | {"optimizer": spec}], ["optimizer.args.lr=0.02"]).run
    assert [group.options for group in run.optimizer.groups] == [{"lr": 0.2}, {"eps": 1}]
    run = configs.load([base | {"optimizer": {"gen": spec}}], ["optimizer.gen.args.lr=0.02"]).run
    assert run.optimizer["gen"].groups[0].options == {"lr": 0.2}
    del spec["args"]
    with pytest.raises(UsageError, match=r"cannot scale the learning rates of optimizer.groups"):
        configs.load([base | {"optimizer": spec}], ["optimizer.args.lr=0.02"])
