"""Callbacks that show what a classifier does: their numbers by hand, and that they leave training alone."""

import importlib.util
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import logger.writer
from logger.writer import Writer
from tests.tiny import Tiny, tiny
from tests.trainer.parallel.ranks import on_ranks, trained
from trainer.callbacks import confusion_matrix, per_class_accuracy, pr_curves
from utils.config.files import ConfigError
from utils.errors import UsageError

__all__ = ["tiny"]
TRAIN = ("logger=[Album]", "data_loader.args.validation_split=100", "trainer.epochs=2")


def album(given: list[tuple[str, str, int, Any]]) -> type[Writer]:
    """A writer that adds what it gets to `given`, as (what, name, step, value)."""

    class Album(Writer):
        def image(self, name, picture, step):
            assert picture.dim() == 3
            assert 0 <= picture.min() <= picture.max() <= 1
            given.append(("image", name, step, picture))

        def text(self, name, text, step):
            given.append(("text", name, step, text))

        def histogram(self, name, values, step):
            given.append(("histogram", name, step, values))

        def embedding(self, name, vectors, labels, images=None, step=0):
            given.append(("embedding", name, step, (vectors, labels, images)))

        def scalars(self, step, epoch, split, values):
            given.append(("scalars", split, step, dict(values)))

    return Album


@pytest.fixture
def kept(monkeypatch):
    """What the writer `Album` was given."""
    given: list[tuple[str, str, int, Any]] = []
    monkeypatch.setattr(logger.writer, "Album", album(given), raising=False)
    return given


