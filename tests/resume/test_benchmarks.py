"""Short ones of the benchmarks whose long results stand in benchmarks/RESULTS-faults.md."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(name: str, *args: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
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
    assert "loaded wrong or not told: 0" in bench("corrupt", "--flips", "100")
