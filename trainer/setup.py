"""What train.py and test.py prepare before and between the parts: processes, device, weights, a summary."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from logger import logger
from logger.logger import log
from trainer import checkpoint, state
from utils import distributed
from utils.seed import mix, seed_all

INIT_KEY = -1  # what initialises the weights is drawn apart from what steps draw


@contextmanager
def processes(verbosity: int = 2) -> Iterator[None]:
    """Join the other processes of the run, where a launcher started several, and start the console."""
    distributed.join()
    logger.setup(verbosity, distributed.is_main())
    try:
        yield
    finally:
        distributed.leave()


def device(config: Any, devices: str | None) -> torch.device:
    """The device of this process; says where it is not what was asked for."""
    chosen, warning = distributed.pick_device(config.run.n_gpu, devices)
    if warning:
        log.warning(warning)
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
    data_loader.configure(**common, accumulate=options.accumulate)
    data_loader.check_shards()
    if valid_data_loader is not None:
        valid_data_loader.configure(**common)


def model(config: Any) -> nn.Module:
    """The model, its weights a function of the seed, or taken from `init_from`."""
    seed_all(mix(config.run.seed, INIT_KEY))
    built = config.build("arch")
    if config.run.init_from is not None:
        path = Path(config.run.init_from)
        for line in state.load_matching(built, checkpoint.load_weights(path), str(path)):
            log.info(line)
    return built


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
