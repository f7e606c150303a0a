"""Windows and macOS: one process trains, resumes and tests without what only Linux has, with workers that are spawned.

A module that Python imports at its start takes these things away, so that this runs on any machine. What it cannot
show is how the real systems behave; .github/workflows/test.yaml is for that.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_loader import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader
from data_loader.transforms import RandomAffine
from data_loader.vision import ImageFolderDataLoader, MnistDataLoader
from tests.data_loader.test_vision import small_mnist
from tests.slow import slow_but

__all__ = ["small_mnist"]
ROOT = Path(__file__).resolve().parents[2]
RUN = "saved/digits/a"
DIGITS = [
    "-c", str(ROOT / "config/digits.yaml"), "trainer.epochs=2", "trainer.limit_batches=3", "trainer.save_period=1",
    "data_loader.args.num_workers=1",
]  # fmt: skip

# What is common to Windows and macOS, or to Windows and file systems without links
PORTABLE = """
import importlib.abc, multiprocessing, os, signal, sys, sysconfig, urllib.request, warnings

sysconfig.get_config_vars()  # reads a file that is named after the platform
for name in ("fork", "forkpty", "sched_getaffinity", "sched_setaffinity", "getuid"):
    if hasattr(os, name):
        delattr(os, name)


def no_links(*args, **kwargs):
    raise OSError(1, "this file system has no links")


os.link = os.symlink = no_links
multiprocessing.set_start_method("spawn")
# Text files have another encoding than UTF-8 unless given, and so has the console
warnings.filterwarnings("ignore", category=EncodingWarning)
warnings.filterwarnings("error", category=EncodingWarning, module="(__main__|utils|logger|data_loader|model|trainer)")
"""

MACOS = PORTABLE + 'sys.platform = "darwin"\n'

WINDOWS = (
    PORTABLE
    + """
import fcntl, multiprocessing.popen_fork, shutil, types
import subprocess  # takes a system that has msvcrt for a real Windows

real_open, real_fsync, real_rename, fd_flags = os.open, os.fsync, os.rename, fcntl.fcntl
get_flags, access_mode = fcntl.F_GETFL, os.O_ACCMODE


def open_no_folder(path, flags, *args, **kwargs):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real_open(path, flags, *args, **kwargs)


def fsync_writable(fd):
    number = fd if isinstance(fd, int) else fd.fileno()
    if fd_flags(number, get_flags) & access_mode == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    return real_fsync(fd)


def only_closed(real):
    '''A file that is open can be neither replaced, renamed nor deleted.'''

    def guarded(*args, **kwargs):
        for path in args[:2]:
            if isinstance(path, (str, os.PathLike)):
                path = os.path.abspath(path)
                for fd in os.listdir("/proc/self/fd"):
                    try:
                        held = os.readlink(f"/proc/self/fd/{fd}") == path and not os.path.isdir(path)
                    except OSError:
                        continue
                    if held:
                        raise PermissionError(13, "The process cannot access the file: it is in use", path)
        return real(*args, **kwargs)

    return guarded


def to_a_new_name(source, target, **kwargs):
    if os.path.lexists(target):
        raise FileExistsError(17, "File exists", str(target))
    return real_rename(source, target, **kwargs)


def locking(fd, mode, count):
    '''msvcrt.locking by the lock that is here.'''
    lockf(fd, exclusive, count, 0, os.SEEK_CUR)


lockf, exclusive = fcntl.lockf, fcntl.LOCK_EX | fcntl.LOCK_NB
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2, get_osfhandle=None, open_osfhandle=None)
os.open, os.fsync, os.rename = open_no_folder, fsync_writable, to_a_new_name
shutil._use_fd_functions = False  # rmtree opens folders
process = multiprocessing.popen_fork.Popen
process.terminate = process.kill = lambda self: self.returncode is None and os.kill(self.pid, 9)
if os.path.isdir("/proc/self/fd"):
    for name in ("replace", "rename", "unlink", "remove"):
        setattr(os, name, only_closed(getattr(os, name)))
for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "SIGALRM"):
    delattr(signal, name)
for name in ("killpg", "setsid", "getpgid", "mkfifo"):
    delattr(os, name)

GONE = {"fcntl", "resource", "pwd", "grp", "termios", "readline", "syslog"}
for name in GONE:
    sys.modules.pop(name, None)


