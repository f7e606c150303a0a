"""The report on runs: numbers, tables, comparisons, a page that needs nothing else."""

import json
import math
import re
import statistics
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from logger.report import outputs, page, paired, picture, svg, table
from logger.report.__main__ import main
from logger.report.runs import BrokenRun, Run, find, read
from logger.report.settings import Metric, as_text, settings, short_names
from tests.tiny import tiny
from utils.errors import UsageError

__all__ = ["tiny"]
ROOT = Path(__file__).resolve().parents[3]
LOG = """2026-01-01 10:00:00  MLP: 1,210 parameters
2026-01-01 10:00:00  training in saved/demo/a
2026-01-01 10:00:30  epoch 1/2  step  5  loss 1.0000  1,000 samples/s  0:30 left
2026-01-01 10:02:00  continuing in saved/demo/a from step 5
2026-01-01 10:02:10  epoch 2/2  step 10  loss 0.5000  3,000 samples/s
2026-01-01 10:02:10  time: 12.5 s  forward 50%  backward 50%
2026-01-01 10:02:10  finished at step 10
"""


def make(folder: Path, accuracies: list[float], log: str = LOG, **config: Any) -> Path:
    """A run with a validation of these accuracies each five steps, and two training points before each."""
    folder.mkdir(parents=True)
    whole = {"name": "demo", "seed": 1, "trainer": {"monitor": "max val_accuracy"}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    points = []
    for epoch, accuracy in enumerate(accuracies, start=1):
        for step, loss in ((5 * epoch - 1, 1.0), (5 * epoch, 2.0)):
            points.append({"step": step, "epoch": epoch, "split": "train", "loss": loss / epoch, "lr": 0.1})
        points.append({"step": 5 * epoch, "epoch": epoch, "split": "valid", "loss": 1 / epoch, "accuracy": accuracy})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    (folder / "log.txt").write_text(log)
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two settings of `demo` with three seeds each, and one run of `other`."""
    for lr, values in ((0.1, (0.5, 0.6, 0.7)), (0.2, (0.7, 0.8, 0.9))):
        for seed, value in enumerate(values, start=1):
            folder = tmp_path / "demo" / f"{lr}-{seed}"
            make(folder, [0.1, value, value - 0.1], seed=seed, optimizer={"type": "SGD", "args": {"lr": lr}})
    make(tmp_path / "other/run", [0.3, 0.2], name="other", trainer={"monitor": "min val_loss"})
    return tmp_path


def test_a_run(tmp_path):
    run = read(make(tmp_path / "run", [0.2, 0.4, 0.4]))
    assert run.best("max", "val_accuracy") == (0.4, 10)  # the first of equal ones
    assert run.best("min", "val_loss") == (1 / 3, 15)
    assert run.last("val_accuracy") == 0.4
    # four of the five steps of an epoch are before its first point, one before its second
    steps, values = zip(*run.curve("loss"), strict=True)
    assert steps == (5, 10, 15)
    assert values == pytest.approx((1.2, 0.6, 0.4))
    assert run.curve("loss", per_epoch=False)[:2] == [(4, 1.0), (5, 2.0)]
    assert (run.step, run.finished, run.speed, run.seconds) == (15, True, 2000, 30 + 12.5)
    assert run.names() == ["loss", "lr", "val_loss", "val_accuracy"]


def test_the_older_names_of_monitored_values(tmp_path):
    for name, value in {"valid/loss": 0.5, "train/loss": 0.6, "val_loss": 0.5}.items():
        run = read(make(tmp_path / name.replace("/", "_"), [0.2, 0.4], trainer={"monitor": f"min {name}"}))
        assert run.best(*run.monitor()) == pytest.approx((value, 10))


def test_it_agrees_with_the_run_itself(tiny):
    start = time.monotonic()
    trainer = tiny.train("trainer.monitor=max val_accuracy")
    run = read(tiny.folder / "run")
    assert run.best(*run.monitor()) == (trainer.monitor.best, trainer.monitor.best_step)
    losses = [float(value) for value in re.findall(r"epoch \d/2 .*  loss (\S+)", tiny.log())]
    assert [value for _, value in run.curve("loss")] == [pytest.approx(value, abs=5e-5) for value in losses]
    assert run.finished
    assert 0 <= run.seconds <= time.monotonic() - start + 1  # the log has whole seconds
    assert (run.speed or 0) > 0


def test_a_run_that_trains(tmp_path):
    """The last line may be half written; what is in it comes later."""
    folder = make(tmp_path / "run", [0.2], log=LOG.split("2026-01-01 10:02:10")[0])
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "epoch": 2, "sp')
    run = read(folder)
    assert (run.step, run.finished, run.seconds, run.notes) == (5, False, 30, [])
    assert "not finished, step 5" in table.text(*table.run_rows(settings([run], None)))


def test_what_cannot_be_read_is_named(tmp_path, capsys):
    good = make(tmp_path / "good", [0.2, 0.3])
    lines = (good / "metrics.jsonl").read_text().splitlines(keepends=True)
    wrong = ["}{\n", "7\n", '{"split": "train"}\n', '{"step": "7", "epoch": 1, "split": "valid"}\n']
    (good / "metrics.jsonl").write_text("".join([*lines[:2], *wrong, *lines[2:]]))
    make(tmp_path / "no_config", [0.2])
    (tmp_path / "no_config/config.yaml").unlink()
    (make(tmp_path / "wrong", [0.2]) / "config.yaml").write_text("a: [1")
    (make(tmp_path / "empty", [0.2]) / "config.yaml").write_text("")
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"broken, left out: {tmp_path}/no_config: it has no config.yaml\n" in out
    assert f"broken, left out: {tmp_path}/wrong: config.yaml cannot be read: while parsing" in out
    assert f"broken, left out: {tmp_path}/empty: config.yaml is empty or no mapping\n" in out
    assert f"{good}: metrics.jsonl: 4 lines cannot be read and are left out\n" in out
    assert "0.3000" in out
    with pytest.raises(BrokenRun):
        read(tmp_path / "empty")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match="no run there; give a run's folder"):
        find([tmp_path / "nothing", tmp_path / "missing"])


def test_a_run_that_links_lead_to_is_one_run(tmp_path):
    make(tmp_path / "run", [0.5])
    for name in ("latest", "loop"):
        (tmp_path / name).symlink_to(tmp_path / "run" if name == "latest" else tmp_path)
    assert [run.folder.name for run in find([tmp_path, tmp_path / "run", tmp_path / "run/../run"])[0]] == ["run"]


def test_a_setting_is_the_mean_over_seeds(saved):
    found = settings(find([saved / "demo"])[0], None)
    assert [len(setting.runs) for setting in found] == [3, 3]
    assert [setting.config["optimizer.args.lr"] for setting in found] == [0.2, 0.1]  # the best first
    assert found[0].best.mean == pytest.approx(0.8)
    assert found[0].best.sd == pytest.approx(statistics.stdev([0.7, 0.8, 0.9]))
    head, rows = table.rows(found)
    assert head == ["lr", "runs", "val_accuracy", "at step", "last", "time", "samples/s"]
    assert rows[0] == ["0.2", "3", "0.8000 ± 0.1000", "10", "0.7000 ± 0.1000", "42.5 s", "2,000"]
    assert settings(find([saved / "demo"])[0], Metric.of("min val_loss"))[0].best.mean == pytest.approx(1 / 3)


def test_folds_are_repeats_too(tmp_path):
    for fold in range(3):
        make(tmp_path / f"{fold}", [0.1 * fold], data_loader={"type": "A", "args": {"fold": fold, "folds": 3}})
    (setting,) = settings(find([tmp_path])[0], None)
    assert setting.best.values == [0.0, 0.1, 0.2]
    assert table.run_rows([setting])[0][:3] == ["run", "seed", "fold"]


def test_all_names_in_one_table(saved, capsys):
    main([str(saved)])
    lines = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", lines[0]) == [
        "name",
        "what differs",
        "runs",
        "metric",
        "best",
        "at step",
        "last",
        "time",
        "samples/s",
    ]
    assert lines[1].split() == [
        "demo",
        "lr=0.2",
        "3",
        "val_accuracy",
        "0.8000",
        "±",
        "0.1000",
        "10",
        "0.7000",
        "±",
        "0.1000",
        "42.5",
        "s",
        "2,000",
    ]
    assert lines[3].split() == ["other", "1", "val_loss", "0.5000", "10", "0.5000", "42.5", "s", "2,000"]


def test_json(saved, capsys):
    main([str(saved), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["broken"] == {}
    assert len(result["runs"]) == 7
    first = result["settings"][0]
    assert (first["differs"], first["metric"]) == ({"optimizer.args.lr": 0.2}, "max val_accuracy")
    assert first["best"]["values"] == [0.7, 0.8, 0.9]
    assert result["runs"][0]["last"]["val_loss"] == 1 / 3


def test_json_without_numbers(tmp_path, capsys):
    """NaN and infinity are null: JSON has neither."""
    for i, limit in enumerate((math.nan, math.inf, 1.0)):
        make(tmp_path / f"{i}", [math.nan, 0.5], custom={"limit": limit})
    with open(tmp_path / "0/metrics.jsonl", "a") as file:
        file.write('{"step": 15, "epoch": 3, "split": "valid", "accuracy": Infinity}\n')
    main([str(tmp_path), "--json"])
    text = capsys.readouterr().out
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", text))
    settings = json.loads(text)["settings"]
    assert [setting["differs"] for setting in settings] == [{"custom.limit": limit} for limit in (None, None, 1.0)]
    assert [setting["best"]["values"] for setting in settings] == [[0.5]] * 3


def test_short_names():
    keys = ["optimizer.args.lr", "lr_scheduler.args.lr", "arch.args.widths", "seed"]
    assert list(short_names(keys).values()) == ["optimizer.args.lr", "lr_scheduler.args.lr", "widths", "seed"]


def test_the_best_of_a_metric_without_a_direction():
    assert Metric.of("val_loss") == Metric("min", "val_loss")
    assert Metric.of("test_accuracy") == Metric("max", "test_accuracy")
    assert Metric.of("min anything") == Metric("min", "anything")


# -- pairs


def test_a_paired_comparison(tmp_path, capsys):
    """scipy.stats.ttest_rel gives t = 4.2426, p = 0.013236, and 0.03 ± 2.7764 x 0.0070711 for these."""
    for seed, (a, b) in enumerate([(0.5, 0.51), (0.4, 0.42), (0.6, 0.63), (0.5, 0.54), (0.3, 0.35)]):
        make(tmp_path / f"a/{seed}", [a], seed=seed)
        make(tmp_path / f"b/{seed}", [b], seed=seed)
    make(tmp_path / "b/more", [0.9], seed=17)  # is in no pair
    a_runs, b_runs = (find([tmp_path / name])[0] for name in ("a", "b"))
    found = paired.compare(a_runs, b_runs, "seed", None)
    assert found.p == pytest.approx(0.013236, abs=1e-6)
    assert found.interval == pytest.approx((0.03 - 0.019633, 0.03 + 0.019633), abs=1e-5)
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--paired", "seed"])
    assert (
        "B - A of val_accuracy over 5 pairs: +0.0300 ± 0.0158 (sd), 95% interval +0.0104 to +0.0496, "
        "p = 0.013 (paired t-test); B is better in 5 of 5" in capsys.readouterr().out
    )
    assert paired.compare(a_runs, a_runs, "seed", None).p == 1


@pytest.mark.parametrize("degrees, quantile", [(1, 12.7062), (4, 2.77645), (30, 2.04227), (1000, 1.96234)])
def test_students_t(degrees, quantile):
    assert paired._t_quantile(degrees) == pytest.approx(quantile, rel=1e-5)


def test_each_run_is_read_once(tmp_path, monkeypatch, capsys):
    for side in "ab":
        for seed in (1, 2):
            make(tmp_path / f"{side}/{seed}", [0.1 * seed], seed=seed)
    folders: list[Path] = []

    def counted(folder: Path) -> Run:
        folders.append(folder)
        return read(folder)

    monkeypatch.setattr("logger.report.runs.read", counted)
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--paired", "seed"])
    assert len(folders) == len(set(folders)) == 4
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"--paired seed: .*empty holds no run"):
        main([str(tmp_path / "a"), str(tmp_path / "empty"), "--paired", "seed"])


@pytest.mark.parametrize("name", ["a.html", "a.png"])
def test_a_place_that_cannot_be_written_to(saved, tmp_path, name):
    if name == "a.png":
        pytest.importorskip("matplotlib", reason="the extra plots")
    with pytest.raises(UsageError, match=rf"--out .*none.{name}: No such file or directory; give a file in a folder"):
        main([str(saved), "--out", str(tmp_path / "none" / name)])


def test_parts_are_shown_by_their_names(tmp_path):
    ema, plain = {"type": "EMA", "args": {"decay": 0.9}}, {"type": "Mistakes", "args": {}}
    assert as_text([ema, plain]) == "EMA(decay=0.9), Mistakes"
    assert as_text([1, "a"]) == '[1, "a"]'
    for name, callbacks in {"a": [ema, plain], "b": [], "c": [plain] * 9}.items():
        make(tmp_path / name, [0.5], callbacks=callbacks)
    head, lines = table.rows(settings(find([tmp_path])[0], None))
    assert head[:2] == ["callbacks", "runs"]
    assert sorted(line[0] for line in lines) == ["EMA(decay=0.9), Mistakes", "Mistakes, " * 5 + "Mistakes,…", "[]"]


def test_what_cannot_be_paired(saved):
    a, b = saved / "demo/0.1-1", saved / "demo/0.2-2"
    for folders, key, words in [
        ([a, b], "seed", "0 pairs; A has runs for 1, B for 2; at least 2 must be in both"),
        ([saved / "demo", a], "seed", "two runs of A have seed=1"),
        ([a, b], "width", "no such key in the config of"),
        ([a], "seed", "expected two folders, A and B, got 1"),
    ]:
        with pytest.raises(UsageError, match=re.escape(words)):
            main([*map(str, folders), "--paired", key])
    found, metric = find([a])[0], Metric.of("val_f1")
    with pytest.raises(UsageError, match="has no val_f1; it has loss, lr, val_loss, val_accuracy; choose with"):
        paired.compare(found, found, "seed", metric)
    with pytest.raises(
        UsageError, match=r"--metric val_acc: no run has it \(did you mean 'val_accuracy'\?\); they have"
    ):
        main([str(a), "--metric", "val_acc"])
    with pytest.raises(UsageError, match=r"--out a.pdf: expected a file that ends with .html or .png"):
        main([str(a), "--out", "a.pdf"])


# -- charts


def test_a_long_curve_is_thinned():
    curve = [(i, float(i)) for i in range(1, 1001)]
    thin = svg.thinned(curve)
    assert len(thin) == svg.POINTS
    assert thin[0] == (5, 3.0)  # the mean of 1 to 5
    assert thin[-1] == (1000, 998.0)
    assert svg.thinned(curve[:7]) == curve[:7]


def test_a_diverged_run_does_not_flatten_the_others():
    values = [i / 100 for i in range(100)]
    assert svg.limits(values) == (0.0, 0.99, False)
    low, high, cut = svg.limits([*values, 1e9])
    assert (low, cut) == (0.0, True)
    assert high < 10
    assert svg.limits([2.0, 2.0]) == (1.8, 2.2, False)


def test_ticks_are_round():
    assert svg.ticks(0, 285) == [0, 100, 200, 300]
    assert svg.ticks(0.61, 0.99) == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    assert [svg.label(value) for value in (0, 0.25, 1e-5, 300000)] == ["0", "0.25", "1e-5", "3e5"]


class Page(HTMLParser):
    """Counts what is in a page, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href")]


def test_the_page_is_one_file(saved, tmp_path):
    make(saved / "demo/<b>", [0.1], seed=9, custom={"note": "<script>alert(1)</script>"})
    main([str(saved), "--out", str(tmp_path / "r.html")])
    text = (tmp_path / "r.html").read_text()
    seen = Page(text)
    assert seen.loads == []
    assert not {"script", "link", "img", "b"} & set(seen.tags)
    assert "http" not in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert seen.tags.count("svg") == 6  # accuracy, loss and lr of two names
    assert (
        text.count('class="line c0"') == 3 * 2 + 2
    )  # validation: accuracy and loss of the best setting, and of `other`
    assert "0.8000 ± 0.1000" in text


def test_the_page_draws_points_where_they_are():
    drawn = svg.chart("loss", [svg.Line([(0, 1.0), (10, 0.0)], 0, "a")])
    assert f'd="M{svg.LEFT}.0 {svg.TOP}.0L{svg.WIDTH - svg.RIGHT}.0 {svg.HEIGHT - svg.BOTTOM}.0"' in drawn
    assert svg.chart("loss", [svg.Line([], 0, "a")]) == ""


def test_confusion_and_worst_samples(saved):
    """From what test.py --save writes."""
    folder = saved / "other/run"
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.01, 0.99]])
    arrays: dict[str, Any] = {
        "targets": np.array([0, 1, 0, 0]),
        "probabilities": probabilities,
        "names": np.array(list("wxyz")),
    }
    arrays["class_names"] = np.array(["cat", "dog"])
    np.savez(folder / "outputs.npz", **arrays)
    text = outputs.section(read(folder))
    assert "2 of 4 wrong" in text
    assert text.index("<td>z<td>cat<td>dog<td>0.990<td>0.01") < text.index("<td>y<td>cat<td>dog<td>0.700<td>0.3")
    assert re.findall(r'class="ink"[^>]*>(\d+)<', text) == [
        "1",
        "2",
        "1",
    ]  # cat: 1 right, 2 taken for dogs; dog: 1 right
    (folder / "outputs.npz").write_bytes(b"no zip")
    run = read(folder)
    assert outputs.section(run) == ""
    assert "outputs.npz cannot be shown" in run.notes[0]
    assert outputs.section(read(saved / "demo/0.1-1")) == ""


