"""Runs of train.py in forked children, which start in 10 ms, and can be killed or tampered with at a chosen moment."""

import contextlib
import io
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # what an optimizer imports, in a second, when it is made: so that no child has to
import yaml
from torch import Tensor, nn

import data_loader.data_loaders
import model.model
import train
from data_loader import BaseDataLoader
from trainer.checkpoint import files as checkpoint
from trainer.engine.base_trainer import BaseTrainer
from utils.exit_codes import exit_with
from utils.seed import sample_keys, uniform

Patch = Callable[[], object]
STEPS = 6  # an epoch
PATIENCE = 300.0  # seconds until a child counts as stuck, on a busy machine too
ROTATE = {"type": "RandomAffine", "args": {"rotate": 10.0}}

PLAIN: dict[str, Any] = {
    "name": "t",
    "n_gpu": 0,
    "arch": {"type": "ConvNet", "args": {"widths": [4], "depth": 1, "dropout": 0.2}},
    "data_loader": {
        "type": "DigitsDataLoader",
        "args": {"batch_size": 30, "validation_split": 0.1, "num_workers": 0, "transforms": [ROTATE]},
    },
    "loss": "cross_entropy",
    "metrics": ["accuracy"],
    "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
    "trainer": {
        "epochs": 3,
        "limit_batches": STEPS,
        "log_steps": 2,
        "save_steps": 2,
        "keep_last": 2,
        "tensorboard": False,
        "verbosity": 1,
    },
}


def config(**changes: Any) -> dict[str, Any]:
    """PLAIN with `section__key=value` changed, as deep as there are double underscores."""
    built = yaml.safe_load(yaml.safe_dump(PLAIN))
    for path, value in changes.items():
        *sections, key = path.split("__")
        at = built
        for section in sections:
            at = at.setdefault(section, {})
        at[key] = value
    return built


# -- parts that only tests have ---------------------------------------------------------------------------------------


