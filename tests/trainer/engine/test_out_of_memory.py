"""Out of memory in a step: run again in smaller micro-batches, to the bits of a run that has them from the start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import model.model
from tests.tiny import Tiny, tiny
from tests.trainer.parallel.ranks import on_ranks, trained
from trainer.checkpoint import resume
from trainer.engine.out_of_memory import is_out_of_memory
from utils.errors import Stopped

__all__ = ["tiny"]
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore.")


class Small(nn.Module):
    """Batch norm, dropout and a count; then there is memory for `room` samples, from step `since` on."""

    room, since, steps = 14, 0, 0  # of the test, not of the model

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(64), nn.Dropout(0.2)
        self.head = nn.Linear(64, 10)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(x.flatten(1)))
        if self.training:
            self.seen = self.seen + len(x)  # another tensor each time
        if self.training and len(x) > Small.room and Small.steps >= Small.since:
            raise FULL
        return self.head(x)


class Count:
    def after_step(self, trainer: Any) -> None:
        Small.steps = trainer.step


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer.callbacks

    monkeypatch.setattr(model.model, "Small", Small, raising=False)
    monkeypatch.setattr(trainer.callbacks, "Count", Count, raising=False)
    for name, value in (("room", 14), ("since", 0), ("steps", 0)):
        monkeypatch.setattr(Small, name, value)


KEYS = ["arch=Small", "callbacks=[Count]", "optimizer.args.momentum=0.9", "trainer.log_steps=1"]


def on_a_gpu(tiny: Tiny, *keys: str, run: str = "run") -> Any:
    """Train as on a GPU, where the step is run again."""
    trainer = tiny.build(*KEYS, *keys, run=run)
    trainer.out_of_memory.active = True
    try:
        if resume.start(trainer):
            trainer.train()
    finally:
        trainer.run.close()
    return trainer


def same(one: Any, two: Any) -> bool:
    a, b = one.model.state_dict(), two.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "room, pieces, workers",
    [(14, 2, 0), pytest.param(14, 2, 1, marks=pytest.mark.slow), pytest.param(9, 4, 0, marks=pytest.mark.slow)],
)
def test_from_the_first_step_it_is_the_run_with_accumulation(tiny: Tiny, room: int, pieces: int, workers: int) -> None:
    Small.room = 28
    expected = tiny.train(*KEYS, f"trainer.accumulate={pieces}", run="expected")
    Small.room = room
    done = on_a_gpu(tiny, f"data_loader.args.num_workers={workers}")
    assert same(done, expected)
    assert tiny.points("train") == tiny.points("train", "expected")
    assert tiny.points("valid") == tiny.points("valid", "expected")
    assert tiny.log().count("out of memory in step 1: running it again in 2 micro-batches") == 1
    assert tiny.log().count("out of memory") == pieces // 2


def test_statistics_of_layers_count_such_a_step_once(tiny: Tiny) -> None:
    keys = ["callbacks=[Count, {type: LayerStatistics, args: {every: 1}}]", "trainer.max_steps=2"]
    Small.room = 28
    tiny.train(*KEYS, *keys, "trainer.accumulate=2", run="expected")
    Small.room = 14
    on_a_gpu(tiny, *keys)
    assert tiny.points("layers") == tiny.points("layers", "expected")


@pytest.mark.slow
def test_from_a_later_step_it_is_a_run_that_continues_with_accumulation(tiny: Tiny) -> None:
    Small.room = 28
    tiny.train(*KEYS, "trainer.max_steps=4", run="expected")
    expected = tiny.train(*KEYS, "trainer.accumulate=2", run="expected")
    Small.room, Small.since, Small.steps = 14, 4, 0
    done = on_a_gpu(tiny)
    assert same(done, expected)
    assert tiny.points("train") == tiny.points("train", "expected")


def test_a_resume_goes_on_with_it(tiny: Tiny) -> None:
    Small.since = 2
    whole = on_a_gpu(tiny, "trainer.save_steps=1", run="whole")
    Small.steps = 0
    on_a_gpu(tiny, "trainer.max_steps=5")
    assert tiny.load("checkpoint-step5.pth")["out_of_memory"] == {"configured": 1, "accumulate": 2}
    Small.room = 28
    resumed = on_a_gpu(tiny)
    assert same(whole, resumed)
    assert tiny.points("train") == tiny.points("train", "whole")
    assert "trainer.accumulate: 2 from here on, as memory ran out" in tiny.log()
    assert "not bit-exact" not in tiny.log()
    again = tiny.build(*KEYS, "trainer.accumulate=4")  # what the config asks for today
    again.out_of_memory.active = True
    again.out_of_memory.load_state_dict({"configured": 1, "accumulate": 2})
    assert again.data_loader.sampler.accumulate == 4


def test_where_it_cannot_be_run_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    Small.room = 0
    with pytest.raises(Stopped, match=r"out of memory in step 1: CUDA.*\nEven one sample at a time is too much"):
        on_a_gpu(tiny, run="alone")
    with pytest.raises(Stopped, match=r"out of memory in step 1: CUDA.*\nSet trainer.accumulate=2"):
        tiny.train(*KEYS, run="cpu")
    Small.room = 28
    trainer = tiny.build(*KEYS, run="late")
    trainer.out_of_memory.active = True

    def full(*_: Any) -> None:
        raise FULL

    monkeypatch.setattr(trainer.optimizer, "step", full)  # some weights may have changed
    with pytest.raises(Stopped, match=r"in the update of step 1: CUDA.*\n.*an optimizer with less state, such as SGD"):
        trainer.train()


class Full:
    def __init__(self, when: str) -> None:
        self.when = when

    def after_step(self, trainer: Any) -> None:
        if self.when == "after step 1":
            raise FULL

    def after_eval_batch(self, trainer: Any, batch: Any, outputs: Any) -> None:
        raise FULL


@pytest.mark.parametrize(
    "where, advice",
    [
        ("after step 1", "EMA and SWA keep a copy"),
        ("in an evaluation after step 6", "Give the validation data a smaller"),
    ],
)
def test_outside_of_a_step_it_gives_other_advice(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, where: str, advice: str
) -> None:
    monkeypatch.setattr("trainer.callbacks.Full", Full, raising=False)
    with pytest.raises(Stopped, match=rf"out of memory {where}: CUDA.*\n.*{advice}"):
        tiny.train(f"callbacks=[{{type: Full, args: {{when: {where}}}}}]")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "MPS backend out of memory (MPS allocated: 17.98 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail at x.cpp] . DefaultCPUAllocator: can't allocate memory: ...",
    ],
)
def test_texts_of_out_of_memory(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text))


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(FULL)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def on_two(folder: Path) -> None:
    vars(model.model)["Small"] = Small
    trained(["arch=Small"], folder)


@pytest.mark.slow
def test_on_several_ranks_it_says_what_to_set(tmp_path: Path) -> None:
    assert on_ranks(2, on_two, tmp_path) == [3, 3]
    text = (tmp_path / "run/log.txt").read_text()
    assert "out of memory in step 1: CUDA out of memory" in text
    assert "Set trainer.accumulate=2" in text
