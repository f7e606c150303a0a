"""The reporter: what it writes, and that it can be muted."""

import contextlib
import json
import logging

import pytest

from logger import reporter as reporters
from logger.reporter import Reporter


@pytest.fixture
def reporter(tmp_path):
    reporter = Reporter(verbosity=1, writers=[], max_steps=10, steps_per_epoch=5)
    reporter.open(tmp_path, {}, {})
    yield reporter
    reporter.close()


def report_all(reporter, step):
    """Everything that a step may report."""
    reporter.start_epoch(step)
    reporter.step(samples=7)
    reporter.train_point(step + 1, {"loss": 1.0})
    reporter.values("valid", step + 1, {"loss": 2.0})
    reporter.summary(step + 1, {"val_loss": 2.0}, end_of_epoch=False, best="val_loss")
    reporter.progress.start("validation", 3, delay=0)
    reporter.progress.step()


def test_muted_reports_nothing_and_restores_all(reporter, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    progress = reporter.progress
    report_all(reporter, 0)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert len(before.splitlines()) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "  step  1/10  loss 1.0000",
        "  step  1/10  val_loss 2.0000 best",
    ]
    caplog.clear()
    log_txt = (tmp_path / "log.txt").read_bytes()
    reporter.step(samples=3)
    with contextlib.suppress(ZeroDivisionError), reporter.muted():
        assert reporter.progress is not progress
        reporter.start(0)
        report_all(reporter, 1)
        reporter.inputs(object())
        raise ZeroDivisionError
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert (tmp_path / "log.txt").read_bytes() == log_txt
    assert caplog.records == []
    assert reporter.progress is progress
    assert reporter._interval_samples == 3
    assert reporter.sizes() == {"metrics.jsonl": len(before)}
    report_all(reporter, 1)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 1, 2, 2]


def test_muted_time_does_not_count(reporter, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = [100.0]
    monkeypatch.setattr(reporters.time, "perf_counter", lambda: now[0])
    reporter.start(0)
    for step in range(5):
        reporter.step(samples=10)
        now[0] += 2
        if step == 2:
            with reporter.muted():
                now[0] += 1000
    reporter.train_point(5, {"loss": 1.0})
    reporter.summary(5, {"loss": 1.0}, end_of_epoch=True)
    assert caplog.records[-1].speed == "  5 samples/s  0:10 left"


def test_the_numbers_of_a_point(reporter, tmp_path):
    reporter.values("valid", 10, {"loss": 0.25})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 10,
        "epoch": 2,
        "split": "valid",
        "loss": 0.25,
    }
    assert [reporter.epoch(step) for step in (0, 1, 5, 6, 10)] == [1, 1, 1, 2, 2]
