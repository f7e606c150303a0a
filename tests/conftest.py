"""Fixtures for all tests: one thread, the real MNIST where it is at hand, scripts run as a person runs them."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# All but test_gpu.py are about the CPU, also on a machine with a GPU: it rounds in another way
os.environ.setdefault("GPUS_OF_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""

if sys.platform == "win32":  # these need make, bash, or signals and limits that Windows does not have
    collect_ignore = ["test_readme.py", "test_setup.py", "trainer/checkpoint", "trainer/parallel", "utils/process"]
    collect_ignore += ["utils/test_signals.py", "test_sweep.py", "utils/sweep"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_finish() -> None:
    """What is imported stays: no garbage collection need look at it, and none copies its pages in a forked child."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else native libraries report at the exit what was not freed


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors are faster on one thread, and the sums of one thread are the same on every machine."""
    if "torch" in sys.modules:  # imported by a test that was collected; the others need not wait for it
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `data_dir` that holds the real MNIST: the project's own data/, or an unpacked copy of it."""
    if (ROOT / "data/MNIST/raw/train-images-idx3-ubyte").exists():
        return ROOT / "data"
    unpack = ROOT.parent / "shared/data/unpack_mnist.py"
    if not unpack.exists():
        pytest.skip("needs MNIST in data/MNIST/raw, where MnistDataLoader downloads it to")
    folder = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, unpack, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("train.py", "-c", FILE, ...)`: a script of this project in a process of its own, in an empty folder.

    The result has `returncode`, `stdout`, `stderr`. `env` is added to ours; `timeout` is in seconds.
    """

    def run(
        script: str, *args: object, cwd: Path = tmp_path, env: dict[str, str] | None = None, timeout: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / script), *map(str, args)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)

    return run
