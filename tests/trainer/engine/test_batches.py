"""Batches of any form: dicts, dataclasses, several inputs, inputs alone; and models of several arguments."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
import torch
from torch import Tensor, nn

import model.model
import trainer.trainer
from data_loader import BaseDataLoader, data_loaders
from tests.tiny import Tiny, tiny
from trainer import Trainer
from trainer.engine import batches
from utils.errors import UsageError

__all__ = ["tiny"]
N = 60
NUMBERS = torch.Generator().manual_seed(0)
X = torch.randn(N, 8, generator=NUMBERS)
Y = torch.randint(0, 3, (N,), generator=NUMBERS)


class Named(NamedTuple):
    image: Tensor
    label: Tensor


@dataclass
class Pair:
    image: Tensor
    label: Tensor


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Sum(One):
    """As a model of Hugging Face: by name, some arguments optional."""

    def forward(self, a: Any = None, b: Any = None, c: Any = None) -> Any:
        return {"logits": self.layer(a + b - (0 if c is None else c))}


class Two(One):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        return self.layer(a + b)


class Reading(Trainer):
    """A step of one's own gets the batch as it is."""

    def train_step(self, batches: Any) -> None:
        for batch in self.micro_batches(batches):
            loss = self.criterion(self.model(batch["pixels"]), batch["cls"])
            self.backward(loss)
            self.record(loss=loss)
        self.update(self.optimizer)

    def eval_step(self, batch: Any) -> None:
        self.record(loss=self.criterion(self.model(batch["pixels"]), batch["cls"]))


def trained(tiny: Tiny, monkeypatch: Any, sample: Callable[[int], Any], net: Any, *keys: str, **loader: Any) -> Any:
    class Samples(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> Any:
            return sample(i)

    class Own(BaseDataLoader):
        def __init__(self, batch_size: int = 16, training: bool = True) -> None:
            super().__init__(Samples(), batch_size, validation_split=0.2, **loader)

    monkeypatch.setattr(data_loaders, "Own", Own, raising=False)
    monkeypatch.setattr(model.model, "Net", net, raising=False)
    monkeypatch.setattr(trainer.trainer, "Reading", Reading, raising=False)
    plain = ["arch=Net", "data_loader={type: Own, args: {}}", "trainer.max_steps=4"]
    return tiny.train(*plain, *keys, run=net.__name__ + str(len(str(sample(0)))))


def stacked(samples: Any) -> Pair:
    return Pair(*map(torch.stack, zip(*samples, strict=True)))


@pytest.mark.parametrize(
    ("sample", "net", "loader"),
    [
        (lambda i: {"image": X[i], "label": Y[i]}, One, {}),
        (lambda i: {"label": Y[i], "image": X[i], "file": f"{i}.png", "id": i}, One, {}),
        (lambda i: Named(X[i], Y[i]), One, {}),
        (lambda i: (X[i], Y[i]), One, {"collate_fn": stacked}),
        (lambda i: (X[i] / 2, X[i] / 2, Y[i]), Two, {}),
        (lambda i: ((X[i] / 2, X[i] / 2), Y[i]), Two, {}),
        (lambda i: {"a": X[i] / 2, "b": X[i] / 2, "labels": Y[i], "idx": i, "length": 8}, Sum, {}),
    ],
    ids=["dict", "dict with names", "named tuple", "dataclass", "two inputs", "a pair of inputs", "Hugging Face"],
)
def test_each_form_trains_as_a_pair(tiny: Tiny, monkeypatch: Any, sample: Any, net: Any, loader: Any) -> None:
    plain = trained(tiny, monkeypatch, lambda i: (X[i], Y[i]), type("Plain", (One,), {}))
    other = trained(tiny, monkeypatch, sample, net, **loader)
    assert other.values == plain.values
    assert other.values.keys() >= {"val_loss", "val_accuracy"}
    torch.testing.assert_close(other.model.layer.weight, plain.model.layer.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sample", [lambda i: X[i], lambda i: (X[i],)])
def test_inputs_alone_are_the_targets_of_an_autoencoder(tiny: Tiny, monkeypatch: Any, sample: Any) -> None:
    class Auto(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(8, 8))

    done = trained(tiny, monkeypatch, sample, Auto, "loss=MSELoss", "metrics=[]")
    plain = trained(tiny, monkeypatch, lambda i: (X[i], X[i]), type("Plain", (Auto,), {}), "loss=MSELoss", "metrics=[]")
    assert done.values == plain.values


def test_a_step_of_ones_own_gets_the_batch_as_it_is(tiny: Tiny, monkeypatch: Any) -> None:
    keys = ["trainer.type=Reading", "metrics=[]"]
    done = trained(tiny, monkeypatch, lambda i: {"pixels": X[i], "cls": Y[i]}, One, *keys)
    plain = trained(tiny, monkeypatch, lambda i: (X[i], Y[i]), type("Plain", (One,), {}))
    assert torch.equal(done.model.layer.weight, plain.model.layer.weight)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (lambda i: {"pixels": X[i], "cls": Y[i]}, r"a dict with pixels, cls.*return batch\['pixels'\], batch\['cls'\]"),
        (lambda i: (X[i], Y[i], i), r"a list of 3, and .* \(inputs, targets\).*return batch\[0\], batch\[1\]"),
    ],
)
def test_what_is_not_clear_is_reported_with_the_code(tiny: Tiny, monkeypatch: Any, sample: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        trained(tiny, monkeypatch, sample, One)


@dataclass(slots=True)
class Slots:
    image: Tensor
    label: Tensor


class Mixin:
    def train_step(self, batches: Any) -> None:
        pass


class Mixed(Mixin, Trainer):
    pass


T = TypeVar("T")


class Of(Trainer, Generic[T]):
    pass


def test_slots_and_kinds_of_trainers() -> None:
    inputs, targets = batches.pair(Slots(X, Y), One())
    assert torch.equal(inputs, X)
    assert torch.equal(targets, Y)
    assert (Trainer.takes_pairs, Mixed.takes_pairs, Of[int].takes_pairs) == (True, False, True)


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated")
def test_a_model_of_two_arguments_can_be_pickled_and_scripted() -> None:
    two = Two()
    batches.spread_inputs(two)
    copy = pickle.loads(pickle.dumps(two))
    assert torch.equal(copy((X, X)), two((X, X)))
    assert torch.equal(two((X, X)), two(X, X))
    batches.spread_inputs(torch.jit.trace(Two(), (X, X)))  # which takes no such hook


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Three(Trainer):
    def unpack(self, batch: Any) -> Any:
        return batch[0], batch[1]


def test_lazy_layers_with_batches_that_only_ones_own_trainer_knows(tiny: Tiny, monkeypatch: Any) -> None:
    monkeypatch.setattr(trainer.trainer, "Three", Three, raising=False)
    done = trained(tiny, monkeypatch, lambda i: (X[i], Y[i], 1), Lazy, "trainer.type=Three")
    assert done.model.layer.in_features == 8
