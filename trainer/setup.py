"""What train.py and test.py prepare before and between the parts: processes, device, weights, a summary."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from logger import logger
from logger.logger import log
from trainer import checkpoint, compiling, weights
from trainer.state import count
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
    compiling.check(config.run.trainer.compile, chosen)
    return chosen


def loaders(config: Any, device: torch.device, data_loader: Any, valid_data_loader: Any = None) -> None:
    """Tell the loaders what the run decides: seed, device, ranks, micro-batches."""
    options = config.run.trainer
    common = {
        "seed": config.run.seed,
        "rank": distributed.rank(),
        "world": distributed.world(),
        "limit": options.limit_batches,
        "skip_bad_samples": options.skip_bad_samples,
        "device": device,
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
    if data_loader.num_workers and getattr(data_loader.dataset, "in_memory", False):
        log.info(
            f"data_loader.args.num_workers is {data_loader.num_workers}, and the data are in memory: workers take "
            f"longer to send batches than it takes to make them; 0 is faster, unless the augmentation is dear"
        )
    if valid_data_loader is not None:
        valid_data_loader.configure(**common)


def tune(config: Any, device: torch.device) -> None:
    """The kernels of a GPU as the config chooses them; the CPU's allocator and arithmetic as training wants them,
    unless `trainer.fast_cpu` is false."""
    options = config.run.trainer
    if device.type == "cuda":
        tf32(options.tf32)
        torch.backends.cudnn.benchmark = options.cudnn_benchmark
    if device.type != "cpu" and options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first use
        torch.use_deterministic_algorithms(True)
    if device.type == "cpu" and options.fast_cpu:
        torch.set_flush_denormal(True)  # numbers below 1e-38 are zero, with which computing takes 100 times as long
        keep_memory(2**30 if options.parallel == "ddp" else 2**18)  # what fsdp takes apart has to go at once


def tf32(on: bool) -> None:
    """Let a GPU compute in TF32 where numbers are of 32 bits, or not."""
    cudnn, precision = torch.backends.cudnn, "tf32" if on else "ieee"
    # The old switches first: torch.compile of 2.10 reads them, and they raise where they and the new ones differ
    torch.backends.cuda.matmul.allow_tf32 = cudnn.allow_tf32 = on
    torch.backends.cuda.matmul.fp32_precision = precision
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]


def keep_memory(largest: int = 2**30) -> None:
    """Let the process keep what it frees, for its next step; larger pieces (bytes) go back to the system."""
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        # Else the memory of large tensors goes back to the system after each step, and comes anew page by page
        libc, m_trim_threshold, m_mmap_threshold = ctypes.CDLL("libc.so.6"), -1, -3
        libc.mallopt(m_mmap_threshold, largest)
        libc.mallopt(m_trim_threshold, largest)


def model(config: Any, device: torch.device, run: Run | None = None) -> nn.Module:
    """The model on its device, its weights a function of the seed, or taken from `init_from`: unless the run has a
    checkpoint, for then that file may be gone since."""
    seed_all(mix(config.run.seed, INIT_KEY))
    built = config.build("arch")
    if _channels_last(config.run.trainer, built, device):
        built = built.to(memory_format=torch.channels_last)
    begun = run is not None and run.exists and checkpoint.checkpoints(run.checkpoints)
    if config.run.init_from is not None and not begun:
        for line in weights.load(built, Path(config.run.init_from)):
            log.info(line)
    if config.run.trainer.parallel == "fsdp":
        from trainer import fsdp  # takes half a second to import

        built = fsdp.shard(built, config, device)
    return built.to(device)


def _channels_last(options: Any, model: nn.Module, device: torch.device) -> bool:
    """As `trainer.channels_last` says, else where convolutions are faster so: on the CPU, and in 16 bits on a GPU."""
    if options.parallel == "fsdp":  # which cuts weights along their first dimension, as they lie in memory
        return False
    if options.channels_last is not None:
        return bool(options.channels_last)
    faster = device.type == "cpu" or (device.type == "cuda" and options.precision != "fp32")
    return faster and any(isinstance(module, nn.Conv2d) for module in model.modules())


def summary(model: nn.Module) -> str:
    """Parameters of the model and of each of its children."""
    rows = [(name, _class(child), count(child)) for name, child in model.named_children()]
    rows.append((_class(model), "", count(model)))
    wide = [max(len(str(row[i])) for row in rows) for i in (0, 1)]
    lines = [f"  {name:<{wide[0]}}  {kind:<{wide[1]}}  {n:>12,}" for name, kind, n in rows[:-1]]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = "" if trainable == rows[-1][2] else f", {trainable:,} of them trained"
    return "\n".join([f"{_class(model)}: {rows[-1][2]:,} parameters{frozen}", *lines])


def _class(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("FSDP")  # which sharding puts before it