def test_a_picture(saved, tmp_path):
    pytest.importorskip("matplotlib", reason="the PNG is drawn by matplotlib: make extra NAME=plots")
    picture.draw(settings(find([saved])[0], None), tmp_path / "r.png")
    head = (tmp_path / "r.png").read_bytes()[:24]
    assert head[1:4] == b"PNG"
    assert int.from_bytes(head[16:20], "big") == 1430


def test_a_picture_without_matplotlib(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"needs matplotlib, which is not installed: make extra NAME=plots; an \.html"):
        main([str(saved), "--out", str(tmp_path / "r.png")])


# -- as a command


def test_the_command_needs_no_torch(saved):
    code = "import sys, logger.report.__main__ as m; m.main(sys.argv[1:]); "
    code += "print({'torch', 'matplotlib', 'numpy', 'tensorboard'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, saved], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_its_exit_code_for_wrong_folders():
    command = [sys.executable, "-m", "logger.report", "no/such/folder"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no/such/folder: no run there")


@pytest.mark.slow
def test_two_hundred_runs_take_seconds(tmp_path):
    for i in range(200):
        values = [math.sin(step / 50) for step in range(300)]
        make(tmp_path / f"{i}", values, seed=i % 5, optimizer={"type": "SGD", "args": {"lr": (i // 5 + 1) / 100}})
    command = [sys.executable, "-m", "logger.report", tmp_path, "--out", tmp_path / "r.html"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=20)
    assert (tmp_path / "r.html").stat().st_size < 3e6
    assert Page((tmp_path / "r.html").read_text()).tags.count("svg") == 3


def test_the_page_of_no_values(tmp_path):
    """A run that has just begun."""
    folder = make(tmp_path / "run", [], log="")
    text = page.html(settings([read(folder)], None), {}, None)
    assert "1 run of 1 setting" in text


def test_pairs_by_a_key_that_holds_lists(tmp_path):
    for name in ("a", "b"):
        for widths, value in (([8], 0.5), ([8, 16], 0.6)):
            make(tmp_path / name / str(len(widths)), [value], arch={"type": "ConvNet", "args": {"widths": widths}})
    a_runs, b_runs = (find([tmp_path / name])[0] for name in ("a", "b"))
    assert len(paired.compare(a_runs, b_runs, "arch.args.widths", None).pairs) == 2