class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Gone())
sys.platform = "darwin"  # "win32" would send Python's own modules to system calls that are not here
"""
)

System = Callable[..., "subprocess.Popen[str]"]
ON_WINDOWS = pytest.mark.parametrize("system", [WINDOWS], ids=["windows"], indirect=True)


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path: Path) -> System:
    """`system("train.py", ...)` starts a script, as on that system, in the folder tmp_path."""
    if sys.platform == "win32":
        pytest.skip("takes away what only POSIX systems have")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(request.param)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env |= {"PYTHONPATH": str(tmp_path / "site"), "PYTHONWARNDEFAULTENCODING": "1", "PYTHONIOENCODING": "ascii:strict"}
    env |= {"OMP_NUM_THREADS": "1", "USERNAME": "someone", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}

    def start(script: str, *args: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(ROOT / script), *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True)

    return start


def done(process: "subprocess.Popen[str]") -> str:
    """What it printed; it must end with exit code 0 and without a word on stderr."""
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), out + err
    return out


def points(folder: Path) -> list[tuple[int, str]]:
    lines = (folder / RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(point["step"], point["split"]) for point in map(json.loads, lines)]


@pytest.mark.parametrize(
    "system, workers",
    [
        pytest.param(WINDOWS, 0, id="windows"),
        pytest.param(WINDOWS, 1, id="windows-worker", marks=pytest.mark.slow),  # which imports torch anew
        pytest.param(MACOS, 1, id="macos-worker", marks=pytest.mark.slow),
    ],
    indirect=["system"],
)
def test_train_resume_and_test(system: System, workers: int, tmp_path: Path) -> None:
    workers_are = f"data_loader.args.num_workers={workers}"
    assert "finished at step 6" in done(system("train.py", *DIGITS, workers_are, "--run-id", "a"))
    assert "finished at step 9" in done(system("train.py", "-r", RUN, "trainer.epochs=3"))
    assert points(tmp_path) == [(step, split) for step in (3, 6, 9) for split in ("train", "valid")]
    assert "accuracy" in done(system("test.py", "-r", RUN))


@pytest.mark.slow
@ON_WINDOWS
def test_check_leaves_nothing_behind(system: System, tmp_path: Path) -> None:
    assert "it works, and a resume is bit-equal" in done(system("train.py", *DIGITS, "--check"))
    assert not (tmp_path / "saved").exists()


@pytest.mark.slow
@ON_WINDOWS
def test_lock_and_ctrl_c(system: System, tmp_path: Path) -> None:
    """A run is locked while it runs; Ctrl-C saves and stops it; it can be continued."""
    process = system("train.py", *DIGITS, "--run-id", "a", "trainer.epochs=1000")
    checkpoints = tmp_path / RUN / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("checkpoint-*.pth")), process)

    second = system("train.py", "-r", RUN)
    _, err = second.communicate(timeout=300)
    assert second.returncode == 2, err
    assert f"process {process.pid} on " in err

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, out + err

    step = max(int(path.stem.removeprefix("checkpoint-step")) for path in checkpoints.glob("checkpoint-*.pth"))
    done(system("train.py", "-r", RUN, f"trainer.epochs={step // 3 + 1}"))
    steps = [step for step, split in points(tmp_path) if split == "valid"]
    assert steps == list(range(3, steps[-1] + 1, 3))


@pytest.mark.slow
@ON_WINDOWS
def test_the_other_scripts(system: System, tmp_path: Path) -> None:
    """With the writers of files; what they need an extra for is left out."""
    (tmp_path / "scans").mkdir()
    for number in range(3):
        Image.new("L", (8, 8), 80 * number).save(tmp_path / f"scans/{number}.png")
    few = [*DIGITS, "data_loader.args.num_workers=0"]
    done(system("train.py", *few, "--run-id", "a", "logger=[csv, tensorboard]", "callbacks=[EMA, Mistakes]"))
    rows = (tmp_path / RUN / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"3", "6"}

    done(system("predict.py", "-r", RUN, "--data", "scans", "--out", "found.csv"))
    assert len((tmp_path / "found.csv").read_text(encoding="utf-8").splitlines()) == 4
    done(system("soup.py", RUN, "--out", "soup.pth"))
    assert (tmp_path / "soup.pth").is_file()
    done(system("find.py", "lr", *few, "--out", "rates"))
    assert list(tmp_path.glob("rates*.csv"))
    done(system("sweep.py", *few, "seed=1..2", "--sweep-id", "seeds"))
    assert "seeds" in {path.name for path in (tmp_path / "saved/digits").iterdir()}
    assert len((tmp_path / "saved/digits/seeds/table.csv").read_text(encoding="utf-8").splitlines()) > 1


def wait_for(true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        if true():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("it did not get that far")


def digits(folder: Path, workers: int) -> BaseDataLoader:
    return DigitsDataLoader(batch_size=16, transforms=[RandomAffine(10)], num_workers=workers)


def mnist(folder: Path, workers: int) -> BaseDataLoader:
    return MnistDataLoader(str(folder), batch_size=16, transforms=[RandomAffine(10)], num_workers=workers)


def image_folder(folder: Path, workers: int) -> BaseDataLoader:
    for number, name in enumerate(["cat", "dog"] * 8):
        (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (40, 30), (16 * number, 99, 200))
        picture.save(folder / "train" / name / f"{number}.png")
    return ImageFolderDataLoader(str(folder), batch_size=4, size=16, num_workers=workers)


@pytest.mark.parametrize("make", slow_but(lambda make: make is digits, [digits, mnist, image_folder]))
def test_spawned_workers_read_the_same_batches(
    make: Callable[[Path, int], BaseDataLoader], small_mnist: Path, spawn: None
) -> None:
    """They get the data set by pickle, so no lambda and no open file may be in it."""
    here, spawned = make(small_mnist, 0).iter_steps(0), make(small_mnist, 1).iter_steps(0)
    for _ in range(5):  # more than an epoch
        (images, labels), (same_images, same_labels) = next(here).data, next(spawned).data
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
    spawned.close()


@pytest.fixture
def spawn() -> Iterator[None]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)
