"""The training step as users write it: SAM, gradient penalties, several losses; nothing leaks from pass to pass."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import model.model
import trainer.trainer
from data_loader.data_loaders import DigitsDataLoader
from tests.tiny import Tiny, tiny
from tests.trainer.steps import RHO, losses_with_penalty, name_parts
from trainer.gan_trainer import GANTrainer
from trainer.trainer import Trainer
from utils.seed import mix, seed_all

__all__ = ["tiny"]
LENGTH = ["trainer.log_steps=1"]
TOKENS = [
    "arch={type: Tagger, args: {}}",
    "data_loader={type: TokensDataLoader, args: {validation_split: 24}}",
    "loss={type: CrossEntropyLoss, args: {}}",
    "metrics=[]",
    *LENGTH,
]


@pytest.fixture(autouse=True)
def _parts() -> None:
    name_parts()


def named(monkeypatch: pytest.MonkeyPatch, cls: type) -> str:
    """Let a config find a trainer class of a test."""
    monkeypatch.setattr(trainer.trainer, cls.__name__, cls, raising=False)
    return f"trainer.type={cls.__name__}"


def start(tiny: Tiny, *overrides: str) -> tuple[nn.Module, torch.optim.Optimizer, Iterator[tuple[Tensor, Tensor]]]:
    """For a raw loop: the model and optimizer that a run starts with, and its whole batches (12 steps)."""
    built = tiny.build(*overrides, run="raw")
    loader = built.data_loader
    whole = (torch.as_tensor(loader.indices(step)) for step in range(built.max_steps))
    fetch = DigitsDataLoader(validation_split=100).dataset.__getitems__
    return built.model.train(), built.optimizer, (fetch(indices.numpy()) for indices in whole)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def close(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# -- steps that users write -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_sam(tiny: Tiny, accumulate: int) -> None:
    done = tiny.train("trainer.type=SAMTrainer", f"trainer.accumulate={accumulate}")
    net, optimizer, batches = start(tiny)
    for inputs, targets in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        scale = RHO / nn.utils.get_total_norm(gradients)
        moves = [gradient * scale for gradient in gradients]
        with torch.no_grad():
            for p, move in zip(net.parameters(), moves, strict=True):
                p.add_(move)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        with torch.no_grad():
            for p, move in zip(net.parameters(), moves, strict=True):
                p.sub_(move)
        optimizer.step()
    assert done.step == 12
    if accumulate == 1:
        assert equal(done.model, net)
    close(done.model, net)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradient_penalty(tiny: Tiny, accumulate: int) -> None:
    done = tiny.train("trainer.type=PenaltyTrainer", f"trainer.accumulate={accumulate}")
    net, optimizer, batches = start(tiny)
    for inputs, targets in batches:
        optimizer.zero_grad()
        sum(losses_with_penalty(net, nn.functional.cross_entropy, inputs, targets), torch.zeros(())).backward()
        optimizer.step()
    if accumulate == 1:
        assert equal(done.model, net)
    close(done.model, net)
    assert all(point["penalty"] > 0 for point in tiny.points("train"))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("options", [LENGTH, ["trainer.clip_grad_norm=0.05"]], ids=["plain", "clipped"])
def test_several_losses_are_their_sum(tiny: Tiny, accumulate: int, options: list[str]) -> None:
    options = [*options, f"trainer.accumulate={accumulate}"]
    one = tiny.train("trainer.type=PenaltyTrainer", *options, run="one")
    several = tiny.train("trainer.type=SeveralLossesTrainer", *options, run="several")
    close(one.model, several.model)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_several_weighted_losses_are_their_sum(tiny: Tiny, accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight of a micro-batch counts once, however many losses state it."""

    class Once(Trainer):
        def train_step(self, batches: Any) -> None:
            for inputs, targets in self.micro_batches(batches):
                loss = self.criterion(self.model(inputs), targets)
                self.parts(loss, self.weight(targets))
                self.record(loss=loss, weight=self.weight(targets))
            self.update(self.optimizer)

        def parts(self, loss: Tensor, weight: Any) -> None:
            self.backward(loss, weight)

    class Thrice(Once):
        def parts(self, loss: Tensor, weight: Any) -> None:
            self.backward(loss * 0.5, weight, retain_graph=True)
            self.backward(loss * 0.25, weight, retain_graph=True)
            self.backward(loss * 0.25, weight)

    one, several = (
        tiny.train(*TOKENS, named(monkeypatch, cls), f"trainer.accumulate={accumulate}", run=cls.__name__)
        for cls in (Once, Thrice)
    )
    close(one.model, several.model)


# -- passes -----------------------------------------------------------------------------------------------------------


def test_a_pass_that_is_left_early_updates_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaving(Trainer):
        def train_step(self, batches: Any) -> None:
            for inputs, targets in self.micro_batches(batches):
                self.backward(self.criterion(self.model(inputs), targets))
                if self.step == 1:
                    break
            self.update(self.optimizer)

    built = tiny.build(named(monkeypatch, Leaving), "trainer.accumulate=2")
    stream = built.data_loader.iter_steps(0)
    built.run_step(stream)
    before = [p.detach().clone() for p in built.model.parameters()]
    with pytest.raises(RuntimeError, match=r"update\(\) after a pass that was left early"):
        built.run_step(stream)
    assert all(torch.equal(p, kept) for p, kept in zip(built.model.parameters(), before, strict=True))


