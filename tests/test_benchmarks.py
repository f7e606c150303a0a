"""benchmarks/run.py: the scripts that it names are there, and what it writes is what they printed."""

import sys
from pathlib import Path

import pytest

from benchmarks import run
from tests import warm

ROOT = Path(__file__).resolve().parent.parent
OLD = "# Results\n\n## `python -m benchmarks.victoresque --data-dir data/`\n\nBy hand.\n\n```\nours 0.96\n```\n"


@pytest.mark.slow
def test_each_benchmark_is_there_and_has_help() -> None:
    code = f"""
import contextlib, importlib, io, sys
for name in {list(run.ROWS)} + ["run"]:
    sys.argv, printed = [name, "--help"], io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            importlib.import_module("benchmarks." + name).main()
        except SystemExit as e:
            assert e.code == 0, name
        else:
            raise AssertionError(name)
    assert len(printed.getvalue().splitlines()) > 5, name
"""
    done = warm.run("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def benchmarks(monkeypatch: pytest.MonkeyPatch, folder: Path, **scripts: str) -> Path:
    """A harness that knows these scripts only, and its RESULTS.md."""
    (folder / "benchmarks").mkdir()
    for name, script in scripts.items():
        (folder / "benchmarks" / f"{name}.py").write_text(script)
    figure = run.Figure("of something", r"^ours .* ([\d.]+) of plain", "<= 0.85")
    monkeypatch.setattr(run, "ROWS", {name: run.Row([figure]) for name in scripts})
    monkeypatch.setattr(run, "RESULTS", folder / "benchmarks" / "RESULTS.md")
    run.RESULTS.write_text(OLD)
    return run.RESULTS


def test_results_keep_what_did_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = '"""What it is."""\nprint("plain 2 us 1.00 of plain\\nours 1 us   0.50 of plain")'
    bad = "print('half'); raise OSError('no disk')"
    results = benchmarks(monkeypatch, tmp_path, good=good, bad=bad, slow=good.replace("0.50", "0.90"))
    monkeypatch.setattr(sys, "argv", ["run"])
    with pytest.raises(SystemExit, match="failed: bad"):
        run.main()
    text = results.read_text()
    assert "| `good`: of something | 0.50 | <= 0.85 | met |" in text
    assert "| `slow`: of something | 0.90 | <= 0.85 | **missed** |" in text
    assert "| `bad`: of something | nothing | <= 0.85 | **missed** |" in text
    assert "## `python -m benchmarks.good`\n\nWhat it is.\n" in text
    assert "half\nFAILED with exit code 1\nOSError: no disk\n```" in text
    assert text.endswith(OLD[OLD.index("##") :])

    (tmp_path / "benchmarks" / "bad.py").write_text(good)
    monkeypatch.setattr(sys, "argv", ["run", "bad"])
    with pytest.raises(SystemExit, match="0"):
        run.main()
    again = results.read_text()
    assert "FAILED" not in again
    assert again.count("## `python") == text.count("## `python") == 4


@pytest.mark.parametrize("value, bar, met", [(0.85, "<= 0.85", True), (1, "< 1", False), (151, ">= 150", True)])
def test_bars(value: float, bar: str, met: bool) -> None:
    assert run.holds(value, bar) == met


# -- short ones of those whose long results are in benchmarks/RESULTS-faults.md


def bench(name: str, *args: str) -> str:
    done = warm.run("-m", f"benchmarks.{name}", *args, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_kill_storm(workers: str, tmp_path: Path) -> None:
    text = bench("kill_storm", "--kills", "20", "--megabytes", "3", "--workers", workers, "--folder", str(tmp_path))
    assert "20 SIGKILLs" in text
    assert "checkpoint bit-equal, metrics.jsonl byte-equal" in text


@pytest.mark.slow
def test_corrupt() -> None:
    assert "loaded wrong or not reported: 0" in bench("corrupt", "--flips", "100")
