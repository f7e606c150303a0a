"""How a run comes to its processes: one per device of this machine, or those that torchrun or srun have started."""

import ctypes
import os
import re
import signal
import sys
import uuid
from collections.abc import Sequence

import torch

from utils.errors import Interrupted, Refused


def joined() -> bool:
    """Is this process one of several that a launcher started? Where that was srun, tell torch in its own words."""
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        os.environ |= slurm(os.environ)
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def slurm(env: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """What torch wants to know, from the variables that srun sets for each of its tasks."""
    job, step = int(env["SLURM_JOB_ID"]), int(env["SLURM_STEP_ID"])
    found = re.match(r"([^\[,]+)(?:\[(\w+))?", env["SLURM_STEP_NODELIST"])  # gpu[03-07,11] -> gpu03
    assert found, env["SLURM_STEP_NODELIST"]
    return {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": env.get("MASTER_ADDR", found[1] + (found[2] or "")),
        "MASTER_PORT": env.get("MASTER_PORT", str(20000 + (job * 7 + step) % 30000)),  # the same for all, free mostly
    }


def devices(n_gpu: int | str, given: str | None) -> tuple[list[torch.device], str | None]:
    """The devices of this machine that a run uses, a process for each, and what to warn of: fewer GPUs than asked for
    are no error, as in the 2020 template.

    `given` is what `-d` said: 0,1 names GPUs, cpu the processor; cpu,cpu are two processes on it, to try that out.
    """
    cpu = torch.device("cpu")
    names = given.split(",") if given else []
    if names and set(names) == {"cpu"}:
        return [cpu] * len(names), None
    if not all(name.isdecimal() for name in names) or len(set(names)) < len(names):
        raise Refused(f"-d {given}: give the numbers of different GPUs, as 0,1, or cpu")
    if n_gpu == 0 and not names:
        return [cpu], None
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    there = torch.accelerator.device_count() if accelerator else 0
    asked = f"-d {given}" if names else f"n_gpu: {n_gpu}"
    if accelerator is None:
        warn = f"{asked} was given, but torch finds no GPU on this machine: using the CPU"
        return [cpu], warn if names or n_gpu not in (1, "auto") else None
    if any(int(name) >= there for name in names):
        raise Refused(f"{asked}: this machine has {there} GPUs, numbered from 0")
    wanted = there if n_gpu == "auto" else int(n_gpu)
    numbers = [int(name) for name in names] or range(min(wanted, there))
    few = f"{asked} was given, but this machine has {there}: using {there}" if wanted > there and not names else None
    return [torch.device(accelerator.type, number) for number in numbers], few


def device(n_gpu: int | str, given: str | None) -> tuple[torch.device, str | None]:
    """The device of this process, and what to warn of."""
    found, warn = devices(n_gpu, given)
    if joined() and not given and n_gpu != 0:  # a launcher starts as many as it likes
        found, _ = devices("auto", None)
    chosen = found[int(os.environ.get("LOCAL_RANK", 0)) % len(found)]
    if chosen.type != "cpu":
        torch.accelerator.set_device_index(chosen.index)
    return chosen, warn


def end_with_parent() -> None:
    """Be killed when the parent process ends, however it ends (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def start(count: int, command: Sequence[str]) -> None:
    """Run a Python script in `count` processes, and end as they do: with the exit code of the first that failed."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Each would take all cores for itself
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as e:  # it has told what happened
        _, first = e.get_first_failure()
        sys.exit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode)
    except SignalException as e:  # the processes have told and saved
        raise Interrupted("", 128 + e.sigval) from None
