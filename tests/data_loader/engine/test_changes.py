"""What a callback changes in a data set: read by the next step, with any number of workers, and after a resume."""

import itertools
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

import data_loader.data_loaders
import trainer.callbacks.ema
from data_loader import BaseDataLoader
from data_loader.engine.changes import Snapshot
from data_loader.engine.reachable import reachable
from tests.slow import slow_but
from tests.tiny import tiny

__all__ = ["tiny"]
N = 20


class Scale:
    def __init__(self) -> None:
        self.factor = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.factor


class Doubled:
    def __call__(self, x: Tensor) -> Tensor:
        return x * 2


class Curriculum(Dataset):
    level = 0

    def __init__(self) -> None:
        self.difficulty = 1
        self.transform: Any = Scale()
        self.levels = [1, 2, 3]
        self.options = {"shift": 0}
        self.offsets = torch.zeros(N)
        self.labels = np.zeros(N)
        self.files = [[i] for i in range(200)]
        self.log = logging.getLogger("curriculum")
        self.settings = SimpleNamespace(bias=0)
        self.handle: Any = None

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x = self.difficulty * 1000 + self.level * 100 + sum(self.levels) + self.options["shift"] + self.files[7][0]
        x += self.settings.bias
        return self.transform(torch.ones(64) * x) + self.offsets[i] + float(self.labels[i]), i % 10


class Shifted(Curriculum):
    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return super().__getitem__(i)[0] + 0.25, i % 10


def halved(samples: list[Any]) -> Any:
    return torch.stack([x / 2 for x, _ in samples]), torch.tensor([y for _, y in samples])


def set_level(data: Curriculum) -> None:
    Curriculum.level = 5


def first(x: Any) -> Any:
    return x[0]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a number": lambda data: setattr(data, "difficulty", 2),
    "an attribute of its class, in the instance": lambda data: setattr(data, "level", 3),
    "an attribute of its class": set_level,
    "in a transform": lambda data: setattr(data.transform, "factor", 3.0),
    "another transform": lambda data: setattr(data, "transform", Doubled()),
    "an item of a list": lambda data: data.levels.__setitem__(1, 7),
    "one more item of a list": lambda data: data.levels.append(4),
    "an item of a dict": lambda data: data.options.update(shift=3),
    "a tensor, in place": lambda data: data.offsets.add_(1),
    "in a namespace": lambda data: setattr(data.settings, "bias", 3),
    "another object": lambda data: setattr(data, "settings", SimpleNamespace(bias=5)),
    "another tensor": lambda data: setattr(data, "offsets", torch.ones(N)),
}
OF_THE_LOADER: dict[str, Callable[[Any], Any]] = {
    "another data set": lambda loader: setattr(loader, "dataset", Shifted()),
    "another collate_fn": lambda loader: setattr(loader, "collate_fn", halved),
}
AT_EPOCHS: dict[str, Callable[[Any], Any]] = {
    "an array, in place": lambda data: np.add(data.labels, 1, out=data.labels),
    "a long list": lambda data: data.files.__setitem__(7, [9]),
}


def read(workers: int, change: Callable[[Any], Any], at: int, wrapped: bool = False) -> list[Any]:
    """The batches of two epochs of 4 steps, then two passes; `change` comes after step `at`."""
    data = Curriculum()
    loader = BaseDataLoader(Subset(data, range(N)) if wrapped else data, 5, num_workers=workers)
    stream = loader.iter_steps(0)
    batches = []
    for step in range(8):
        batches.append(next(stream).data)
        if step == at:
            change(loader if change in OF_THE_LOADER.values() else data)
    stream.close()
    batches += [batch.data for batch in loader.iter_epoch(keep=True)]
    data.difficulty += 4  # kept workers see that too
    batches += [batch.data for batch in loader.iter_epoch(keep=True)]
    loader.close()
    return batches


CASES = [*((name, False) for name in CHANGES | OF_THE_LOADER), ("a number", True)]
FAST = ("a number", "in a transform", "a tensor, in place", "another data set")


