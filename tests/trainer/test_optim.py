"""WarmupCosineLR's curve; MuonAdamW equals Muon and AdamW by hand."""

import copy
import math

import pytest
import torch

from tests.tiny import tiny
from tests.trainer.checkpoint.harness import House, at_step, config, die, same_end
from trainer.optim import MuonAdamW, WarmupCosineLR
from utils.errors import UsageError

__all__ = ["tiny"]


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


@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"warmup": 1.5}, {"min_lr": -1.0}, {"total_steps": 0}])
def test_wrong_lengths_of_a_schedule(wrong):
    with pytest.raises(UsageError, match="WarmupCosineLR: total_steps is"):
        of(WarmupCosineLR, 1, **({"total_steps": 10} | wrong))


def test_warmup_as_a_share():
    assert of(WarmupCosineLR, 40, total_steps=40, warmup=0.1) == of(WarmupCosineLR, 40, total_steps=40, warmup=4)


# -- Muon -------------------------------------------------------------------------------------------------------------

MUON = "optimizer={type: MuonAdamW, args: {lr: 0.01"
NET = "arch={type: MLP, args: {in_features: 64, hidden: [16, 16]}}"


def test_muon_equals_muon_and_adamw_by_hand(tiny):
    """Bit for bit: the matrices of the hidden layers by torch's Muon, the head and the biases by torch's AdamW."""
    more = [NET, MUON + ", adamw: [layers.4]}}", "trainer.max_steps=5", "lr_scheduler=WarmupCosineLR"]
    net = copy.deepcopy(tiny.build(*more, run="by hand").model)
    done = tiny.train(*more)
    trainer = tiny.build(*more, run="by hand")
    matrices = [net.layers[0].weight, net.layers[2].weight]
    rest = [p for p in net.parameters() if not any(p is m for m in matrices)]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    schedules = [WarmupCosineLR(optimizer, total_steps=5) for optimizer in (muon, adamw)]
    stream = trainer.data_loader.iter_steps(0)
    for _ in range(5):
        inputs, targets = next(stream).data
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), targets).backward()
        muon.step(), adamw.step()
        for schedule in schedules:
            schedule.step()
    stream.close()
    assert all(torch.equal(a, b) for a, b in zip(done.model.parameters(), net.parameters(), strict=True))
    assert (
        "MuonAdamW: Muon trains 2 matrices; AdamW 4 other parameters, of which matrices: layers.4.weight\n"
        in tiny.log()
    )


def test_which_parameters_muon_has():
    class Text(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.positions = torch.nn.Embedding(4, 8), torch.nn.Embedding(4, 8)
            self.tok_emb, self.wte = torch.nn.Embedding(4, 8), torch.nn.Embedding(4, 8)  # of minGPT and nanoGPT
            self.block, self.head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)

    net = Text()
    names = {p: name for name, p in net.named_parameters()}
    optimizer = MuonAdamW(list(net.named_parameters()))
    of = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    embeddings = ["embedding.weight", "positions.weight", "tok_emb.weight", "wte.weight"]
    assert of == [["block.weight"], [*embeddings, "block.bias", "head.weight", "head.bias"]]
    with pytest.raises(UsageError, match=r"optimizer.args.adamw: 'hed' matches no parameter \(did you mean 'head'"):
        MuonAdamW(list(net.named_parameters()), adamw=["hed"])


def test_muon_with_groups(tiny):
    groups = ", groups: [{match: layers.4, lr: 0.1}], no_decay: true}"
    trainer = tiny.build(NET, MUON + ", adamw: [layers.4]}" + groups)
    assert [(g["name"], g["lr"], g["weight_decay"], "momentum" in g) for g in trainer.optimizer.param_groups] == [
        ("", 0.01, 0.1, True), ("", 0.01, 0.0, False), ("layers_4", 0.1, 0.1, False), ("layers_4", 0.1, 0.0, False),
    ]  # fmt: skip


def test_muon_resumes_exactly(tmp_path):
    spec = config(optimizer={"type": "MuonAdamW", "args": {"lr": 0.01}}, lr_scheduler="WarmupCosineLR")
    spec["arch"] = {"type": "MLP", "args": {"in_features": 64, "hidden": [16, 16]}}
    killed, plain = House(tmp_path / "killed", spec), House(tmp_path / "plain", spec)
    plain.train()
    killed.train(patch=at_step(7, die), code=137)
    killed.train()
    same_end(killed, plain)


def test_muon_alone_points_to_it(tiny):
    with pytest.raises(UsageError, match=r"Muon is for matrices only.*use MuonAdamW"):
        tiny.build("optimizer=Muon")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_muon_on_two_ranks(parallel):
    from tests.trainer.parallel.test_same_result import results

    keys = [NET, MUON + "}}", "trainer.max_steps=3"]
    one, two = results(1, keys), results(2, [*keys, f"trainer.parallel={parallel}"])
    start = results(1, [*keys, "optimizer.args.lr=0.0"])
    for name, first in start["weights"].items():  # Muon computes in bf16: the same direction, not the same bits
        mine, other = ((each["weights"][name] - first).ravel() for each in (one, two))
        assert mine @ other > 0.99 * (mine @ mine * (other @ other)) ** 0.5 > 0, name
