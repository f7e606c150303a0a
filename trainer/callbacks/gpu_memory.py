"""GPUMemory: how much memory of the GPU a run uses, over time."""

from typing import Any

import torch


class GPUMemory:
    """gpu_memory_gb and gpu_memory_peak_gb every `every` steps, of rank 0's GPU: by tensors. Nothing on a CPU."""

    def __init__(self, every: int = 50) -> None:
        self.every = max(1, every)

    def after_step(self, trainer: Any) -> None:
        if trainer.device.type != "cuda" or trainer.step % self.every:
            return
        device = trainer.device
        used = {
            "gpu_memory_gb": torch.cuda.memory_allocated(device) / 1e9,
            "gpu_memory_peak_gb": torch.cuda.max_memory_allocated(device) / 1e9,
        }
        trainer.reporter.details(trainer.step, "train", used, repeats=False)
