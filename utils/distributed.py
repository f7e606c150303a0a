"""The processes of a run: which one this is, and what all of them know together."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils import launch
from utils.errors import Interrupted
from utils.watchdog import beat, together, watching

__all__ = ["beat", "together"]
T = TypeVar("T")

before_leaving: list[Callable[[], None]] = []  # frees what must go before the process group does


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def is_first_here() -> bool:
    """Is this the process of its machine that does what only one should, as a download?"""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextlib.contextmanager
def joined(timeout: float, tell: Callable[[str], None]) -> Iterator[None]:
    """Be one of the processes that a launcher has started, if one has: it sets RANK, WORLD_SIZE, MASTER_ADDR, ...

    Within this, an error in one rank ends them all; so does one that keeps the others waiting for `timeout` seconds.
    `tell` is given what happened, on rank 0 if that still can.
    """
    if not launch.joined():
        yield
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launch.end_with_parent()  # it holds the store, for which ranks that start or end would wait twice the timeout
    # Tensors on the GPU go over NCCL; numbers for the host, as a vote on stopping, over gloo: no wait for the GPU
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    wait = timedelta(seconds=2 * timeout + 60)  # the watchdog is to be first
    dist.init_process_group(backend, timeout=wait, **_fresh_store(wait))
    try:
        with watching(timeout, from_main(uuid.uuid4().hex), tell):
            yield
    except Interrupted:  # on all ranks alike; any other error has ended this process, or its watchdog did not start
        wait_for_all()
        raise
    else:
        wait_for_all()  # rank 0 may hold the store that the others talk to
    finally:
        for free in before_leaving:
            free()
        dist.destroy_process_group()


def _fresh_store(wait: timedelta) -> dict[str, Any]:
    """Where torchrun lends its store: a part of it that no earlier attempt has used. There torch would find the
    addresses of ranks that died, and dial them until it gives up. (Machines may count attempts each for itself.)"""
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or env["GROUP_WORLD_SIZE"] != "1":
        return {}
    store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=wait)
    attempt = f"{env['TORCHELASTIC_RUN_ID']}/{env['TORCHELASTIC_RESTART_COUNT']}"
    return {"store": dist.PrefixStore(attempt, store), "rank": int(env["RANK"]), "world_size": int(env["WORLD_SIZE"])}


def wait_for_all() -> None:
    sum_over_ranks([0.0])


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Each number, summed over all ranks; one reduction for all of them."""
    if world() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.tolist()


def any_rank(flag: bool) -> bool:
    """Is it true on any rank? All must ask."""
    return sum_over_ranks([float(flag)])[0] > 0


def gather(value: T, group: Any = None) -> list[T]:
    """The value of each rank, in their order; plain types only. group: of all ranks, where not the default one."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group)
    return values


def from_main(value: T) -> T:
    """Rank 0's value, on every rank."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class Vote:
    """The largest number that any rank gave, told at the next call: so the reduction runs beside a step."""

    def __init__(self) -> None:
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self, number: int) -> int:
        result = self.close()
        tensor = torch.tensor([number])
        self._pending = dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), tensor
        return result

    def close(self) -> int:
        """The result of the last call."""
        if self._pending is None:
            return 0
        work, tensor = self._pending
        self._pending = None
        work.wait()
        return int(tensor)
