"""Whatever fails in the data, at whichever moment: the run ends within seconds, with the right exit code and words."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

import data_loader.data_loaders
import test as test_script
from data_loader import BaseDataLoader
from data_loader.engine import base_data_loader, workers
from tests.slow import slow_but
from tests.trainer.checkpoint.harness import Child, House, config, workers_of

SECONDS = 60.0  # until a run counts as one that never ends, on a busy machine too
SAMPLES, BATCH = 40, 10

LAST = "samples [30, 31, 32, 33, 34, 35, 36, 37, ... (10 in all)]"

# What fails, and what is said of it. Without workers nothing is pickled or started.
WORDS = {
    "fetch": "sample 30 could not be read: ValueError: broken file (at test_data_errors.py:",
    "none": "sample 30 could not be read: TypeError: it is None: the data set returned nothing",
    "collate": f"{LAST} do not collate into a batch: their shapes or types differ\n",
    "pickle": f"the batch of {LAST} could not be sent from a data loader worker: ",
    "pin": f"failed for the batch of {LAST}: RuntimeError: no memory is left to pin",
    "batch_transform": f"batch_transform failed for the batch of {LAST}: ValueError: an unknown class (at test_data_",
    "start": "the data loader's workers could not be started: BlockingIOError: [Errno 11] Resource temporarily unavail",
    "init": "a data loader worker could not be started: BlockingIOError: [Errno 11] Resource temporarily unavailable",
}
MORE = {  # and what each error adds
    "collate": ["  (float32 [4], int): samples [30, 32, ", "  (float32 [3], int): samples [31, 33", "collate_fn=..."],
    "pickle": ["the batch: (float32 [10, 4], int64 [10], function)", "num_workers=0"],
    "batch_transform": ["the batch: [float32 [10, 4], int64 [10]]"],
    "start": ["lower num_workers, prefetch or batch_size in data_loader.args"],
}
ONLY_WITH_WORKERS = ("pickle", "start", "init")


class Faulty(Dataset):
    """Samples 30 to 39 are at fault."""

    def __init__(self, fault: str | None) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        fault = self.fault if index >= 30 else None
        if fault == "fetch":
            raise ValueError("broken file")
        if fault == "none":
            return None
        if fault == "collate" and index % 2:
            return torch.zeros(3), 0
        if fault == "pickle":
            return torch.zeros(4), 0, lambda: None
        return torch.zeros(4), 9 if fault in ("batch_transform", "pin") else 0


def keeping_functions(samples: list[Any]) -> Any:
    batch = default_collate([sample[:2] for sample in samples])
    return (*batch, samples[0][2]) if len(samples[0]) > 2 else tuple(batch)


def refusing(batch: Any) -> Any:
    if int(batch[1].max()) == 9:
        raise ValueError("an unknown class")
    return batch


class FaultyDataLoader(BaseDataLoader):
    """where: the data that is at fault. first: from the first step on; else in the last one of an epoch."""

    def __init__(self, batch_size: int, fault: str, where: str, first: bool = False, training: bool = True, **kwargs):
        if fault == "pickle":
            kwargs["collate_fn"] = keeping_functions
        if fault == "batch_transform":
            kwargs["batch_transform"] = refusing
        now = "train" if training else "test"
        super().__init__(
            Faulty(fault if where == now else None),
            batch_size,
            shuffle=False,
            valid_dataset=Faulty(fault if where == "valid" else None) if training else None,
            **kwargs,
        )
        if first:
            self.samples = self.samples.__class__(10, lambda positions: positions + 30)  # type: ignore[arg-type]
            self.configure()


def pretend(fault: str, where: str, count: int) -> Callable[[], None]:
    """A patch: what needs a GPU, or a machine at its limits, fails."""

    def unpinnable(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.int64 and int(tensor.max()) == 9:
            raise RuntimeError("no memory is left to pin")
        return tensor

    def moved(data: Any, _: Any) -> Any:
        if not count:
            unpinnable(data[1])
        return data

    def exhausted(*_: Any, **__: Any) -> None:
        raise OSError(11, os.strerror(11))

    def patch() -> None:
        vars(data_loader.data_loaders)["FaultyDataLoader"] = FaultyDataLoader
        if fault == "pin":
            vars(base_data_loader)["to_device"] = moved
            Tensor.pin_memory = unpinnable  # type: ignore[method-assign, assignment]
            if count:
                workers.Sent.batch = pinned(workers.Sent.batch)  # type: ignore[method-assign, assignment]
        started = BaseDataLoader._load

        def load(self: BaseDataLoader, batches: Any) -> Any:
            if fault in ("start", "init") and self.dataset.fault:
                if fault == "start":
                    os.fork = exhausted  # type: ignore[assignment]
                else:
                    workers.end_with_parent = exhausted
            return started(self, batches)

        BaseDataLoader._load = load  # type: ignore[method-assign, assignment]

    return patch


def pinned(original: Callable[[workers.Sent], Any]) -> Callable[[workers.Sent], Any]:
    """Sent.batch, as if torch's thread had pinned it."""

    def batch(sent: workers.Sent) -> Any:
        workers.Sent.batch = original  # type: ignore[method-assign, assignment]
        try:
            return sent.pin_memory()
        finally:
            workers.Sent.batch = batch  # type: ignore[method-assign, assignment]

    return batch


