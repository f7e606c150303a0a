"""Out of memory in a training step: the step is run again in smaller micro-batches, and so is the rest of the run."""

import contextlib
import gc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from logger.console import log
from trainer.engine.metrics import Sums
from utils.errors import Stopped
from utils.process.watchdog import Progress
from utils.tensors import unwrap

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer

# Besides torch.OutOfMemoryError: of CUDA, HIP and MPS; of the CPU; of libraries that find no room for their workspace
TEXTS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class OutOfMemory:
    """Where memory runs out before the first update of a step, doubles `accumulate` and runs the step again.

    Everything drawn in a step follows from its number, so the run is from there on the one that has this accumulation.
    Only in one process on a GPU. On several ranks the others wait in a collective by then; of the CPU's memory, the
    system gives more than it has, and kills the process later.
    """

    def __init__(self, trainer: "BaseTrainer") -> None:
        self._trainer = trainer
        self.active = trainer.world_size == 1 and trainer.device.type != "cpu" and trainer.optimizer is not None
        self._stream: Iterator[Any] | None = None  # which reads a step again after a change
        self._places: list[tuple[dict[str, Any], str]] | None = None  # of the buffers
        self._copies: list[Tensor] = []

    def stream(self) -> Any:
        """The micro-batches from the trainer's step on, without end."""
        loader, step = self._trainer.data_loader, self._trainer.step
        self._stream = self._read_again() if self.active else loader.iter_steps(step)
        return self._stream

    def _read_again(self) -> Iterator[Any]:
        loader = self._trainer.data_loader
        while True:
            accumulate = loader.sampler.accumulate
            with contextlib.closing(loader.iter_steps(self._trainer.step)) as stream:
                for batch in stream:
                    yield batch
                    if loader.sampler.accumulate != accumulate:
                        break

    def compute(self, batches: list[Any], stream: Any) -> None:
        """`compute_step`, again while memory runs out. Raises Stopped where the step cannot be run again."""
        trainer = self._trainer
        while batches:  # else every sample of it was bad
            buffers = self._keep_buffers()
            sums = Sums()
            try:
                with trainer.parallel.translated_errors(), trainer.recording(sums):
                    trainer.compute_step(batches)
            except RuntimeError as e:
                if (stopped := self.explained(e)) is None:
                    raise
                if not self._can_run_again(stream):
                    raise stopped from e
            else:
                trainer.window.take(sums)
                return
            # Here, the error and with it the tensors of the step are gone
            with torch.no_grad():
                for places, name, buffer, copy in buffers:
                    buffer.copy_(copy)
                    places[name] = buffer
            batches.clear()
            trainer.model.zero_grad(set_to_none=True)
            gc.collect()
            if trainer.device.type == "cuda":
                torch.cuda.empty_cache()
            trainer.data_loader.sampler.accumulate *= 2
            n = trainer.data_loader.sampler.accumulate
            log.warning(
                f"out of memory in step {trainer.step + 1}: running it again in {n} micro-batches, and so from here "
                f"on; trainer.accumulate={n} does so from the start"
            )
            batches += trainer.read(stream)

    def _can_run_again(self, stream: Any) -> bool:
        """Has no weight changed, and can every micro-batch be halved?"""
        trainer, sampler = self._trainer, self._trainer.data_loader.sampler
        before_updates = not trainer.updated_in_step and not trainer.pass_complete
        return before_updates and stream is self._stream and 2 * sampler.accumulate <= sampler.n // sampler.num_steps

    def explained(self, error: BaseException) -> Stopped | None:
        """The message for an out-of-memory error; None for any other error."""
        if not is_out_of_memory(error):
            return None
        trainer = self._trainer
        first = str(error).strip().splitlines()[0]
        place = Progress.at[1] if len(Progress.at) > 1 else 0  # of the phase: see PHASES in step.py
        if place < 0 or not trainer.model.training:
            return Stopped(
                f"out of memory in an evaluation after step {trainer.step}: {first}\nGive the validation data a "
                f"smaller batch_size, or let fewer processes use this device"
            )
        if place > 1:
            return Stopped(
                f"out of memory after step {trainer.step}: {first}\nCallbacks run there: EMA and SWA keep a copy of "
                f"the weights. Leave one out, or give a smaller model"
            )
        if trainer.pass_complete:
            return Stopped(
                f"out of memory in the update of step {trainer.step + 1}: {first}\nIt needs memory for the optimizer's "
                f"state, which the first update makes. Give a smaller model or an optimizer with less state, such as "
                f"SGD; or, on several GPUs, trainer.parallel=fsdp"
            )
        accumulate = max(trainer.options.accumulate, trainer.data_loader.sampler.accumulate)
        advice = f"Set trainer.accumulate={2 * accumulate}, which halves the memory for activations"
        if 2 * accumulate > trainer.data_loader.batch_size:
            advice = "Even one sample at a time is too much: give a smaller model or smaller inputs"
        return Stopped(f"out of memory in step {trainer.step + 1}: {first}\n{advice}, or trainer.precision=bf16")

    @torch.no_grad()
    def _keep_buffers(self) -> list[tuple[dict[str, Any], str, Tensor, Tensor]]:
        """(where it is, its name, it, a copy) of each buffer, which the forward pass of a failed attempt may change."""
        if self._places is None:
            criterion = self._trainer.criterion.criterion
            modules = [*unwrap(self._trainer.model).modules()]
            modules += criterion.modules() if isinstance(criterion, nn.Module) else []
            self._places = [(m._buffers, name) for m in modules for name, b in m._buffers.items() if b is not None]
        there = [(places, name) for places, name in self._places if places.get(name) is not None]
        buffers = [places[name] for places, name in there]
        if [b.shape for b in buffers] != [c.shape for c in self._copies]:
            self._copies = [torch.empty_like(b) for b in buffers]
        if buffers:
            torch._foreach_copy_(self._copies, buffers)
        return [(*at, b, c) for at, b, c in zip(there, buffers, self._copies, strict=True)]

    def state_dict(self) -> dict[str, int]:
        now, configured = self._trainer.data_loader.sampler.accumulate, self._trainer.options.accumulate
        changed = self.active and now != configured
        return {"configured": configured, "accumulate": now} if changed else {}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with the accumulation that fits, unless the config asks for another one today."""
        if self.active and state.get("configured") == self._trainer.options.accumulate:
            self._trainer.data_loader.sampler.accumulate = state["accumulate"]
            log.info(f"trainer.accumulate: {state['accumulate']} from here on, as memory ran out in an earlier step")


def is_out_of_memory(error: BaseException) -> bool:
    by_text = isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)
    return by_text or isinstance(error, torch.OutOfMemoryError)
