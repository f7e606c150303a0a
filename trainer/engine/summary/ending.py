"""The lines at the end of a run: result, speed, memory, where the time went, and what to run next."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from trainer.engine.timing import Advisor

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


def advice(trainer: "BaseTrainer") -> list[str]:
    """What would make the next run faster; empty where it hardly matters."""
    loader = trainer.data_loader
    in_memory = bool(getattr(loader.dataset, "in_memory", False))
    return Advisor(loader.num_workers, in_memory).advice(trainer.clock.shares())


def lines(trainer: "BaseTrainer", why: str | None) -> Iterator[str]:
    """The lines of a run that is finished. why: why before its last step."""
    yield f"finished at step {trainer.step}" + (f": {why}" if why else "")
    monitor = trainer.monitor
    parts = []
    if monitor.best is not None:
        yield f"best {monitor.name} {monitor.best:.6g} at step {monitor.best_step}"
        if (last := trainer.values.get(monitor.key)) is not None:
            parts.append(f"last {monitor.name} {last:.6g}")
    if speed := trainer.reporter.training_speed():
        parts.append(f"{speed:,.0f} samples/s in training")
    if memory := peak_memory(trainer.device):
        parts.append(
            f"peak memory {memory / 2**20:,.0f} MiB" + (" on the GPU" if trainer.device.type == "cuda" else "")
        )
    if parts:
        yield "  ".join(parts)
    if trainer.run is None:
        return
    folder = trainer.run.folder
    run, runs = (f'"{path}"' if " " in str(path) else path for path in (folder, folder.parent))
    yield f"saved in {folder}"
    yield f"next: python test.py -r {run}"
    if any(folder.rglob("events.out.tfevents.*")):
        yield f"      tensorboard --logdir {runs}  (open http://localhost:6006; Ctrl-C stops it)"
    else:
        yield f"      python -m logger.report {runs} --out report.html"


def peak_memory(device: torch.device) -> int | None:
    """Bytes: of tensors on a GPU, otherwise of this process; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