def spec(fault: str, where: str, count: int, first: bool = False) -> dict[str, Any]:
    loader = {"fault": fault, "where": where, "first": first, "batch_size": BATCH, "num_workers": count}
    return config(
        data_loader={"type": "FaultyDataLoader", "args": loader},
        arch={"type": "MLP", "args": {"in_features": 4, "hidden": [4], "num_classes": 10}},
        trainer__limit_batches=None,
        trainer__epochs=1,
    )


CELLS = [
    (fault, stage, count)
    for fault in WORDS
    for stage in ("first step", "later step", "valid", "test", "check")
    for count in (0, 2)
    if not (count == 0 and fault in ONLY_WITH_WORKERS) and not (fault in ("start", "init") and stage == "later step")
]


@pytest.mark.parametrize("fault, stage, count", slow_but(lambda _, stage, n: n == 0 or stage == "first step", CELLS))
def test_each_failure_ends_the_run_and_is_reported(fault: str, stage: str, count: int, tmp_path: Path) -> None:
    where = stage if stage in ("valid", "test") else "train"
    house = House(tmp_path, spec(fault, where, count, first=stage in ("first step", "check")))
    patch = pretend(fault, where, count)
    code = 3 if stage in ("later step", "valid", "test") else 2
    began = time.monotonic()
    if stage == "check":
        result = house.command("-c", "c.yaml", "--check", patch=patch)
    elif stage == "test":
        house.train("data_loader.args.where=nowhere", "data_loader.args.num_workers=0", patch=patch)
        result = house.command("-r", house.run, "data_loader.args.where=test", f"data_loader.args.num_workers={count}",
                               patch=patch, main=test_script.main)  # fmt: skip
    else:
        result = house.start(patch=patch).wait(SECONDS)
    assert time.monotonic() - began < SECONDS
    assert result.code == code, result.text
    last = result.text[result.text.rindex("error: " if code == 2 else "stopped: ") :]
    assert WORDS[fault] in last
    for text in MORE.get(fault, []):
        assert text in last
    assert "Traceback" not in result.text
    assert "killed" not in result.text
    assert (house.folder / "saved").exists() == (code == 3)


# --- workers that die, that cannot be started anew, that do not end


def run_with(tmp_path: Path, read: Callable[[int], Any], count: int = 2, **kwargs: Any) -> tuple[House, Child]:
    """Starts a run whose samples 30 to 39, after its first steps, are what `read` does in a worker."""
    main = os.getpid()

    def patch() -> None:
        pretend("", "", count)()
        original = Faulty.__getitem__

        def getitem(self: Faulty, index: int) -> Any:
            if index >= 30 and os.getpid() != main:
                read(index)
            return original(self, index)

        Faulty.__getitem__ = getitem  # type: ignore[method-assign, assignment]
        if "also" in kwargs:
            kwargs["also"]()

    house = House(tmp_path, spec("", "nowhere", count))
    return house, house.start("data_loader.args.prefetch=1", patch=patch)


@pytest.mark.parametrize(
    "end, words",
    [
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "was killed by the system (DataLoader worker (pid"),
        (lambda _: os.kill(os.getpid(), signal.SIGBUS), "was killed by the system (DataLoader worker (pid"),
        (lambda _: os.kill(os.getpid(), signal.SIGTRAP), "crashed (DataLoader worker (pid"),
        (lambda _: os._exit(5), "ended by itself (DataLoader worker (pid"),
    ],
)
def test_only_a_worker_that_a_signal_ended_was_killed(end: Any, words: str, tmp_path: Path) -> None:
    _, child = run_with(tmp_path, end)
    result = child.wait(SECONDS)
    assert result.code in (2, 3)  # it was reading ahead
    assert f"a data loader worker {words}" in result.lines[-1]
    assert ("killed by the system" in result.text) == ("killed by the system" in words)


