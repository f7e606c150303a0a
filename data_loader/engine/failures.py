"""Messages about samples that cannot be read, collated, sent or moved: which ones, their shapes, what to do."""

import dataclasses
import errno
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loader.engine.batch import Batch
from utils.errors import SampleError, dead_worker

ENGINE = str(Path(__file__).parent)
LIBRARIES = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib"))
FAILURES = (Exception, SystemExit)  # a data set that calls sys.exit() must not end the run as if it had finished
SHOWN = 8  # numbers or kinds that a message lists


def describe(error: BaseException) -> str:
    """`ValueError: no such label (at data_loaders.py:31)`; the place is in the data set's own code."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = next((f for f in frames if not f.filename.startswith((ENGINE, *LIBRARIES, "<"))), None)
    place = f" (at {Path(own.filename).name}:{own.lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}{_limit(error)}"


def _limit(error: BaseException) -> str:
    """Advice when a limit of the system is the cause."""
    number, text = getattr(error, "errno", None), str(error)
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text or "items of ancdata" in text:
        return (
            "\nToo many files are open: raise the limit (ulimit -n 65536), lower data_loader.args.num_workers or "
            "prefetch, or call torch.multiprocessing.set_sharing_strategy('file_system') in your data loader's file"
        )
    if number in (errno.ENOMEM, errno.ENOSPC, errno.EAGAIN) or "shared memory" in text or "No space left" in text:
        return (
            "\nThe machine has no more memory, shared memory (/dev/shm) or processes: lower num_workers, prefetch or "
            "batch_size in data_loader.args, or raise the limits (of a container: docker run --shm-size=8g)"
        )
    return ""


def unreadable(dataset: Any, index: int, error: BaseException) -> str:
    reason = f"sample {index}{_path(dataset, index)} could not be read: {describe(error)}"
    if isinstance(error, IndexError):
        reason += f"\nThe data set's len() is {len(dataset)}: it must be able to give samples 0 to {len(dataset) - 1}"
    return reason


def _path(dataset: Any, index: int) -> str:
    """` (its file)` if the data set lists its files in `samples`, as torchvision's folders do."""
    try:
        sample = dataset.samples[index]
    except (AttributeError, IndexError, KeyError, TypeError):
        return ""
    return f" ({sample[0] if isinstance(sample, (tuple, list)) else sample})"


def not_collated(indices: np.ndarray, samples: Sequence[Any], error: BaseException, is_own: bool) -> SampleError:
    """For a batch that `collate_fn` does not make. is_own: it is the user's function, not the default."""
    kinds: dict[str, list[int]] = {}
    for index, sample in zip(indices.tolist(), samples, strict=True):
        kinds.setdefault(shape_of(sample), []).append(index)
    differ = len(kinds) > 1 and not is_own and not _limit(error)  # torch's own words depend on the process
    why = "their shapes or types differ" if differ else describe(error)
    lines = [f"samples {numbers(indices)} do not collate into a batch: {why}"]
    lines += [f"  {kind}: samples {numbers(which)}" for kind, which in list(kinds.items())[:SHOWN]]
    if "<class 'PIL." in str(error):
        lines.append("Make tensors of pictures of PIL: set transforms and eval_transforms, to [ToImage] say")
    elif differ and all(isinstance(s, tuple) and getattr(s[0], "dtype", None) == torch.uint8 for s in samples):
        lines.append(
            "Give all images one size: list RandomResizedCrop in transforms, and Resize with two numbers, "
            "{type: Resize, args: {size: [224, 224]}}, in eval_transforms (one number is the short side alone)"
        )
    elif is_own:
        lines.append("The error is in the data loader's own collate_fn; these are the samples that it was given")
    else:
        lines.append(
            "Give all samples the same shapes and types, or pad them to one length in a collate_fn: "
            "super().__init__(dataset, batch_size, collate_fn=...), see torch.nn.utils.rnn.pad_sequence"
        )
    return SampleError("\n".join(lines))


def not_sent(indices: Sequence[int] | np.ndarray, data: Any, error: BaseException) -> SampleError:
    """For a batch that cannot be sent from a worker to the main process."""
    return SampleError(
        f"the batch of samples {numbers(indices)} could not be sent from a data loader worker: {describe(error)}\n"
        f"  the batch: {shape_of(data)}\n"
        f"Return only tensors, arrays, numbers, strings and containers of them (no lambda, generator, open file or "
        f"lock), or set data_loader.args.num_workers=0"
    )


def not_started(error: BaseException) -> SampleError:
    """For workers that the system, or their first lines of code, or what is sent to them, keeps from starting."""
    if "in DataLoader worker process" in str(error):  # torch's text of an error in a worker ends with it
        last = str(error).strip().rpartition("\n")[2]
        return SampleError(f"a data loader worker could not be started: {last}{_limit(error)}")
    if _limit(error):
        return SampleError(f"the data loader's workers could not be started: {describe(error)}")
    return SampleError(
        f"the data set or its collate_fn could not be sent to the data loader's workers: {describe(error)}\n"
        f"Define its classes and functions at the top of a file (no lambda, no class inside a function), open files "
        f"when they are first read, or set data_loader.args.num_workers=0"
    )


def not_moved(what: str, batch: Batch, error: BaseException) -> BaseException:
    """what: `batch_transform failed for`, say. Returns the error itself if this batch did not cause it."""
    if isinstance(error, torch.OutOfMemoryError):
        return error
    if dead := dead_worker(error):
        return dead
    return SampleError(
        f"{what} the batch of samples {numbers(batch.indices)}: {describe(error)}\n  the batch: {shape_of(batch.data)}"
    )


def numbers(indices: Sequence[int] | np.ndarray) -> str:
    """`[3, 5, 8]`, or `[3, 5, 8, ... (61 in all)]`"""
    shown = ", ".join(str(int(i)) for i in indices[:SHOWN])
    return f"[{shown}]" if len(indices) <= SHOWN else f"[{shown}, ... ({len(indices)} in all)]"


def shape_of(value: Any) -> str:
    """`(float32 [3, 32, 32], int)`"""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        return _several("{", [f"{key}: {shape_of(v)}" for key, v in value.items()], "}")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [f"{f.name}={shape_of(getattr(value, f.name, None))}" for f in dataclasses.fields(value)]
        return _several(f"{type(value).__name__}(", parts, ")")
    if isinstance(value, (tuple, list)):
        left, right = "()" if isinstance(value, tuple) else "[]"
        return _several(left, [shape_of(v) for v in value], right)
    return "None" if value is None else type(value).__name__


def _several(left: str, parts: list[str], right: str) -> str:
    more = [f"... {len(parts)} in all"] if len(parts) > SHOWN else []
    return left + ", ".join(parts[:SHOWN] + more) + right
