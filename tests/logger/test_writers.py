"""The key `logger`: which writers a run has, that they are called right, and what happens when one fails."""

import csv
import importlib.util
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import logger.writer
from logger import background
from logger.background import Background
from logger.csv import CSV
from logger.default_writers import default_writers
from logger.flat import flat
from logger.tensorboard import TensorBoard
from logger.writer import RunInfo, Writer, id_of, lacking
from tests.tiny import Tiny, tiny
from tests.trainer.checkpoint.harness import House, at_step, config, die
from utils.config.files import ConfigError
from utils.errors import UsageError

__all__ = ["tiny"]


class Recorder(Writer):
    """Keeps what it is given; a user's own writer."""

    def __init__(self, fail: int = 0, **kwargs):
        self.calls: list[tuple] = []
        self.fail = fail
        self.threads: set[str] = set()

    def open(self, run):
        self.calls.append(("open", run.name, run.step))

    def scalars(self, step, epoch, split, values):
        self.threads.add(threading.current_thread().name)
        if self.fail:
            self.fail -= 1
            raise ConnectionError("no server")
        self.calls.append((split, step, dict(values)))

    def text(self, name, text, step):
        self.calls.append((name, text, step))

    def catch_up(self, points):
        self.calls.append(("catch_up", len(points)))

    def close(self):
        self.calls.append(("close",))


class InBackground(Recorder):
    background = True


@pytest.fixture
def recorder(monkeypatch):
    """The writer `Recorded`, as if it were defined in a file of logger/."""
    made = []

    class Recorded(Recorder):
        def __init__(self, tag: str = ""):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(logger.writer, "Recorded", Recorded, raising=False)
    return made


# -- which writers ----------------------------------------------------------------------------------------------------


def kinds(tiny: Tiny, *overrides: str) -> list[type]:
    return [type(writer) for writer in tiny.build(*overrides).reporter._given]


def test_tensorboard_is_the_default_and_trainer_tensorboard_the_switch(tiny):
    assert kinds(tiny, "trainer.tensorboard=true") == [TensorBoard]
    assert kinds(tiny) == []  # tiny has trainer.tensorboard: false
    assert kinds(tiny, "logger=null", "trainer.tensorboard=true") == [TensorBoard]


def test_logger_lists_the_writers_in_any_case(tiny):
    assert kinds(tiny, "logger=[tensorboard,csv]") == [TensorBoard, CSV]
    assert kinds(tiny, "logger=csv", "trainer.tensorboard=true") == [CSV]
    assert kinds(tiny, "logger=[]", "trainer.tensorboard=true") == []
    assert kinds(tiny, "logger=[{type: CSV}]") == [CSV]


@pytest.mark.parametrize(
    "given, expected",
    [
        ("logger=[tensorbord]", "unknown name 'tensorbord' (did you mean 'TensorBoard'?)"),
        ("logger=[Reporter]", "expected a class derived from logger.writer.Writer"),
        ("logger=[{type: csv, args: {path: x}}]", "unknown argument 'path'"),
        ("logger=[csv, CSV]", "csv is listed twice"),
        ("logger=7", "got 7, expected a list, each entry NAME or {type: NAME, args: {...}} or null"),
    ],
)
def test_wrong_ones_are_found_before_anything_starts(tiny, given, expected):
    with pytest.raises(ConfigError) as e:
        tiny.build(given)
    assert expected in str(e.value)


@pytest.mark.parametrize("name, library", [("wandb", "wandb"), ("trackio", "trackio"), ("mlflow", "mlflow")])
def test_an_absent_library_names_its_extra(tiny, monkeypatch, name, library):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == library else real(n, *a))
    with pytest.raises(ConfigError, match=f"needs {library}, which is not installed: make extra NAME={library}"):
        tiny.build(f"logger=[{name}]")
    assert not list(tiny.folder.iterdir())
    assert library not in sys.modules or library == "wandb"


def test_a_folder_of_the_librarys_name_is_no_library(tiny, monkeypatch, tmp_path):
    """W&B makes a folder wandb/, which Python takes for a package."""
    (tmp_path / "trackio_").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(CSV, "libraries", {"trackio_": "trackio"})
    with pytest.raises(ConfigError, match="needs trackio_"):
        tiny.build("logger=[csv]")


# -- what they get ----------------------------------------------------------------------------------------------------