def test_a_data_set_that_exits_does_not_end_the_run_as_finished(tmp_path: Path) -> None:
    for count in (0, 2):
        house = House(tmp_path / str(count), spec("", "nowhere", count))

        def patch() -> None:
            pretend("", "", 0)()
            Faulty.__getitem__ = lambda self, index: sys.exit(0)  # type: ignore[method-assign, assignment]

        result = house.start(patch=patch).wait(SECONDS)
        assert (result.code, "sample 0 could not be read: SystemExit: 0" in result.text) == (2, True)


def test_a_signal_ends_a_run_whose_worker_hangs(tmp_path: Path) -> None:
    house, child = run_with(tmp_path, lambda _: time.sleep(1000))
    child.until(lambda: house.metrics().count(b"train") if (house.run / "metrics.jsonl").exists() else 0)
    found = workers_of(child.pid)
    assert len(found) == 2
    child.signal(signal.SIGTERM)
    time.sleep(0.5)
    child.signal(signal.SIGTERM)  # the step waits for its samples: the second one ends at once
    assert child.wait(SECONDS).code == 143
    child.until(lambda: not workers_of(child.pid) and not any(Path(f"/proc/{pid}").exists() for pid in found))


def test_an_error_while_a_worker_hangs_ends_the_run(tmp_path: Path) -> None:
    def read(index: int) -> None:
        if index == 30:
            raise ValueError("broken file")
        time.sleep(1000)

    def shuffled() -> None:  # so that the other worker hangs in another batch
        Faulty.__len__ = lambda self: 60  # type: ignore[method-assign, assignment]

    _, child = run_with(tmp_path, read, also=shuffled)
    result = child.wait(SECONDS)
    assert (result.code, "sample 30 could not be read" in result.text) == (3, True)


def test_too_many_open_files(tmp_path: Path) -> None:
    """Each tensor from a worker is an open file."""
    import resource

    def patch() -> None:
        pretend("", "", 2)()
        many = [torch.zeros(1) for _ in range(300)]
        Faulty.__getitem__ = lambda self, index: (torch.zeros(4), 0, many)  # type: ignore[method-assign, assignment]
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    house = House(tmp_path, spec("", "nowhere", 2))
    result = house.start(patch=patch).wait(SECONDS)
    assert result.code == 2, result.text
    assert "Too many files are open: raise the limit (ulimit -n 65536)" in result.text
    assert "killed" not in result.text


# --- the run's folder


def test_a_folder_that_was_there_before_stays(tmp_path: Path) -> None:
    house = House(tmp_path, spec("fetch", "train", 0))
    other = tmp_path / "saved/t/other"
    other.mkdir(parents=True)
    assert house.start("data_loader.args.first=true", patch=pretend("fetch", "train", 0)).wait(SECONDS).code == 2
    assert [p.name for p in (tmp_path / "saved/t").iterdir()] == ["other"]
    house.run.mkdir()
    (house.run / "config.yaml").write_text((tmp_path / "c.yaml").read_text())  # of a run killed before its first step
    assert house.start("data_loader.args.first=true", patch=pretend("fetch", "train", 0)).wait(SECONDS).code == 2
    assert (house.run / "config.yaml").exists()


def test_a_bug_in_the_first_step_leaves_no_folder(tmp_path: Path) -> None:
    house = House(tmp_path, spec("", "nowhere", 0))
    result = house.start("arch.args.in_features=5", patch=pretend("", "", 0)).wait(SECONDS)
    assert result.code in (1, 2)
    assert not (tmp_path / "saved").exists()


# --- workers that are started anew, as on macOS and Windows: what cannot be pickled

SPAWNED = """
import multiprocessing, sys
import torch
from data_loader import BaseDataLoader
from utils.exit_codes import exit_with

class Plain(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.zeros(2)

class NoGetState(Plain):
    def __getstate__(self): raise OSError("the file is closed")

class NoSetState(Plain):
    def __getstate__(self): return {{"x": 1}}
    def __setstate__(self, state): raise ValueError("cannot open it again")

class Holding(Plain):
    def __init__(self): self.transform = lambda x: x

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    exit_with(lambda: print(len(list(BaseDataLoader({kind}(), 4, num_workers=1)))))
"""


@pytest.mark.parametrize(
    "kind, words",
    [
        ("NoGetState", "sent to the data loader's workers: OSError: the file is closed"),
        pytest.param("NoSetState", "workers: ValueError: cannot open it again", marks=pytest.mark.slow),
        ("Holding", "could not be sent to the data loader's workers: "),
    ],
)
def test_a_data_set_that_cannot_be_sent_to_a_worker(kind: str, words: str, tmp_path: Path) -> None:
    import subprocess

    root = Path(data_loader.data_loaders.__file__).parent.parent
    (tmp_path / "script.py").write_text(SPAWNED.format(kind=kind))
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], env={**os.environ, "PYTHONPATH": str(root)},
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert words in done.stderr
    assert "num_workers=0" in done.stderr
