"""LayerStatistics: numbers by hand, at the right steps, over a resume, without hooks in the steps between."""

from typing import Any

import pytest
import torch

import trainer.callbacks
from tests.tiny import Tiny, tiny
from utils.errors import UsageError

__all__ = ["tiny"]
CONV = "arch={type: ConvNet, args: {widths: [4, 6], depth: 1}}"


def callback(every: int, layers: str = "null") -> str:
    return f"callbacks=[{{type: LayerStatistics, args: {{every: {every}, layers: {layers}}}}}]"


def test_the_numbers_of_one_step(tiny: Tiny) -> None:
    tiny.train("trainer.max_steps=3", callback(3))
    (point,) = tiny.points("layers")
    assert (point["step"], point["epoch"]) == (3, 1)
    built = tiny.build("trainer.max_steps=3", run="hand")
    stream, net = built.data_loader.iter_steps(0), built.model.train()
    for _ in range(2):
        built.run_step(stream)
    x, y = next(stream).data
    hidden = net.layers[0](x.flatten(1))
    hidden.retain_grad()
    torch.nn.functional.cross_entropy(net.layers[2](net.layers[1](hidden)), y).backward()
    for name, tensor in (("layers.0", hidden), ("layers.0_grad", hidden.grad)):
        assert point[f"{name}_mean"] == pytest.approx(tensor.mean().item(), rel=1e-4, abs=1e-7)
        assert point[f"{name}_std"] == pytest.approx(tensor.std(correction=0).item(), rel=1e-4)
        assert point[f"{name}_absmax"] == pytest.approx(tensor.abs().max().item(), rel=1e-5)
    layers = {key.rpartition("_")[0] for key in point.keys() - {"step", "epoch", "split"}}
    assert layers == {f"layers.{i}{grad}" for i in (0, 1, 2) for grad in ("", "_grad")}


class Hooks:
    def __init__(self) -> None:
        self._seen: list[int] = []

    def after_step(self, t: Any) -> None:
        self._seen.append(sum(len(m._forward_hooks) for m in t.model.modules()))


def test_the_steps_between_have_no_hooks_and_the_weights_are_the_same(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.callbacks, "Hooks", Hooks, raising=False)
    done = tiny.train(CONV, callback(4, "features.*").replace("[{", "[Hooks, {"), run="with")
    assert [bool(n) for n in done.callbacks[0]._seen] == [step % 4 == 0 for step in range(1, 13)]
    assert tiny.steps("layers", "with") == [4, 8, 12]
    plain = tiny.train(CONV, run="without")
    assert all(torch.equal(a, b) for a, b in zip(done.model.parameters(), plain.model.parameters(), strict=True))
    assert tiny.points("train", "with") == tiny.points("train", "without")


@pytest.mark.parametrize("stop", [3, 7])
def test_a_resume_before_such_a_step(tiny: Tiny, stop: int) -> None:
    tiny.train(callback(4), run="whole")
    tiny.train(callback(4), f"trainer.max_steps={stop}")
    tiny.train(callback(4))
    assert tiny.points("layers") == tiny.points("layers", "whole") != []


def test_micro_batches_count_together(tiny: Tiny) -> None:
    tiny.train(callback(1), "trainer.max_steps=1", run="one")
    tiny.train(callback(1), "trainer.max_steps=1", "trainer.accumulate=4", run="four")
    one, four = (tiny.points("layers", run)[0] for run in ("one", "four"))
    names = [name for name in one if name.startswith("layers") and "_grad" not in name]
    assert [four[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-4)


def test_a_pattern_that_matches_nothing(tiny: Tiny) -> None:
    with pytest.raises(
        UsageError, match=r"'layer\.\*' matches no module \(did you mean 'layers'\?\); the model has layer"
    ):
        tiny.train("callbacks=[{type: LayerStatistics, args: {layers: [layers.0, layer.*]}}]")


class Bare(torch.nn.Module):
    """A model without modules in it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight


def test_a_model_without_modules_is_a_layer(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.model.Bare", Bare, raising=False)
    tiny.train("arch=Bare", callback(1), "trainer.max_steps=1")
    (point,) = tiny.points("layers")
    assert point["Bare_absmax"] == 0
    assert point["Bare_grad_absmax"] > 0


def test_a_validation_before_such_a_step_does_not_count(tiny: Tiny) -> None:
    """And hooks that are placed again, as where a step is run again, count once."""
    tiny.train("trainer.max_steps=3", callback(3))
    tiny.train("trainer.max_steps=3", "trainer.valid_steps=2", callback(3), run="validated")
    again = tiny.build("trainer.max_steps=3", callback(1), run="again")
    again.before_steps()
    again.train()
    assert tiny.points("layers", "validated") == tiny.points("layers")
    assert sum(len(module._forward_hooks) for module in again.model.modules()) <= 3