def test_a_writer_of_ones_own(tiny, recorder):
    tiny.train("logger=[{type: Recorded, args: {tag: x}}]", "trainer.epochs=1")
    calls = recorder[0].calls
    points = [(split, p["step"], {n: v for n, v in p.items() if n not in ("step", "epoch", "split")})
              for split in ("train", "valid") for p in tiny.points(split)]  # fmt: skip
    assert [call for call in calls if call[0] in ("train", "valid")] == sorted(points, key=lambda p: (p[1], p[0]))
    assert calls[0] == ("open", "tiny", 0)
    assert calls[-1] == ("close",)
    tiny.train("logger=[Recorded]", "trainer.epochs=2")
    assert recorder[1].calls[:2] == [("open", "tiny", 6), ("catch_up", 3)]


def test_only_rank_0_opens_them(tiny, recorder, monkeypatch):
    trainer = tiny.build("logger=[Recorded]")
    trainer.run.folder.mkdir(parents=True)
    trainer.rank = 1
    trainer.open(None)
    trainer.reporter.train_point(1, {"loss": 1.0})
    assert recorder[0].calls == []
    assert list(trainer.run.folder.iterdir()) == []


def test_a_writer_that_cannot_start_ends_the_run_before_its_first_step(tiny, recorder, monkeypatch):
    monkeypatch.setattr(Recorder, "open", lambda self, run: 1 / 0)
    with pytest.raises(UsageError, match="logger: Recorded could not start: division by zero; correct"):
        tiny.train("logger=[Recorded]")


# -- in a thread ------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(background, "WAITS", (0.0, 0.0))


def opened(writer, points=()):
    threaded = Background(writer, lambda: list(points))
    threaded.open(RunInfo(Path("t/r")))
    return threaded


def test_no_step_waits_for_a_slow_tracker(tmp_path):
    class Slow(InBackground):
        def scalars(self, *args):
            time.sleep(0.05)
            super().scalars(*args)

        def open(self, run):
            pass

    slow = Slow()
    writer = opened(slow)
    start = time.perf_counter()
    for step in range(4):
        writer.scalars(step, 1, "train", {"loss": 1.0})
    assert time.perf_counter() - start < 0.04
    writer.close()
    assert [call[1] for call in slow.calls[:-1]] == [0, 1, 2, 3]
    assert slow.calls[-1] == ("close",)
    assert slow.threads == {"logger-Slow"}


def test_a_failed_call_is_tried_again(impatient, tmp_path, caplog):
    recorder = InBackground(fail=2)
    writer = opened(recorder)
    recorder.calls.clear()
    writer.scalars(1, 1, "train", {"loss": 1.0})
    writer.scalars(2, 1, "train", {"loss": 2.0})
    writer.close()
    assert [call[1] for call in recorder.calls[:-1]] == [1, 2]
    assert caplog.records == []


def test_what_failed_for_good_is_sent_at_the_end_and_the_run_goes_on(impatient, caplog):
    recorder = InBackground(fail=3)
    writer = opened(recorder, points=[{"step": 1}])
    recorder.calls.clear()
    writer.scalars(1, 1, "train", {"loss": 1.0})
    writer.scalars(2, 1, "train", {"loss": 2.0})
    writer.close()
    assert recorder.calls == [("train", 2, {"loss": 2.0}), ("catch_up", 1), ("close",)]
    assert [record.getMessage() for record in caplog.records] == [
        "logger: InBackground: scalars failed: ConnectionError: no server; the run goes on, and metrics.jsonl has it "
        "all",
        "logger: InBackground works again; no point is missing",
    ]


def test_a_writer_that_cannot_catch_up_does_not_say_so(impatient, caplog):
    class Forgetful(InBackground):
        catch_up = Writer.catch_up

    writer = opened(Forgetful(fail=3), points=[{"step": 1}])
    writer.scalars(1, 1, "train", {"loss": 1.0})
    writer.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# -- helpers ----------------------------------------------------------------------------------------------------------


def test_lacking():
    points = [
        {"step": 1, "epoch": 1, "split": "train", "loss": 1.0},
        {"step": 1, "epoch": 1, "split": "valid", "loss": 1.0},
        {"step": 2, "epoch": 1, "split": "train", "loss": 1.0},
        {"step": 2, "epoch": 1, "split": "train"},
    ]
    has = {"train/loss": {1}, "valid/loss": set()}
    assert lacking(points, lambda key: has[key]) == [points[1], points[2]]


def test_flat():
    config = {"a": {"b": 1, "c": {}}, "m": [{"type": "x"}, {"type": "y"}], "l": [1, 2], "n": None}
    assert flat(config) == {"a.b": 1, "a.c": {}, "m.0.type": "x", "m.1.type": "y", "l": [1, 2], "n": None}


