"""metrics.jsonl after a kill: each point exactly once."""

import json

from logger.metrics_jsonl import FILE_NAME, MetricsJsonl


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / FILE_NAME).read_text().splitlines()]


def write(folder, *steps, split="train"):
    writer = MetricsJsonl(folder)
    for step in steps:
        writer.scalars(step, 1, split, {"loss": 0.5})
    return writer


def test_a_resume_drops_later_points_and_keeps_test_results(tmp_path):
    size = write(tmp_path, 1, 2).file.size
    write(tmp_path, 3)
    write(tmp_path, 4, split="test")
    with open(tmp_path / FILE_NAME, "a") as file:
        file.write('{"step": 5, "spl')  # a kill in the middle of a line
    MetricsJsonl(tmp_path).cut({FILE_NAME: size}, {})
    assert steps(tmp_path) == [1, 2, 4]


def test_a_resume_writes_what_the_disk_had_not_taken(tmp_path):
    size = write(tmp_path, 1).file.size
    write(tmp_path, 2)
    MetricsJsonl(tmp_path).cut({FILE_NAME: size}, {FILE_NAME: b'{"step": 7}\n'})
    assert steps(tmp_path) == [1, 7]


def test_points_that_are_gone_are_reported(tmp_path, caplog):
    size = write(tmp_path, 1, 2).file.size
    (tmp_path / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes()[: size - 20])
    MetricsJsonl(tmp_path).cut({FILE_NAME: size}, {})
    assert steps(tmp_path) == [1]
    assert "20 bytes that the checkpoint knows are missing, and the points in them" in caplog.text


def test_nan_and_infinity_are_null(tmp_path):
    """JSON has neither; strict readers would reject the line."""
    values = {"loss": float("nan"), "a": float("inf"), "b": -float("inf"), "c": 0.5}
    MetricsJsonl(tmp_path).scalars(1, 1, "train", values)
    line = (tmp_path / FILE_NAME).read_text()
    assert line == '{"step": 1, "epoch": 1, "split": "train", "loss": null, "a": null, "b": null, "c": 0.5}\n'
