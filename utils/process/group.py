"""The process group of a run: the rank of this process, and collective operations."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import Interrupted
from utils.process import launch
from utils.process.watchdog import watching

T = TypeVar("T")

before_leaving: list[Callable[[], None]] = []  # called before the process group is destroyed


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def is_local_main() -> bool:
    """Whether this is the first rank on its machine, which does what only one should, for example a download."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextlib.contextmanager
def process_group(timeout: float, tell: Callable[[str], None]) -> Iterator[None]:
    """Join the process group if a launcher started this process: it sets RANK, WORLD_SIZE, MASTER_ADDR, ...

    Inside, an error on one rank ends all ranks; so does a rank that keeps the others waiting for `timeout` seconds.
    tell: receives what happened, on rank 0 if it is still alive.
    """
    if not launch.joined():
        yield
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launch.end_with_parent()  # it hosts the store; ranks would wait for a lost one too long
    # GPU tensors use NCCL; numbers for the host, such as a stop signal, use gloo, which does not wait for the GPU
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    wait = timedelta(seconds=2 * timeout + 60)  # the watchdog must fire first
    dist.init_process_group(backend, timeout=wait, **_fresh_store(wait))
    try:
        with watching(timeout, broadcast(uuid.uuid4().hex), tell):
            yield
    except Interrupted:  # the same on all ranks; any other error has ended this process already
        barrier()
        raise
    else:
        barrier()  # rank 0 may host the store that the others use
    finally:
        for free in before_leaving:
            free()
        dist.destroy_process_group()


def _fresh_store(wait: timedelta) -> dict[str, Any]:
    """If torchrun shares its store: a prefix of it for this attempt. Under torch's own, which all attempts share, ranks
    would try to connect to ranks that died. (With several machines, attempt numbers may differ, so not there.)"""
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or env["GROUP_WORLD_SIZE"] != "1":
        return {}
    store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=wait)
    attempt = f"{env['TORCHELASTIC_RUN_ID']}/{env['TORCHELASTIC_RESTART_COUNT']}"
    return {"store": dist.PrefixStore(attempt, store), "rank": int(env["RANK"]), "world_size": int(env["WORLD_SIZE"])}


def barrier() -> None:
    sum_over_ranks([0.0])


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Each number, summed over all ranks, in one all-reduce."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.tolist()


def any_rank(flag: bool) -> bool:
    """Is it true on any rank? A collective call."""
    return sum_over_ranks([float(flag)])[0] > 0


def gather(value: T, group: Any = None) -> list[T]:
    """The value of each rank, in rank order; plain types only. group: another group of all ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group)
    return values


def broadcast(value: T) -> T:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class DelayedMax:
    """The maximum over ranks, delivered one call later, so that the all-reduce overlaps with a step."""

    def __init__(self) -> None:
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self, number: int) -> int:
        result = self.close()
        tensor = torch.tensor([number])
        self._pending = dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), tensor
        return result

    def close(self) -> int:
        """The maximum of the last call."""
        if self._pending is None:
            return 0
        work, tensor = self._pending
        self._pending = None
        work.wait()
        return int(tensor)
