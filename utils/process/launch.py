"""How a run gets its processes: one per device of this machine, or those that torchrun or srun started."""

import contextlib
import ctypes
import os
import re
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence

import torch

from utils.errors import UsageError


def joined() -> bool:
    """Whether a launcher started this process as one of several. Translates the variables of srun into torch's."""
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        os.environ |= slurm(os.environ)
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def slurm(env: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """The variables that torch reads, from those that srun sets for each task."""
    job, step = int(env["SLURM_JOB_ID"]), int(env["SLURM_STEP_ID"])
    found = re.match(r"([^\[,]+)(?:\[(\w+))?", env["SLURM_STEP_NODELIST"])  # gpu[03-07,11] -> gpu03
    assert found, env["SLURM_STEP_NODELIST"]
    return {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": env.get("MASTER_ADDR", found[1] + (found[2] or "")),
        # A port that is the same for all tasks, and probably free
        "MASTER_PORT": env.get("MASTER_PORT", str(20000 + (job * 7 + step) % 30000)),
    }


def devices(n_gpu: int | str, given: str | None) -> tuple[list[torch.device], str | None]:
    """The devices of this machine that a run uses, one process for each, and a warning if there are fewer GPUs than
    requested (no error, as in the 2020 template).

    given: the value of `-d`: 0,1 names GPUs; cpu,cpu runs two processes on the CPU, to try that out.
    """
    cpu = torch.device("cpu")
    names = given.split(",") if given else []
    if names and set(names) == {"cpu"}:
        return [cpu] * len(names), None
    if not all(name.isdecimal() for name in names) or len(set(names)) < len(names):
        raise UsageError(f"-d {given}: expected the numbers of different GPUs, for example 0,1, or cpu")
    if n_gpu == 0 and not names:
        return [cpu], None
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # hides the GPU of a Mac, too
        accelerator = None
    there = torch.accelerator.device_count() if accelerator else 0
    asked = f"-d {given}" if names else f"n_gpu: {n_gpu}"
    if accelerator is None:
        warn = f"{asked} was given, but torch finds no GPU on this machine: using the CPU"
        return [cpu], warn if names or n_gpu not in (1, "auto") else None
    if any(int(name) >= there for name in names):
        gpus = "1 GPU, number 0" if there == 1 else f"{there} GPUs, numbered from 0"
        raise UsageError(f"{asked}: this machine has {gpus}")
    wanted = there if n_gpu == "auto" else int(n_gpu)
    numbers = [int(name) for name in names] or range(min(wanted, there))
    few = f"{asked} was given, but this machine has {there}: using {there}" if wanted > there and not names else None
    return [torch.device(accelerator.type, number) for number in numbers], few


def needed(n_gpu: int | str, given: str | None) -> int:
    """How many processes this one has to start; 1 where a launcher has started them."""
    found, _ = _of_this_machine(n_gpu, given)
    return 1 if joined() else len(found)


def device(n_gpu: int | str, given: str | None) -> tuple[torch.device, str | None]:
    """The device of this process, and a warning."""
    found, warn = _of_this_machine(n_gpu, given)
    chosen = found[int(os.environ.get("LOCAL_RANK", 0)) % len(found)]
    if chosen.type != "cpu":
        torch.accelerator.set_device_index(chosen.index)
    return chosen, warn


def _of_this_machine(n_gpu: int | str, given: str | None) -> tuple[list[torch.device], str | None]:
    """`devices`, of which a launcher chooses the number."""
    found, warn = devices(n_gpu, given)
    if not joined():
        return found, warn
    if not given and n_gpu != 0:
        found, _ = devices("auto", None)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # Some launchers show each process one GPU, its own
    if found[0].type == "cuda" and processes > len(found) and "CUDA_VISIBLE_DEVICES" not in os.environ:
        gpus = "1 GPU" if len(found) == 1 else f"{len(found)} GPUs"
        raise UsageError(
            f"torchrun started {processes} processes on this machine, for {gpus}, and each needs its own: "
            f"give --nproc_per_node={len(found)}, or n_gpu=0 for the CPU"
        )
    return found, warn


def end_with_parent() -> None:
    """On Linux: let the system kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(count: int, command: Sequence[str]) -> int:
    """Run a Python script in `count` processes. Returns 0, or the exit code of the first that failed."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    with _restored():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))  # by default each would use all cores
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as e:  # which has printed its error
            _, first = e.get_first_failure()
            return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
        except SignalException as e:  # the ranks have saved and said so
            return 128 + e.sigval
    return 0


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Environment variables and signal handlers are afterwards as before: torch's launcher leaves its own behind."""
    variables, handlers = dict(os.environ), {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
