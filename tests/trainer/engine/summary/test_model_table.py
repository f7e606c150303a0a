"""The table of layers at the start of a run: what it shows, and that it leaves no trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import model.model
from model.text import GPT, TextTransformer
from model.vision import SmallResNet
from tests.tiny import tiny
from trainer.engine.summary import model_table
from trainer.engine.summary.flops import FlopCounter
from trainer.engine.summary.model_table import Traced, table

__all__ = ["tiny"]


def counted(function) -> int:
    found: list[int] = []
    with torch.no_grad(), FlopCounter(found.append):
        function()
    return sum(found)


def x(*shape):
    return torch.zeros(shape)


CALLS = {
    "linear": (lambda: F.linear(x(2, 3, 5), x(7, 5), x(7)), 2 * 2 * 3 * 5 * 7),
    "matmul": (lambda: x(4, 3, 5) @ x(5, 7), 2 * 4 * 3 * 5 * 7),
    "bmm": (lambda: torch.bmm(x(4, 3, 5), x(4, 5, 7)), 2 * 4 * 3 * 5 * 7),
    "addmm": (lambda: torch.addmm(x(7), x(3, 5), x(5, 7)), 2 * 3 * 5 * 7),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1)(x(1, 4, 8, 8)), 2 * 6 * 64 * 2 * 9),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2)(x(1, 4, 8, 8)), 2 * 4 * 64 * 6 * 4),
    "attention": (
        lambda: F.scaled_dot_product_attention(x(2, 3, 5, 8), x(2, 3, 9, 8), x(2, 3, 9, 8)),
        4 * 6 * 5 * 9 * 8,
    ),
    "einsum": (lambda: torch.einsum("bid, bjd -> bij", x(2, 3, 5), x(2, 7, 5)), 2 * 2 * 3 * 7 * 5),
    "lstm": (lambda: nn.LSTM(4, 6)(x(5, 2, 4)), 2 * 5 * 2 * (4 * 6 * 4 + 4 * 6 * 6)),
    "nothing": (lambda: F.relu(x(3)).sum(), 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_flops(name):
    function, flops = CALLS[name]
    assert counted(function) == flops


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "transformer", "gpt", "torch's transformer", "unet"])
def test_torch_counts_the_same(name):
    from torch.utils.flop_counter import FlopCounterMode, flop_registry  # takes seconds

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if name in ("transformer", "gpt", "torch's transformer") and attention not in flop_registry:
        pytest.skip("this version of torch does not count attention on a CPU")
    layer = nn.TransformerEncoderLayer(16, 2, batch_first=True, dropout=0.0)
    models = {
        "resnet": (SmallResNet(1, 10, (1, 1), 8), x(1, 1, 16, 16)),
        "transformer": (TextTransformer(20, 3, 12, width=16), torch.ones(1, 12, dtype=torch.long)),
        "gpt": (GPT(20, 12, layers=2, width=16), torch.ones(1, 12, dtype=torch.long)),
        "torch's transformer": (nn.TransformerEncoder(layer, 2), x(1, 12, 16)),
        "unet": (nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ConvTranspose2d(4, 2, 4, stride=2)), x(1, 1, 9, 9)),
    }
    net, inputs = models[name]
    mode = FlopCounterMode(display=False)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), mode:
            net.eval()(inputs)
        assert counted(lambda: net.eval()(inputs)) == mode.get_total_flops() > 0
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


class Tricky(nn.Module):
    """Has everything that a call may change."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.layers = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 10)])
        self.calls, self.cache, self.seen, self.by_name = 0, None, [1], {"a": 1}
        self.total: torch.Tensor
        self.register_buffer("total", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        self.cache = inputs
        self.seen.append(2)
        self.by_name["b"] = 2
        self.total += 1
        self.late = torch.rand(1)
        noise = torch.rand(())
        hidden = self.norm(inputs.flatten(1)) + noise * 1e-3
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


@pytest.fixture
def tricky(tiny, monkeypatch):
    monkeypatch.setattr(model.model, "Tricky", Tricky, raising=False)
    return tiny


def test_it_leaves_no_trace(tricky):
    trainer = tricky.build("arch=Tricky")
    net, data = trainer.model, (torch.randn(28, 1, 8, 8), torch.zeros(28))
    random, seen = torch.get_rng_state(), net.seen
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attributes, hooks = set(vars(net)), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    traced = model_table._traced(trainer, net, data)
    assert traced is not None
    assert traced.shapes == {"norm": "[B, 64]", "layers.0": "[B, 64]", "layers.1": "[B, 10]", "": "[B, 10]"}
    assert (traced.flops["layers.0"], traced.flops[""]) == (2 * 64 * 64, 2 * 64 * 74)
    assert (net.calls, net.cache, net.total.item()) == (0, None, 0)
    assert (net.seen, net.by_name) == ([1], {"a": 1})
    assert net.seen is seen
    assert set(vars(net)) == attributes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()] == hooks
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in net.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_weights_are_those_of_a_run_without_it(tricky, monkeypatch):
    shown = tricky.train("arch=Tricky", run="with")
    monkeypatch.setattr(model_table, "show", lambda *_: None)
    hidden = tricky.train("arch=Tricky", run="without")
    assert "FLOPs/sample" in tricky.log("with")
    assert "FLOPs/sample" not in tricky.log("without")
    assert shown.model.calls == hidden.model.calls
    states = shown.model.state_dict(), hidden.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_model_that_does_not_take_one_sample(tiny, monkeypatch):
    """The table then has names and parameters, and training goes on."""

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, inputs):
            if len(inputs) == 1:
                raise ValueError("I need the batch")
            return self.layer(inputs.flatten(1))

    monkeypatch.setattr(model.model, "Whole", Whole, raising=False)
    trainer = tiny.train("arch=Whole")
    assert trainer.step == 12
    assert "  layer  type    parameters\n  layer  Linear         650\n  all    Whole          650\n" in tiny.log()


def test_a_replay_does_not_show_it_again(tiny, capsys):
    from trainer.engine.commands import replay

    tiny.train()
    trainer = tiny.build()
    capsys.readouterr()
    replay.replay(trainer, 1)
    out = capsys.readouterr().out
    assert "replaying step 1" in out
    assert "FLOPs" not in out


def test_containers_are_opened_while_there_is_room():
    net = nn.Sequential(nn.Sequential(*[nn.ReLU() for _ in range(20)]), nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    lines = table(net, None).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "0", "1.0", "1.1", "all"]


def test_several_outputs_and_large_numbers():
    traced = Traced()
    traced.shapes |= {
        "0": model_table._shape((torch.zeros(1, 5, 2), torch.zeros(1))),
        "": model_table._shape("no tensor"),
    }
    traced.flops |= {"0": 2_345_678_901, "": 999}
    lines = table(nn.Sequential(nn.ReLU()), traced).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "ReLU", "[B,", "5,", "2]", "...", "0", "2.3", "G"],
        ["all", "Sequential", "0", "999"],
    ]