class Drawing(torch.utils.data.Dataset):
    """Sample by sample, with draws of torch, NumPy and Python in each: as people write data sets."""

    def __init__(self, n: int = 200) -> None:
        self.samples = [f"file-{i}" for i in range(n)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import random

        noise = torch.rand(1, 8, 8) + float(np.random.rand()) + random.random()
        return noise + index % 10, index % 10


class DrawingBatches(Drawing):
    """The same, a whole batch at once."""

    def __getitems__(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        for index in indices.tolist():
            self[index]  # raises where a test makes it raise
        labels = torch.as_tensor(indices) % 10
        return uniform(sample_keys(), 64).view(-1, 1, 8, 8) + labels[:, None, None, None], labels


class DrawingDataLoader(BaseDataLoader):
    def __init__(self, batch_size: int, at_once: bool = False, training: bool = True, **kwargs) -> None:
        super().__init__(DrawingBatches() if at_once else Drawing(), batch_size, **kwargs)


class TinyGAN(nn.Module):
    """For images [B, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = 4
        self.generator = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 8, 8)))
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def _add_parts() -> None:
    vars(data_loader.data_loaders)["DrawingDataLoader"] = DrawingDataLoader
    vars(model.model)["TinyGAN"] = TinyGAN


# -- children ---------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    code: int  # as a shell gives it: 137 for SIGKILL
    text: str  # stdout and stderr

    def __post_init__(self) -> None:
        self.lines = self.text.splitlines()


class Child:
    """`train.py ARGS` in a forked child in a process group of its own; `patch` runs in it first."""

    def __init__(self, args: list[Any], cwd: Path, patch: Patch | None = None, main: Callable[..., Any] | None = None):
        self.output = cwd / f"output-{time.monotonic_ns()}.txt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of forks with threads; ours are asleep
            self.pid = os.fork()
        if self.pid == 0:
            self._run([str(a) for a in args], cwd, patch, main or train.main)

    def _run(self, args: list[str], cwd: Path, patch: Patch | None, main: Callable[..., Any]) -> None:
        code = 70
        try:
            warnings.simplefilter("default")
            warnings.simplefilter("ignore", ResourceWarning)
            os.setpgid(0, 0)
            os.chdir(cwd)
            fd = os.open(self.output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            sys.stdout, sys.stderr = io.TextIOWrapper(os.fdopen(1, "wb", 0)), io.TextIOWrapper(os.fdopen(2, "wb", 0))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _add_parts()
            if patch:
                patch()
            exit_with(lambda: main(args))
        except SystemExit as e:
            code = int(e.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:  # whatever happens: a child that came out of here would go on as a second pytest
            try:
                for thread in threading.enumerate():
                    if thread is not threading.current_thread() and not thread.daemon:
                        thread.join()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def ended(self) -> bool:
        return not alive(self.pid)

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def until(self, shown: str | Callable[[], Any], timeout: float = PATIENCE) -> None:
        """Wait until it has printed this text, or this is true."""
        end = time.monotonic() + timeout
        while not (shown() if callable(shown) else shown in self.text()):
            assert time.monotonic() < end, f"not within {timeout} s: {shown}\n{self.text()}"
            time.sleep(0.005)

    def signal(self, number: int, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, timeout: float = PATIENCE) -> Result:
        end = time.monotonic() + timeout
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return Result(code if code >= 0 else 128 - code, self.text())
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"still running after {timeout} s\n{self.text()}")
            time.sleep(0.003)


class House:
    """A folder with c.yaml and saved/; `run` is the folder of the run named r."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.run = folder, folder / "saved/t/r"
        self.write(spec)

    def write(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        (self.folder / "c.yaml").write_text(yaml.safe_dump(spec))

    def copy(self, folder: Path) -> "House":
        """The same house, run and all, in another folder."""
        shutil.copytree(self.folder, folder)
        return House(folder, self.spec)

    def start(self, *args: Any, patch: Patch | None = None) -> Child:
        """-c c.yaml --run-id r -r auto, and what more is given."""
        return Child(["-c", "c.yaml", "--run-id", "r", "-r", "auto", *args], self.folder, patch)

    def train(self, *args: Any, patch: Patch | None = None, code: int = 0, timeout: float = PATIENCE) -> Result:
        result = self.start(*args, patch=patch).wait(timeout)
        assert result.code == code, f"exit {result.code}, not {code}\n{result.text}"
        return result

    def command(self, *args: Any, patch: Patch | None = None, main: Any = None) -> Result:
        return Child(list(args), self.folder, patch, main).wait()

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, newest first."""
        return [checkpoint.step_of(p) for p in checkpoint.checkpoints(self.run / "checkpoints")]

    def state(self, name: str | None = None) -> dict[str, Any]:
        """A checkpoint, by default the newest."""
        path = self.run / "checkpoints" / name if name else checkpoint.checkpoints(self.run / "checkpoints")[0]
        return checkpoint.load(path)

    def metrics(self) -> bytes:
        return (self.run / "metrics.jsonl").read_bytes()

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Every file of the run: when it was changed, and what is in it."""
        every = sorted(p for p in self.run.rglob("*") if p.is_file())
        return {str(p.relative_to(self.run)): (p.stat().st_mtime_ns, p.read_bytes()) for p in every}


def points(house: "House") -> list[tuple[str, int, float]]:
    """(tag, step, value) in TensorBoard's files, in their order, but for the speed."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for file in sorted(house.run.glob("*/events.out.tfevents.*")):
        points = [(v, e.step) for e in EventFileLoader(str(file)).Load() for v in e.summary.value if v.tensor.float_val]
        found += [(f"{file.parent.name}/{v.tag}", step, v.tensor.float_val[0]) for v, step in points]
    return [point for point in found if point[0] != "train/samples_per_s"]


def unequal(a: Any, b: Any, at: str = "") -> Iterator[str]:
    """Where two states are not the same, bit by bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or not torch.equal(a, b):
            yield at
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from unequal(a[key], b[key], f"{at}/{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from unequal(one, other, f"{at}/{i}")
    elif (
        type(a) is not type(b) or isinstance(a, (dict, list)) or a != b
    ):  # dicts: of other keys; lists: of other length
        yield f"{at}: {a!r} and {b!r}"


def same_end(house: House, other: House, but: tuple[str, ...] = ()) -> None:
    """The same last checkpoint, tensor for tensor, and the same metrics.jsonl, byte for byte."""
    one, two = house.state(), other.state()
    for key in ("environment", *but):
        one.pop(key, None), two.pop(key, None)
    differing = list(unequal(one, two))
    assert not differing, differing
    assert house.metrics() == other.metrics()


# -- moments to die at ------------------------------------------------------------------------------------------------


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, do: Callable[..., Any], when: Callable[..., bool] | int = 1) -> Patch:
    """A patch: `do(its arguments)` before the n-th call of owner.name, or before each of which `when` is true."""

    def patch() -> None:
        original, calls = getattr(owner, name), [0]

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == when if isinstance(when, int) else when(*args, **kwargs):
                do(*args, **kwargs)
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    return patch


def at_step(n: int, do: Callable[[BaseTrainer], object]) -> Patch:
    """A patch: do(trainer) when n steps are done and all that was to be saved is."""

    def waited(trainer: BaseTrainer, *_: Any) -> None:
        assert trainer.saving is not None
        if trainer.saving.checkpoints._thread is not None:
            trainer.saving.checkpoints._thread.join()
        do(trainer)

    return before(BaseTrainer, "run_step", waited, when=lambda trainer, *_: trainer.step == n)


def held() -> Patch:
    """A patch: the step after the 8th waits for a signal; then there is a file `held`."""

    def wait(trainer: BaseTrainer) -> None:
        Path("held").touch()
        deadline = time.monotonic() + PATIENCE
        while not trainer.signal.number and time.monotonic() < deadline:
            time.sleep(0.01)

    return at_step(8, wait)


def half_written(n: int) -> Patch:
    """A patch: the n-th checkpoint is cut off in its middle by a SIGKILL."""

    def patch() -> None:
        original, calls = torch.save, [0]

        def save(state: Any, file: Any) -> None:
            calls[0] += 1
            if calls[0] == n:
                buffer = io.BytesIO()
                original(state, buffer)
                file.write(buffer.getvalue()[: buffer.tell() // 2])
                file.flush()
                die()
            original(state, file)

        torch.save = save  # type: ignore[assignment]

    return patch


def together(*patches: Patch) -> Patch:
    return lambda: [patch() for patch in patches]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def workers_of(pid: int) -> list[int]:
    """The children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found
