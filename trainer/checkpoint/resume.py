"""How a run starts: as a new one, or from a checkpoint."""

import math
from pathlib import Path
from typing import Any

import torch

from logger.console import log
from trainer.checkpoint import files, state
from trainer.checkpoint.files import step_of
from utils.config import differences
from utils.errors import Stopped
from utils.process import group
from utils.run_folder import BEST, Run


def start(trainer: Any) -> bool:
    """Open the run's folder, from its checkpoint where it has one; False if the run is finished already."""
    run = trainer.run = group.broadcast(trainer.run)
    saved = None
    if group.broadcast(run.exists):
        if group.is_main():
            run.lock()
        saved = _restore(trainer, run)
    if saved and trainer.finished:
        if saved["unwritten"] and group.is_main():
            trainer.open(saved)
            trainer.reporter.close()
            log.info(f"{run}: wrote what did not fit on the disk before: {', '.join(saved['unwritten'])}")
        log.info(f"nothing to do: {run} finished at step {trainer.step}: {trainer.why_finished}")
        return False
    if group.is_main():
        run.open(trainer.config.to_yaml())
        files.remove_leftovers(run.checkpoints)
        if saved:
            _set_aside_newer(run, trainer.step)
    group.barrier()
    trainer.open(saved)
    log.info(f"{'continuing' if saved else 'training'} in {run}" + (f" from step {trainer.step}" if saved else ""))
    for line in differences(saved["config"], trainer.config.to_dict()) if saved else []:
        log.info(f"changed: {line}")
    trainer.saving.warn_of_little_space()
    return True


def _restore(trainer: Any, run: Run) -> dict[str, Any] | None:
    """Give the trainer the state of the run's checkpoint; over several ranks, of the one that rank 0 chose."""
    path, saved = run.checkpoint, None
    if path is None and group.is_main():
        path, saved = files.newest_sound(run.checkpoints) or (None, None)
    path = group.broadcast(path)
    if path is None:
        log.warning(f"{run} ended before its first checkpoint: starting it again from step 0")
        return None
    try:
        saved = saved or files.load(path, look=group.is_main())  # one message for all ranks
    except files.BrokenCheckpoint as e:
        raise Stopped(f"no usable checkpoint: {path}: {e}; name another one, or the run's folder for its newest") from e
    state.restore(trainer, saved, path)
    return saved


def _set_aside_newer(run: Run, step: int) -> None:
    """Continuing from an older checkpoint keeps the newer ones, but not as the run's newest or best."""
    newer = [path for path in files.checkpoints(run.checkpoints) if step_of(path) > step]
    best = run.checkpoints / BEST
    newer += [path for path in run.checkpoints.glob("model_best_step*.pth") if _step_in(path) > step]
    if newer and best.is_file() and _step_in(best) > step:
        newer.append(best)
    for path in newer:
        path.replace(path.with_suffix(".pth.bak"))  # not rename: on Windows, it refuses a name that exists
        log.warning(f"{path.name} is newer than step {step}, where the run continues: renamed to {path.name}.bak")


def _step_in(path: Path) -> float:
    """The step of the checkpoint in a file, whose tensors are not read; infinity where it is none."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"])
    except Exception:  # a damaged file makes torch raise all kinds of errors
        return math.inf