@pytest.mark.parametrize("name, wrapped", slow_but(lambda name, _: name in FAST, CASES))
def test_the_next_step_is_read_with_it(name: str, wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for workers in (0, 2):
        monkeypatch.setattr(Curriculum, "level", 0)
        results.append(read(workers, (CHANGES | OF_THE_LOADER)[name], 2, wrapped))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert len({float(x[0, 0]) for x, _ in results[0]}) > 1


@pytest.mark.parametrize("name", AT_EPOCHS)
def test_the_next_epoch_is_read_with_what_changed_inside_an_array(name: str) -> None:
    without, within = read(0, AT_EPOCHS[name], 3), read(2, AT_EPOCHS[name], 3)
    for a, b in zip(without, within, strict=True):
        assert torch.equal(a[0], b[0])


def test_each_change_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = Curriculum()
    stream = BaseDataLoader(data, 5, num_workers=1).iter_steps(0)
    for step in range(6):
        next(stream)
        data.difficulty = step // 2
    stream.close()
    assert [record.getMessage() for record in caplog.records] == [
        "data_loader: dataset.difficulty was changed (1 -> 0): the workers were started again with it"
    ]


def test_what_samples_do_not_depend_on_starts_no_worker_again(caplog: pytest.LogCaptureFixture) -> None:
    """A file that is opened late; a log; the loader itself, where collate_fn is a method of it."""
    caplog.set_level(logging.INFO)

    class Loader(BaseDataLoader):
        def __init__(self) -> None:
            super().__init__(Curriculum(), 5, num_workers=1, collate_fn=self.collate)

        def collate(self, samples: list[Any]) -> Any:
            return torch.stack([x for x, _ in samples])

    loader = Loader()
    passes = loader.iter_steps(0)
    for _ in range(3):
        next(passes)
        loader.dataset.handle = loader.dataset.handle or open(__file__)  # noqa: SIM115
        loader.dataset.log.warning("a line")
        list(loader.iter_epoch(keep=True))
    passes.close()
    loader.dataset.handle.close()
    loader.close()
    assert not [record for record in caplog.records if "started again" in record.getMessage()]


def test_the_state_holds_what_changed_and_names_what_it_cannot(caplog: pytest.LogCaptureFixture) -> None:
    data = Curriculum()
    state = BaseDataLoader(data, 5).data_state()
    assert state.state_dict() == {}
    data.difficulty, data.levels[0], data.options["shift"], data.transform.factor = 3, 9, 4, 0.5
    saved = state.state_dict()
    assert saved == {
        "dataset": {"difficulty": 3},
        "dataset.levels": [9, 2, 3],
        "dataset.options": {"shift": 4},
        "dataset.transform": {"factor": 0.5},
    }
    assert not caplog.records
    other = Curriculum()
    BaseDataLoader(other, 5).data_state().load_state_dict(saved)
    assert (other.difficulty, other.levels, other.options, other.transform.factor) == (3, [9, 2, 3], {"shift": 4}, 0.5)
    data.labels += 1
    data.transform = Doubled()
    state.state_dict(), state.state_dict()
    assert [record.getMessage().split(" was")[0] for record in caplog.records] == [
        "data_loader: dataset.transform",
        "data_loader: dataset.labels",
    ]


def test_a_snapshot_is_quick() -> None:
    import timeit

    snapshot = Snapshot(BaseDataLoader(Curriculum(), 5))
    assert min(timeit.repeat(snapshot.changes, number=100, repeat=5)) / 100 < 200e-6
    assert sum(1 for _ in reachable(Curriculum())) < 500


# --- in a run


class CurriculumDataLoader(BaseDataLoader):
    def __init__(self, batch_size: int, training: bool = True, **kwargs: Any) -> None:
        super().__init__(Curriculum(), batch_size, **kwargs)


class Harder:
    """A curriculum that keeps nothing of its own: it only acts at the end of the second epoch, and in one step."""

    def after_epoch(self, trainer: Any, values: Any) -> None:
        if trainer.step == 2 * trainer.steps_per_epoch:
            trainer.data_loader.dataset.difficulty = 2

    def after_step(self, trainer: Any) -> None:
        if trainer.step == 2:
            trainer.data_loader.dataset.transform.factor = 0.5


def test_a_curriculum_is_the_same_with_workers_and_after_a_resume(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_loader.data_loaders, "CurriculumDataLoader", CurriculumDataLoader, raising=False)
    monkeypatch.setattr(trainer.callbacks.ema, "Harder", Harder, raising=False)
    given = (
        "data_loader={type: CurriculumDataLoader, args: {batch_size: 5, validation_split: 5}}",
        "callbacks=[Harder]",
        "trainer.epochs=4",
        "trainer.limit_batches=null",
        "trainer.log_steps=1",
        "trainer.keep_last=9",
        "optimizer.args.lr=1e-6",
    )
    tiny.train(*given, run="a")
    tiny.train(*given, "data_loader.args.num_workers=2", run="b")
    tiny.train(*given, "trainer.epochs=3", run="c")
    tiny.train(*given, run="c")
    tiny.train(*given, "data_loader.args.num_workers=2", run="c2", checkpoint=None)
    for split in ("train", "valid"):
        assert tiny.points(split, "a") == tiny.points(split, "b") == tiny.points(split, "c") == tiny.points(split, "c2")
    assert tiny.load("checkpoint-step12.pth", "a")["data_state"] == {
        "dataset": {"difficulty": 2},
        "dataset.transform": {"factor": 0.5},
    }
    losses = [point["loss"] for point in tiny.points("train", "a")]
    assert len(set(losses)) > 1


def test_a_resume_begins_with_the_changed_data(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkpoint in the middle: nothing of the callback's runs again before the next step is read."""
    monkeypatch.setattr(data_loader.data_loaders, "CurriculumDataLoader", CurriculumDataLoader, raising=False)
    monkeypatch.setattr(trainer.callbacks.ema, "Harder", Harder, raising=False)
    given = (
        "data_loader={type: CurriculumDataLoader, args: {batch_size: 5}}",
        "callbacks=[Harder]",
        "trainer.epochs=3",
        "trainer.limit_batches=null",
    )
    whole = tiny.train(*given, run="a")
    again = tiny.build(*given, run="a", checkpoint="checkpoint-step8.pth")
    from trainer.checkpoint import files, state

    path = tiny.folder / "a/checkpoints/checkpoint-step8.pth"
    state.restore(again, files.load(path), path)
    assert whole.data_loader.dataset.difficulty == again.data_loader.dataset.difficulty == 2
    assert again.data_loader.dataset.transform.factor == 0.5
    a, b = (next(itertools.islice(t.data_loader.iter_steps(8), 1)).data[0] for t in (whole, again))
    assert torch.equal(a, b)
