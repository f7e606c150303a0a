"""What train.py and test.py prepare before and between the parts: processes, device, weights, a summary."""

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from logger import logger
from logger.logger import log
from trainer import checkpoint, state
from utils import distributed, launch
from utils.errors import Refused
from utils.run import Run
from utils.seed import mix, seed_all

INIT_KEY = -1  # what initialises the weights is drawn apart from what steps draw


@contextmanager
def processes(verbosity: int = 2, timeout: float = 600) -> Iterator[None]:
    """Join the other processes of the run, where a launcher started several, and start the console."""
    with distributed.joined(timeout, log.error):
        logger.setup(verbosity, distributed.is_main())
        yield


def device(config: Any, devices: str | None) -> torch.device:
    """The device of this process; says where it is not what was asked for."""
    chosen, warning = launch.device(config.run.n_gpu, devices)
    if warning:
        log.warning(warning)
    tune(config, chosen)
    return chosen


def loaders(config: Any, data_loader: Any, valid_data_loader: Any = None) -> None:
    """Tell the loaders what the run decides: seed, ranks, micro-batches."""
    options = config.run.trainer
    common = {
        "seed": config.run.seed,
        "rank": distributed.rank(),
        "world": distributed.world(),
        "limit": options.limit_batches,
        "skip_bad_samples": options.skip_bad_samples,
        "pin_memory": torch.cuda.is_available(),
    }
    accumulate = options.accumulate
    if options.exact_ranks:
        if accumulate % distributed.world():
            raise Refused(
                f"trainer.accumulate: {accumulate} was given; with exact_ranks these are the micro-batches of all "
                f"ranks together, so a multiple of the {distributed.world()} ranks is accepted"
            )
        accumulate //= distributed.world()
    data_loader.configure(**common, accumulate=accumulate)
    data_loader.check_shards()
    if valid_data_loader is not None:
        valid_data_loader.configure(**common)


def tune(config: Any, device: torch.device) -> None:
    """The CPU's allocator and arithmetic as training wants them; `trainer.fast_cpu: false` leaves them alone."""
    if device.type != "cpu" or not config.run.trainer.fast_cpu:
        return
    torch.set_flush_denormal(True)  # numbers below 1e-38 are zero; computing with them takes a hundred times as long
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        # Else the memory of large tensors goes back to the system after each step, and comes anew page by page
        libc, m_trim_threshold, m_mmap_threshold = ctypes.CDLL("libc.so.6"), -1, -3
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, 2**30)


def model(config: Any, device: torch.device, run: Run | None = None) -> nn.Module:
    """The model on its device, its weights a function of the seed, or taken from `init_from`: unless the run has a
    checkpoint, for then that file may be gone since."""
    seed_all(mix(config.run.seed, INIT_KEY))
    built = config.build("arch")
    if _channels_last(config.run.trainer, built, device):
        built = built.to(memory_format=torch.channels_last)
    begun = run is not None and run.exists and checkpoint.checkpoints(run.checkpoints)
    if config.run.init_from is not None and not begun:
        path = Path(config.run.init_from)
        for line in state.load_matching(built, checkpoint.load_weights(path), str(path)):
            log.info(line)
    return built.to(device)


def _channels_last(options: Any, model: nn.Module, device: torch.device) -> bool:
    """As `trainer.channels_last` says, else where convolutions are faster so: on the CPU, and in 16 bits on a GPU."""
    if options.channels_last is not None:
        return bool(options.channels_last)
    faster = device.type == "cpu" or (device.type == "cuda" and options.precision != "fp32")
    return faster and any(isinstance(module, nn.Conv2d) for module in model.modules())


def summary(model: nn.Module) -> str:
    """Parameters of the model and of each of its children."""
    rows = [(name, type(child).__name__, _count(child)) for name, child in model.named_children()]
    rows.append((type(model).__name__, "", _count(model)))
    wide = [max(len(str(row[i])) for row in rows) for i in (0, 1)]
    lines = [f"  {name:<{wide[0]}}  {kind:<{wide[1]}}  {n:>12,}" for name, kind, n in rows[:-1]]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = "" if trainable == rows[-1][2] else f", {trainable:,} of them trained"
    return "\n".join([f"{type(model).__name__}: {rows[-1][2]:,} parameters{frozen}", *lines])


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