def found(trainer) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Of the last validation, by hand: indices, probabilities, targets, in its order."""
    batches = list(trainer.valid_data_loader.iter_epoch(keep=True))[: trainer.valid_data_loader.steps_per_epoch]
    with torch.no_grad():
        outputs = torch.cat([trainer.model.eval()(batch.data[0]) for batch in batches])
    return np.concatenate([b.indices for b in batches]), outputs.softmax(1), torch.cat([b.data[1] for b in batches])


def only(kept, what, name):
    return [(step, value) for kind, called, step, value in kept if (kind, called) == (what, name)]


def test_confusion_matrix(tiny: Tiny, kept) -> None:
    pytest.importorskip("matplotlib", reason="the extra plots")
    trainer = tiny.train(*TRAIN, "callbacks=[ConfusionMatrix]")
    _, probabilities, targets = found(trainer)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (targets.numpy(), probabilities.argmax(1).numpy()), 1)
    assert np.array(trainer.callbacks[0].counts.tolist()[:-1]).reshape(10, 10).tolist() == expected.tolist()
    assert [step for step, _ in only(kept, "image", "valid/confusion_matrix")] == [6, 12]


def test_confusion_matrix_ignores_other_targets_and_takes_pixels() -> None:
    callback = confusion_matrix.ConfusionMatrix()
    callback.begin(None)
    scores = torch.eye(3)[[0, 1, 2, 2]]
    callback.add(None, None, confusion_matrix.Scores(scores, torch.tensor([0, 2, 255, -100])))
    assert callback.counts is not None
    assert callback.counts.tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0, 2]


@pytest.mark.parametrize(
    "n", [2, 21, pytest.param(20, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)]
)
def test_figures_of_few_and_many_classes(n: int) -> None:
    pytest.importorskip("matplotlib", reason="the extra plots")
    names = [f"a long name of class {i}" for i in range(n)]
    counts = np.random.default_rng(0).integers(0, 3, (n, n))
    counts[0] = 0  # a class without samples
    thresholds = np.random.default_rng(0).integers(0, 2, (n, pr_curves.THRESHOLDS, 2))
    for picture in (
        confusion_matrix.draw(counts, names),
        per_class_accuracy.draw(dict.fromkeys(names, 0.5), dict.fromkeys(names, 7)),
        pr_curves.draw(thresholds, names),
    ):
        assert picture.shape[0] == 3
        assert max(picture.shape) < 1500
        assert picture.min() < 0.5  # something is drawn


def test_mistakes(tiny: Tiny, kept) -> None:
    trainer = tiny.train(*TRAIN, "callbacks=[{type: Mistakes, args: {samples: 5}}]")
    indices, probabilities, targets = found(trainer)
    confidence, prediction = probabilities.max(1)
    wrong = np.flatnonzero((prediction != targets).numpy())
    worst = wrong[np.argsort(-confidence.numpy()[wrong], kind="stable")][:5]
    assert len(wrong) > 5
    assert trainer.callbacks[0].worst["index"].tolist() == indices[worst].tolist()
    assert trainer.callbacks[0].worst["confidence"].numpy() == pytest.approx(confidence.numpy()[worst], abs=1e-6)
    assert len(only(kept, "image", "valid/most_confident_mistakes")) == 2


def test_mistakes_of_what_is_no_image_are_listed(tiny: Tiny, kept) -> None:
    trainer = tiny.build(*TRAIN, "callbacks=[{type: Mistakes, args: {samples: 2}}]")
    trainer.reporter.writers = list(trainer.reporter._given)
    trainer.config.facts["class_names"] = ["cat", "dog"]
    callback, trainer.evaluating = trainer.callbacks[0], "test"

    class Batch:
        data = (torch.zeros(3, 7), torch.tensor([0, 0, 1]))
        indices = np.array([5, 6, 7])

    with callback.during_eval(trainer):
        callback.after_eval_batch(trainer, Batch, torch.tensor([[0.0, 3.0], [3.0, 0.0], [9.0, 0.0]]))
    assert only(kept, "text", "test/most_confident_mistakes") == [
        (0, "sample 7: dog taken for cat (100.0%)\nsample 5: cat taken for dog (95.3%)")
    ]


def test_predictions_are_of_the_same_samples(tiny: Tiny, kept) -> None:
    trainer = tiny.train(*TRAIN, "callbacks=[{type: Predictions, args: {samples: 30}}]")
    indices, probabilities, targets = found(trainer)
    callback = trainer.callbacks[0]
    assert [row[0] for row in callback.rows] == indices[:30].tolist()
    assert [row[1:3] for row in callback.rows] == [
        *zip(targets[:30].tolist(), probabilities.argmax(1)[:30].tolist(), strict=True)
    ]
    assert callback._label(4, 1, 1, 0.987) == "right, 99%  #4\npredicted 1\ntrue 1"
    assert callback._label(4, 2, 1, 0.5) == "wrong, 50%  #4\npredicted 1\ntrue 2"
    (_, first), (_, second) = only(kept, "image", "valid/predictions")
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_per_class_accuracy(tiny: Tiny, kept) -> None:
    pytest.importorskip("matplotlib", reason="the extra plots")
    trainer = tiny.train(*TRAIN, "callbacks=[PerClassAccuracy]")
    _, probabilities, targets = found(trainer)
    right = (probabilities.argmax(1) == targets).double()
    expected = {f"class_accuracy/{k}": right[targets == k].mean().item() for k in range(10) if (targets == k).any()}
    values = [value for step, value in only(kept, "scalars", "valid") if step == 12 and "loss" not in value]
    assert values == [expected]
    assert "class_accuracy/0" not in (tiny.folder / "run/metrics.jsonl").read_text()


def test_the_area_under_a_precision_recall_curve() -> None:
    torch.manual_seed(0)
    targets = torch.randint(0, 3, (500,))
    probabilities = (torch.randn(500, 3) + 2 * torch.eye(3)[targets]).softmax(1)
    callback = pr_curves.PRCurves()
    callback.begin(None)
    for part in (slice(0, 300), slice(300, 500)):
        callback.add(None, None, pr_curves.Scores(probabilities[part], targets[part]))
    assert callback.counts is not None
    for k in range(3):
        order = probabilities[:, k].argsort(descending=True)
        true = (targets == k)[order].double()
        exact = float((true.cumsum(0) / torch.arange(1, 501) * true).sum() / true.sum())
        recall, precision, area = pr_curves.curve(callback.counts[k].numpy())
        assert area == pytest.approx(exact, abs=0.01)
        assert recall[-1] == 1
        assert (np.diff(recall) >= 0).all()
        assert precision.max() <= 1


def test_histograms_and_the_update_ratio(tiny: Tiny, kept) -> None:
    trainer = tiny.train(*TRAIN, "callbacks=[{type: Histograms, args: {every: 5}}]", "optimizer.args.lr=0.1")
    assert [step for step, _ in only(kept, "histogram", "weights/layers.0.weight")] == [5, 10]
    ratios = {step: value for step, value in only(kept, "scalars", "train") if "update_ratio/layers.0.weight" in value}
    assert list(ratios) == [5, 10]
    # plain SGD: the update is the rate times the gradient
    ((_, weights), (_, gradient)) = (
        only(kept, "histogram", f"{k}/layers.0.weight")[1] for k in ("weights", "gradients")
    )
    expected = 0.1 * np.linalg.norm(gradient) / np.linalg.norm(weights)
    assert ratios[10]["update_ratio/layers.0.weight"] == pytest.approx(expected, rel=1e-4)
    assert trainer.callbacks[0]._before == {}


def test_histograms_are_the_same_after_a_resume_between_the_copy_and_the_update(tiny: Tiny, kept) -> None:
    callbacks = "callbacks=[{type: Histograms, args: {every: 5}}]"
    tiny.train(*TRAIN, callbacks, run="whole")
    whole = [value for value in only(kept, "scalars", "train") if "update_ratio/layers.0.weight" in value[1]]
    kept.clear()
    tiny.train(*TRAIN, callbacks, "trainer.max_steps=9", run="part")  # the copy for step 10 is due after step 9
    tiny.train(*TRAIN, callbacks, "trainer.max_steps=12", run="part")
    parts = [value for value in only(kept, "scalars", "train") if "update_ratio/layers.0.weight" in value[1]]
    assert parts == whole


def test_embeddings(tiny: Tiny, kept) -> None:
    trainer = tiny.train(*TRAIN, "callbacks=[{type: Embeddings, args: {samples: 40}}]")
    vectors, labels, images = only(kept, "embedding", "embeddings")[-1][1]
    batches = list(trainer.valid_data_loader.iter_epoch(keep=True))
    inputs, targets = (torch.cat([b.data[i] for b in batches])[:40] for i in (0, 1))
    layers = trainer.model.layers
    with torch.no_grad():
        expected = layers[:-1](inputs.flatten(1))
    assert torch.allclose(vectors, expected, atol=1e-6)
    assert labels == [str(t) for t in targets.tolist()]
    assert images.shape == (40, 1, 8, 8)
    assert not any(m._forward_pre_hooks for m in trainer.model.modules())
    with pytest.raises(UsageError, match="has layer 'head', but the model has layers"):
        tiny.train(*TRAIN, "callbacks=[{type: Embeddings, args: {layer: head}}]", run="wrong")


@pytest.mark.slow
def test_the_profile_is_a_trace(tiny: Tiny, kept) -> None:
    tiny.train(*TRAIN, "callbacks=[{type: Profiler, args: {start: 3, steps: 2}}]")
    trace = json.loads((tiny.folder / "run/profile/step3.json").read_text())
    assert any("addmm" in event.get("name", "") for event in trace["traceEvents"])
    [(step, table)] = only(kept, "text", "train/profile")
    assert step == 5
    assert "Self CPU" in table


# -- over ranks -------------------------------------------------------------------------------------------------------


FIGURES = (
    "callbacks=[ConfusionMatrix, PerClassAccuracy, PRCurves, {type: Mistakes, args: {samples: 4}}, "
    "{type: Predictions, args: {samples: 14}}, {type: Embeddings, args: {samples: 60}}, "
    "{type: Histograms, args: {every: 2}}]"
)


def shown(keys: list[str]) -> list[tuple[str, str, int, Any]]:
    """What a run gives its writer."""
    given: list[tuple[str, str, int, Any]] = []

    def attach(trainer: Any) -> None:
        if trainer.rank == 0:
            trainer.reporter.writers = [album(given)()]

    trained(keys, change=attach)
    return [(what, name, step, plain(value)) for what, name, step, value in given]


def plain(value: Any) -> Any:
    """Without tensors, which do not go through a pipe."""
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value


@pytest.mark.slow
def test_two_ranks_show_what_one_shows() -> None:
    pytest.importorskip("matplotlib", reason="the extra plots")
    keys = [FIGURES, "trainer.max_steps=4", "trainer.exact_ranks=true", "trainer.accumulate=2"]
    alone = shown(keys)
    both, nothing = on_ranks(2, shown, keys)
    assert nothing == []
    # The inputs are those of rank 0's first micro-batch
    alone, both = ([entry for entry in entries if entry[1] != "train/inputs"] for entries in (alone, both))
    assert [entry[:3] for entry in both] == [entry[:3] for entry in alone]
    assert {name.split("/")[0] for _, name, *_ in alone} == {"valid", "embeddings", "weights", "gradients", "train"}
    for (what, name, _, one), (*_, two) in zip(alone, both, strict=True):
        if what == "scalars":
            assert two == pytest.approx(one, rel=1e-4), name
        elif what == "embedding":
            assert two[1] == one[1]
            np.testing.assert_allclose(two[0], one[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(two[2], one[2])
        else:  # pictures, pixel by pixel: counts and percentages are in them as text
            np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_embeddings_with_a_compiled_model(tiny: Tiny, kept, monkeypatch) -> None:
    """The backend that compiles nothing: what it records is what matters here."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: real(model, backend="eager"))
    callbacks = "callbacks=[{type: Embeddings, args: {samples: 40}}]"
    tiny.train(*TRAIN, callbacks, run="plain")
    plain = only(kept, "embedding", "embeddings")
    kept.clear()
    tiny.train(*TRAIN, callbacks, "trainer.compile=true", run="compiled")
    compiled = only(kept, "embedding", "embeddings")
    assert [step for step, _ in plain] == [step for step, _ in compiled] == [6, 12]
    for (_, (a, *_)), (_, (b, *_)) in zip(plain, compiled, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


# -- together ---------------------------------------------------------------------------------------------------------


ALL = "callbacks=[Mistakes, Predictions, {type: Histograms, args: {every: 3}}, Embeddings, GPUMemory]"


def test_they_leave_training_alone(tiny: Tiny, kept) -> None:
    with_them = tiny.train(*TRAIN, ALL, run="with")
    without = tiny.train(*TRAIN, run="without")
    for a, b in zip(with_them.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(a, b)
    metrics = [(tiny.folder / run / "metrics.jsonl").read_bytes() for run in ("with", "without")]
    assert metrics[0] == metrics[1]


def test_nothing_is_drawn_where_no_writer_shows_it(tiny: Tiny, monkeypatch) -> None:
    monkeypatch.setattr(confusion_matrix, "draw", lambda *_: pytest.fail("drawn for nobody"))
    tiny.train("callbacks=[ConfusionMatrix, Mistakes, Predictions]", "trainer.epochs=1")


@pytest.mark.parametrize("name", ["ConfusionMatrix", "PerClassAccuracy", "PRCurves"])
def test_without_matplotlib_the_extra_is_named(tiny: Tiny, monkeypatch, name: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "matplotlib" else real(n, *a))
    with pytest.raises(ConfigError, match=f"{name} needs matplotlib, which is not installed: make extra NAME=plots"):
        tiny.build(f"callbacks=[{name}]")


@pytest.mark.parametrize(
    "outputs, targets, problem",
    [
        (torch.zeros(2), torch.zeros(2), r"needs a score for each class, \[B, C\].*got outputs \[2\]"),
        (torch.zeros(2, 3), torch.zeros(2, 3), r"got outputs \[2, 3\] and targets \[2, 3\], torch.float32"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), r"got outputs \[2, 3, 4, 4\]"),
        ("text", torch.zeros(2), r"outputs that are a tensor"),
    ],
)
def test_what_is_no_classification_is_an_error(tiny: Tiny, outputs, targets, problem) -> None:
    trainer = tiny.build("callbacks=[Mistakes]")

    class Batch:
        data = (None, targets)
        indices = np.arange(2)

    with pytest.raises(UsageError, match=problem):
        trainer.callbacks[0]._scores(trainer, Batch.data, outputs)


@pytest.mark.parametrize("name", ["PRCurves", "PerClassAccuracy", "Mistakes"])
def test_targets_that_are_all_ignored_draw_nothing(name: str, tiny: Tiny) -> None:
    """255 and -100 are no classes."""
    pytest.importorskip("matplotlib", reason="the extra plots")
    trainer = tiny.build(f"callbacks=[{name}]")
    drawn: list[str] = []
    trainer.reporter = SimpleNamespace(
        shows=True, picture=lambda *a: drawn.append(a[0]), text=lambda *a: drawn.append(a[0]), details=lambda *a: None
    )
    (callback,) = trainer.callbacks
    outputs = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    batch = SimpleNamespace(data=(torch.zeros(6, 1, 8, 8), torch.tensor([255, -100] * 3)), indices=np.arange(6))
    trainer.evaluating = "validation"
    with callback.during_eval(trainer):
        callback.after_eval_batch(trainer, batch, outputs)
    assert drawn == []
    trainer.run.close()
