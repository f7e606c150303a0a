"""How a run starts: as a new one, from a checkpoint, or only to prove that its config works."""

import copy
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from logger import logger
from logger.logger import log
from trainer import checkpoint, state
from trainer.checkpoint import step_of
from utils import distributed
from utils.config import differences
from utils.errors import Refused, Stopped
from utils.run import BEST, Run


def start(trainer: Any) -> bool:
    """Open the run's folder, from its checkpoint where it has one; False if the run is finished already."""
    run = trainer.run = distributed.from_main(trainer.run)
    saved = None
    if distributed.from_main(run.exists):
        if distributed.is_main():
            run.lock()
        saved = _restore(trainer, run)
    if saved and trainer.finished:
        if saved["unwritten"] and distributed.is_main():
            trainer.open(saved)
            trainer.reporter.close()
            log.info(f"{run}: wrote what the disk had not taken: {', '.join(saved['unwritten'])}")
        log.info(f"nothing to do: {run} finished at step {trainer.step}: {trainer.why_finished}")
        return False
    if distributed.is_main():
        run.open(trainer.config.to_yaml())
        checkpoint.remove_leftovers(run.checkpoints)
        if saved:
            _set_aside_newer(run, trainer.step)
    distributed.wait_for_all()
    trainer.open(saved)
    log.info(f"{'continuing' if saved else 'training'} in {run}" + (f" from step {trainer.step}" if saved else ""))
    for line in differences(saved["config"], trainer.config.to_dict()) if saved else []:
        log.info(f"changed: {line}")
    trainer.saving.warn_of_little_space()
    return True


def _restore(trainer: Any, run: Run) -> dict[str, Any] | None:
    """Give the trainer the state of the run's checkpoint; over several ranks, of the one that rank 0 finds sound."""
    path, saved = run.checkpoint, None
    if path is None and distributed.is_main():
        path, saved = checkpoint.newest_sound(run.checkpoints) or (None, None)
    path = distributed.from_main(path)
    if path is None:
        log.warning(f"{run} ended before its first checkpoint: starting it again from step 0")
        return None
    try:
        saved = saved or checkpoint.load(path, look=distributed.is_main())  # once for all ranks
    except checkpoint.BrokenCheckpoint as e:
        raise Stopped(f"no usable checkpoint: {path}: {e}; name another one, or the run's folder for its newest") from e
    state.restore(trainer, saved, path)
    return saved


def _set_aside_newer(run: Run, step: int) -> None:
    """Continuing from an older checkpoint leaves the newer ones, but no longer as the run's newest or best."""
    newer = [path for path in checkpoint.checkpoints(run.checkpoints) if step_of(path) > step]
    best = run.checkpoints / BEST
    if newer and best.is_file() and _step_in(best) > step:
        newer.append(best)
    for path in newer:
        path.rename(path.with_suffix(".pth.bak"))
        log.warning(f"{path.name} is newer than step {step}, where the run goes on: renamed to {path.name}.bak")


def _step_in(path: Path) -> float:
    """The step of the checkpoint in a file; infinity where it is none."""
    try:
        return int(checkpoint.load(path)["step"])
    except checkpoint.BrokenCheckpoint:
        return math.inf


def check(config: Any, build: Callable[..., Any], devices: str | None) -> None:
    """Prove that a config works: two steps, a validation, a checkpoint, and a resume from it that is bit-equal."""
    config = copy.deepcopy(config)
    options = config.run.trainer
    log.info("checking: two steps, validation, checkpoint, resume")
    logger.setup(0, distributed.is_main())
    options.limit_batches, options.epochs, options.max_steps = 2, None, 2
    options.valid_steps = options.save_steps = options.log_steps = 1
    options.keep_last = 2
    with tempfile.TemporaryDirectory(prefix="groundwork-check-") as folder:
        whole = build(config, Run(Path(folder, "whole")), devices)
        start(whole)
        whole.train()
        first = Path(folder, "whole", "checkpoints", checkpoint.name_of(1))
        resumed = build(config, Run(Path(folder, "whole"), first), devices)
        whole.run.close()
        if distributed.is_main():
            first.with_name(checkpoint.name_of(2)).unlink()  # or else the resume would warn that it is newer
        start(resumed)
        resumed.train()
        resumed.run.close()
        one, two = whole.model.state_dict(), resumed.model.state_dict()
        on_gpu = whole.device.type != "cpu"
        differing = [name for name in one if not torch.equal(one[name], two[name])]
        if differing:
            raise Refused(
                f"--check: the config runs, but a resume is not bit-equal: {', '.join(differing[:5])} differ after "
                f"step 2; something in the data set, the model or the trainer draws or counts on its own"
                + (", or a GPU's kernel does not repeat itself: try trainer.deterministic=true" if on_gpu else "")
            )
    logger.setup(options.verbosity, distributed.is_main())
    log.info("it works, and a resume is bit-equal; nothing was left behind")
