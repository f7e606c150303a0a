"""GradNorm: the global gradient norm in the log."""

import torch

from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.optim.schedules import by_name


class GradNorm:
    """`grad_norm` at each log point: the mean over its steps of the norm before clipping, over all ranks.

    With several optimizers: grad_norm_NAME. The norm is computed in any case; this does not wait for the device.
    """

    def after_step(self, trainer: BaseTrainer) -> None:
        for name, optimizer in by_name(trainer.optimizer).items():
            norm = trainer.grad_norms.get(id(optimizer))
            if norm is not None:  # else it has not stepped
                finite = torch.as_tensor(norm).isfinite()  # fp16 skips steps where it is not
                trainer.window.add(f"grad_norm_{name}" if name else "grad_norm", norm, 1, finite)