def test_an_update_before_any_pass_is_an_error(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Early(Trainer):
        def train_step(self, batches: Any) -> None:
            self.update(self.optimizer)

    with pytest.raises(RuntimeError, match=r"update\(\)"):
        tiny.train(named(monkeypatch, Early))


class SmallGAN(nn.Module):
    latent = 4

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))


SGD = "{type: SGD, args: {lr: 0.05}}"
GAN = ["arch=SmallGAN", "loss=BCEWithLogitsLoss", "metrics=[]"]
GAN += [f"optimizer={{generator: {SGD}, discriminator: {SGD}}}", "trainer.epochs=1"]


def test_no_gradient_leaks_from_pass_to_pass(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator's pass leaves gradients in the discriminator; none may be there at the next pass."""
    seen: list[tuple[bool, bool]] = []

    class Looking(GANTrainer):
        def micro_batches(self, batches: Any) -> Iterator[Any]:
            for batch in super().micro_batches(batches):
                seen.append((has_gradients(self.model.generator), has_gradients(self.model.discriminator)))
                yield batch

    monkeypatch.setattr(model.model, "SmallGAN", SmallGAN, raising=False)
    done = tiny.train(*GAN, named(monkeypatch, Looking))
    assert seen == [(False, False)] * 12  # two passes in each of six steps

    built = tiny.build(*GAN, "trainer.type=GANTrainer", run="raw")
    net, optimizers, loss = built.model.train(), built.optimizer, nn.BCEWithLogitsLoss()
    stream = built.data_loader.iter_steps(0)
    for step in range(6):
        real, _ = next(stream).data
        for pass_, name in ((1, "discriminator"), (2, "generator")):
            net.zero_grad()
            seed_all(mix(1, step, 0, pass_))
            if name == "discriminator":
                with torch.no_grad():
                    generated = net.generator(torch.randn(len(real), 4))
                on_real, on_generated = net.discriminator(real), net.discriminator(generated)
                total = loss(on_real, torch.ones(len(real))) + loss(on_generated, torch.zeros(len(real)))
            else:
                total = loss(net.discriminator(net.generator(torch.randn(len(real), 4))), torch.ones(len(real)))
            total.backward()
            optimizers[name].step()
    assert equal(done.model, net)


def has_gradients(module: nn.Module) -> bool:
    return any(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_can_be_read_after_an_update(tiny: Tiny, accumulate: int) -> None:
    """By a callback, say: they are those of the mean over the whole step."""
    built = tiny.build(f"trainer.accumulate={accumulate}")
    net, _, batches = start(tiny)
    built.run_step(built.data_loader.iter_steps(0))
    inputs, targets = next(batches)
    nn.functional.cross_entropy(net(inputs), targets).backward()
    for p, q in zip(built.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-7)


def test_average_is_idempotent(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where labels are ignored it scales the gradients, which must not happen twice."""

    class Averaging(Trainer):
        def update(self, optimizer: Any) -> None:
            self.average(optimizer)
            before = [p.grad.clone() for p in self.model.parameters()]
            self.average(optimizer)
            assert all(torch.equal(p.grad, kept) for p, kept in zip(self.model.parameters(), before, strict=True))
            super().update(optimizer)

    plain = tiny.train(*TOKENS, run="plain")
    again = tiny.train(*TOKENS, named(monkeypatch, Averaging), run="again")
    assert equal(plain.model, again.model)


# -- draws outside of micro-batches -----------------------------------------------------------------------------------


def drawn(tiny: Tiny, run: str) -> list[float]:
    return [point["drawn"] for point in tiny.points("train", run)]


def test_draws_of_a_step_depend_on_seed_and_step_alone(tiny: Tiny) -> None:
    options = ["trainer.type=DrawingTrainer", *LENGTH]
    whole = tiny.train(*options, run="whole")
    assert len(set(drawn(tiny, "whole"))) == 12

    tiny.train(*options, "trainer.max_steps=5", run="killed")
    resumed = tiny.train(*options, run="killed")
    again = tiny.train(*options, run="again")
    for other, name in ((resumed, "killed"), (again, "again")):
        assert equal(whole.model, other.model)
        assert drawn(tiny, name) == drawn(tiny, "whole")

    tiny.train(*options, "trainer.accumulate=2", run="halves")
    assert drawn(tiny, "halves") == drawn(tiny, "whole")
    tiny.train(*options, "seed=2", run="seed")
    assert not set(drawn(tiny, "seed")) & set(drawn(tiny, "whole"))


# -- batches of other shapes ------------------------------------------------------------------------------------------


def test_batches_that_are_dicts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """`unpack` turns them into what the steps want, in training and in validation."""
    import data_loader.data_loaders

    def as_dict(batch: Any) -> dict[str, Any]:
        return {"image": batch[0], "label": batch[1]}

    class DictLoader(DigitsDataLoader):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(batch_transform=as_dict, **kwargs)

    class OfDicts(Trainer):
        def unpack(self, batch: Any) -> Any:
            return batch["image"], batch["label"]

    monkeypatch.setattr(data_loader.data_loaders, "DictLoader", DictLoader, raising=False)
    plain = tiny.train(run="plain")
    of_dicts = tiny.train("data_loader.type=DictLoader", named(monkeypatch, OfDicts), run="dicts")
    assert equal(plain.model, of_dicts.model)
    for split in ("train", "valid"):
        assert tiny.points(split, "plain") == tiny.points(split, "dicts") != []