def test_the_id_stays(tmp_path):
    first = id_of(tmp_path)
    assert (len(first), id_of(tmp_path)) == (16, first)
    (tmp_path / ".tracker-id").write_bytes(b"\xff../x")
    assert id_of(tmp_path) != first


def test_without_the_file_of_tensorboard_there_is_no_default(monkeypatch):
    monkeypatch.setitem(sys.modules, "logger.tensorboard", None)  # as if it were deleted
    assert default_writers(True) == []


# -- CSV --------------------------------------------------------------------------------------------------------------


def rows(path):
    with open(path, newline="") as file:
        return [(int(r["step"]), int(r["epoch"]), r["split"], r["name"], r["value"]) for r in csv.DictReader(file)]


def test_csv_after_kills_is_metrics_jsonl(tmp_path):
    spec = config(logger=["csv"], trainer__monitor="min val_loss", trainer__save_steps=4)
    house, whole = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    whole.train()
    for step in (3, 11, 15):  # with points after the last checkpoint
        house.train(patch=at_step(step, die), code=137)
    house.train()
    points = [json.loads(line) for line in house.metrics().splitlines()]
    expected = {(p["step"], p["epoch"], p["split"], n): v for p in points for n, v in p.items()
                if n not in ("step", "epoch", "split")}  # fmt: skip
    found = rows(house.run / "metrics.csv")
    plain = [row for row in found if row[3] != "samples_per_s"]
    assert {row[:4]: float(row[4]) for row in plain} == expected
    assert len(plain) == len(expected)
    assert house.metrics() == whole.metrics()
    assert len({row[:4] for row in found}) == len(found)


def test_csv_quotes_names_and_leaves_nan_empty(tmp_path):
    writer = CSV()
    writer.cut(tmp_path, {}, {})
    writer.open(RunInfo(tmp_path))
    writer.scalars(1, 1, "valid", {'a,"b"': 0.1, "nan": float("nan")})
    assert rows(tmp_path / "metrics.csv") == [(1, 1, "valid", 'a,"b"', "0.1"), (1, 1, "valid", "nan", "")]


def test_csv_writes_what_a_full_disk_did_not_take(tmp_path):
    CSV().cut(tmp_path, {}, {})
    writer = CSV()
    writer.cut(tmp_path, {}, {"metrics.csv": b"step,epoch,split,name,value\n1,1,train,loss,2.0\n"})
    writer.open(RunInfo(tmp_path))
    assert rows(tmp_path / "metrics.csv") == [(1, 1, "train", "loss", "2.0")]


# -- the test result --------------------------------------------------------------------------------------------------


def test_the_test_result_is_in_every_writer_and_a_resume_keeps_it(tiny, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    from trainer.engine.evaluation import test_report

    tiny.train("logger=[tensorboard, csv]", "trainer.epochs=1")
    path = tiny.folder / "run/checkpoints/checkpoint-step6.pth"
    saved = test_report.load(path, [])[1]
    values = tiny.tested(path)
    trainer = tiny.build("logger=[tensorboard, csv]", run="other")
    trainer.evaluate = lambda *_: values
    trainer.data_loader.sampler.n = 1
    test_report.report(trainer, saved, path)
    tiny.train("logger=[tensorboard, csv]", "trainer.epochs=2")
    events = EventAccumulator(str(tiny.folder / "run/test"))
    events.Reload()
    assert [(p.step, p.value) for p in events.Scalars("loss")] == [(6, np.float32(values["loss"]))]
    tests = [row for row in rows(tiny.folder / "run/metrics.csv") if row[2] == "test"]
    assert [(row[0], row[3], float(row[4])) for row in tests] == [(6, name, value) for name, value in values.items()]


def test_a_writer_that_cannot_show_the_test_result_is_warned_of(tmp_path, monkeypatch, caplog):
    from logger.reporter import Reporter

    monkeypatch.setattr(Recorder, "open", lambda self, run: 1 / 0)
    reporter = Reporter(0, [], 1, 1)
    reporter.open_for_test([Recorder(), CSV()], RunInfo(tmp_path))
    reporter.test_result(5, 1, {"loss": 1.0})
    reporter.close()
    [record] = caplog.records
    assert record.getMessage() == "logger: Recorder does not show the test result: ZeroDivisionError: division by zero"
    assert rows(tmp_path / "metrics.csv") == [(5, 1, "test", "loss", "1.0")]
