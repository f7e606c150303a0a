"""What the mean in a loss is over: with labels that are ignored and classes that count differently, accumulation and
ranks give the weights and values of a plain loop over whole batches."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import Tiny, hand_loop, tiny
from tests.trainer.parallel.ranks import on_ranks, trained, trained_as_on_gpus
from tests.trainer.steps import ClassWeighted, TokensDataLoader, name_parts
from trainer.trainer import Trainer

__all__ = ["tiny"]
STEPS, BATCH = 8, 16
LOSSES = {"CrossEntropyLoss": nn.CrossEntropyLoss, "ClassWeighted": ClassWeighted}


def options(loss: str) -> list[str]:
    """Eight steps of an epoch, in order: its micro-batches are strided, so that of eight one has no label at all."""
    return [
        "arch={type: Tagger, args: {}}",
        f"data_loader={{type: TokensDataLoader, args: {{batch_size: {BATCH}, shuffle: false, validation_split: 0}}}}",
        f"loss={{type: {loss}, args: {{}}}}",
        "metrics=[]",
        "optimizer={type: AdamW, args: {lr: 0.1}}",
        f"trainer={{max_steps: {STEPS}, epochs: null, limit_batches: null, log_steps: 1}}",
    ]


@pytest.fixture(autouse=True)
def _parts() -> None:
    name_parts()


def plain_loop(tiny: Tiny, loss: str) -> tuple[dict[str, np.ndarray], list[float]]:
    """The weights, and the loss of each step, of the loop that everyone would write."""
    built = tiny.build(*options(loss), run="raw")
    x, y = TokensDataLoader().dataset.tensors
    losses = hand_loop(built, x, y, LOSSES[loss](), STEPS)
    return {name: value.numpy() for name, value in built.model.state_dict().items()}, losses


def assert_close(weights: Any, points: Any, expected: tuple[dict[str, np.ndarray], list[float]]) -> None:
    for name, value in expected[0].items():
        np.testing.assert_allclose(weights[name], value, rtol=0, atol=1e-6)
    np.testing.assert_allclose(points, expected[1], rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("accumulate", [1, 2, 4, 8])
def test_accumulation_agrees_with_a_plain_loop(tiny: Tiny, loss: str, accumulate: int) -> None:
    """The loss that is logged is the mean over the labels of the whole step, too."""
    done = tiny.train(*options(loss), f"trainer.accumulate={accumulate}")
    weights = {name: value.numpy() for name, value in done.model.state_dict().items()}
    assert_close(weights, [point["loss"] for point in tiny.points("train")], plain_loop(tiny, loss))


def test_that_some_micro_batches_have_no_label(tiny: Tiny) -> None:
    """What the test above depends on: with 8 of them, the first of each step."""
    built = tiny.build(*options("CrossEntropyLoss"))
    labels = TokensDataLoader().dataset.tensors[1]
    for step in range(STEPS):
        of_step = labels[built.data_loader.indices(step)]
        counts = [(of_step[i::8] != -100).sum().item() for i in range(8)]
        assert counts.count(0) == 1
        assert len(set(counts)) > 3


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("function", [trained, pytest.param(trained_as_on_gpus, marks=pytest.mark.slow)])
def test_two_ranks_agree_with_a_plain_loop(tiny: Tiny, loss: str, accumulate: int, function: Any) -> None:
    more = [*options(loss), f"trainer.accumulate={accumulate}", "trainer.tensorboard=false", "trainer.verbosity=0"]
    found = on_ranks(2, function, more)
    assert [type(result) for result in found] == [dict, dict], found
    expected = plain_loop(tiny, loss)
    for result in found:
        points = [values["loss"] for split, _, values in found[0]["points"] if split == "train"]
        assert_close(result["weights"], points, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_values_of_training_and_validation_are_means_over_all_labels(tiny: Tiny, loss: str) -> None:
    """Over a window of several steps, and over batches of uneven weight: no mean of means."""
    changes = ["data_loader.args.validation_split=40", "data_loader.args.batch_size=12", "optimizer.args.lr=0.0"]
    changes += ["trainer={epochs: 1, log_steps: 3, limit_batches: null, accumulate: 2}"]
    done = tiny.train(*options(loss), *changes)
    x, y = TokensDataLoader().dataset.tensors
    net, criterion = done.model.eval(), LOSSES[loss]()

    def mean(indices: np.ndarray) -> float:
        with torch.no_grad():
            return criterion(net(x[indices]), y[indices]).item()

    loader = done.data_loader
    validated = done.valid_data_loader.samples(np.arange(40))
    assert tiny.points("valid")[0]["loss"] == pytest.approx(mean(validated), rel=1e-6)
    starts, points = range(0, loader.steps_per_epoch, 3), tiny.points("train")
    assert len(points) == len(starts) == 3
    for start, point in zip(starts, points, strict=True):
        steps = range(start, min(start + 3, loader.steps_per_epoch))
        indices = np.concatenate([loader.indices(step) for step in steps])
        assert point["loss"] == pytest.approx(mean(indices), rel=1e-6)
    batches = np.array_split(validated, done.valid_data_loader.steps_per_epoch)
    assert abs(np.mean([mean(batch) for batch in batches]) / mean(validated) - 1) > 1e-3


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "cross_entropy"])
def test_without_ignored_labels_the_bits_are_those_of_no_weight(
    tiny: Tiny, loss: str, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is one label per sample: then stating the weight costs nothing."""
    keys = [f"loss={{type: {loss}, args: {{}}}}", f"trainer.accumulate={accumulate}", "trainer.clip_grad_norm=0.1"]
    stated = tiny.train(*keys, run="stated")
    assert stated.weight(torch.zeros(7, dtype=torch.long)) == 7
    monkeypatch.setattr(Trainer, "weight", lambda self, targets: None)
    samples = tiny.train(*keys, run="samples")
    assert all(map(torch.equal, stated.model.parameters(), samples.model.parameters()))
    for split in ("train", "valid"):
        assert tiny.points(split, "stated") == tiny.points(split, "samples") != []


def test_a_step_without_any_label_changes_nothing_and_is_no_nan(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens: its gradient is zero, its loss has no weight in the mean that is logged."""
    built = tiny.build(*options("CrossEntropyLoss"), "optimizer={type: SGD, args: {lr: 0.1}}", "trainer.log_steps=8")
    labels = built.data_loader.dataset.tensors[1]
    labels[built.data_loader.indices(2)] = -100
    seen: list[list[torch.Tensor]] = []
    built.callbacks.append(type("Seeing", (), {"after_step": lambda self, t: seen.append(copies(t.model))})())
    points: list[Any] = []
    monkeypatch.setattr(built.reporter, "train_point", lambda step, values: points.append(values))
    built.train()
    moved = [not all(map(torch.equal, a, b)) for a, b in pairwise(seen)]
    assert moved == [True, False, True, True, True, True, True]
    assert 0 < points[-1]["loss"] < 5


def copies(net: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]
