"""`train.py --check`: prove that a config works, and leave nothing behind."""

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from logger import console
from logger.console import log
from trainer.checkpoint import files, resume
from utils.errors import SampleError, UsageError
from utils.process import group
from utils.run_folder import Run
from utils.tensors import unwrap

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


def check(config: Any, build: Callable[..., Any], devices: str | None) -> None:
    """Prove that a config works: two steps, a validation, a checkpoint, and a resume from it that is bit-equal."""
    config = copy.deepcopy(config)
    options = config.run.trainer
    log.info("checking: two steps, validation, checkpoint, resume")
    console.setup(0, group.is_main())
    options.limit_batches, options.epochs, options.max_steps = 2, None, 2
    options.valid_steps = options.save_steps = options.log_steps = 1
    options.keep_last = 2
    # After an error the lock is still open, and Windows cannot delete it; that must not hide the error
    temporary = tempfile.TemporaryDirectory(prefix="groundwork-check-", ignore_cleanup_errors=True)
    with _before_training(), temporary as folder:
        whole = build(config, Run(Path(folder, "whole")), devices)
        resume.start(whole)
        whole.train()
        first = Path(folder, "whole", "checkpoints", files.name_of(1))
        resumed = build(config, Run(Path(folder, "whole"), first), devices)
        whole.run.close()
        if group.is_main():
            first.with_name(files.name_of(2)).unlink()  # otherwise the resume would warn that it is newer
        resume.start(resumed)
        resumed.train()
        resumed.run.close()
        _compare(whole, resumed)
    console.setup(options.verbosity, group.is_main())
    log.info("it works, and a resume is bit-equal; nothing was left behind")


@contextlib.contextmanager
def _before_training() -> Iterator[None]:
    """Turn errors in the data into UsageErrors, whichever step of the check finds them."""
    try:
        yield
    except SampleError as e:
        raise UsageError(str(e)) from e


def _compare(whole: "BaseTrainer", resumed: "BaseTrainer") -> None:
    """Raise UsageError if two steps without a break and with a resume between them did not end alike."""
    one, two = (unwrap(trainer.model).state_dict() for trainer in (whole, resumed))
    if differing := [name for name in one if not _same(one[name], two[name])]:
        on_gpu = whole.device.type != "cpu"
        raise UsageError(
            f"--check: the config runs, but a resume is not bit-equal: {', '.join(differing[:5])} differ after step 2; "
            f"something in the data set, the model or the trainer draws or counts on its own"
            + (", or a GPU's kernel does not repeat itself: try trainer.deterministic=true" if on_gpu else "")
        )
    hidden, after = dict(_attributes(whole)), dict(_attributes(resumed))
    if lost := [name for name, value in hidden.items() if name in after and not _same(value, after[name])]:
        raise UsageError(
            f"--check: the config runs, but a resume loses {', '.join(lost[:5])}: it changes, and is in no checkpoint. "
            f"Make a tensor of a module a buffer (register_buffer), or add it to state_dict and "
            f"load_state_dict; start its name with _ if results do not depend on it"
        )


def _attributes(trainer: "BaseTrainer") -> Iterator[tuple[str, Any]]:
    """Tensors, arrays and integers that the user's objects keep as plain attributes, also in lists and dicts."""
    owners = {"model": unwrap(trainer.model), "loss": trainer.criterion.criterion}
    owners |= {type(callback).__name__: callback for callback in trainer.callbacks}
    for root, owner in owners.items():
        for path, module in owner.named_modules() if isinstance(owner, nn.Module) else [("", owner)]:
            for name, value in getattr(module, "__dict__", {}).items():
                if not name.startswith("_") and name != "training" and not isinstance(value, bool):
                    yield ".".join(filter(None, (root, path, name))), value


def _same(a: Any, b: Any, inside: bool = False) -> bool:
    """Are two values equal, as far as they are tensors, arrays or integers? inside: a list or dict."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(torch.nan_to_num(a.detach()), torch.nan_to_num(b.detach()))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, int) and isinstance(b, int) and not inside:
        return a == b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(_same(a[key], b[key], inside=True) for key in a.keys() & b.keys())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y, inside=True) for x, y in zip(a, b, strict=True))
    return True
