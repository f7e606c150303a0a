"""Finds the known error, and where it happened: the line, the layer, the tensors.

Add an error to one of the lists beside this file: a pattern of `Type: message` and two sentences, in which {1} is what
the pattern's first group matched. The first entry that matches counts: a special case comes before the general one.
"""

import contextlib
import functools
import re
import shutil
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from utils.troubleshooting.code import CHECKPOINTS, GRADIENTS, MODELS
from utils.troubleshooting.known import Known
from utils.troubleshooting.machine import MACHINE
from utils.troubleshooting.shapes import LOSSES, SHAPES
from utils.troubleshooting.values import DEVICES, DTYPES, INDICES, NOT_FINITE, NUMBERS

ROOT = Path(__file__).resolve().parents[2]  # of the project

OF_TENSORS = (*SHAPES, *LOSSES, *DTYPES, *DEVICES, *NUMBERS, *INDICES, *NOT_FINITE, *MODELS)  # whose shapes are shown
KNOWN = (*OF_TENSORS, *GRADIENTS, *CHECKPOINTS, *MACHINE)

LIBRARIES = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
AUTOGRAD = ("/torch/_tensor.py", "/torch/autograd/")  # its frames hold the loss, which says nothing about the error
SHOWN = 4  # tensors
LONGEST = 60  # characters of a layer's description


def advice(error: BaseException) -> str | None:
    """Two or three lines on a known error; None for any other. Imports nothing."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    known, found = find(error, frames)
    if known is None or found is None:
        return None
    groups = {str(i): group or "" for i, group in enumerate((found[0], *found.groups()))}
    lines = [f"what it means: {_filled(known.means, groups)}"]
    if where := "; ".join(_where(error, frames, with_tensors=known in OF_TENSORS)):
        lines.append(f"where: {where}")
    return _fitted([*lines, f"what to try: {_filled(known.tries, groups)}"])


def _fitted(lines: list[str]) -> str:
    """The lines, broken between words where a terminal is too narrow for them."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        fit = functools.partial(
            textwrap.fill, width=width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        lines = [fit(line) for line in lines]
    return "\n".join(lines)


def find(error: BaseException, frames: list[FrameType]) -> tuple[Known, re.Match[str]] | tuple[None, None]:
    """The first known error that this one is."""
    modules, tensors = _modules(frames), _innermost_tensors(frames)
    layer = type(modules[-1]).__name__ if modules else ""
    shape = tensors[0][tensors[0].find("[") :] if tensors else ""
    text = _of_worker(error) or f"{type(error).__name__}: {error}"
    for known in KNOWN:
        if found := known.match(text, f"{layer} {shape}".strip()):
            return known, found
    return None, None


def _of_worker(error: BaseException) -> str:
    """`Type: message` of an error that a data loader's worker passed on with its own traceback; '' of any other."""
    found = re.match(r"Caught (\w+) in .*\n(?:\w+\.)*(\1: .*)", str(error), re.DOTALL)
    return found[2].rstrip() if found else ""


def _filled(text: str, groups: dict[str, str]) -> str:
    """`text` with {1}, {2}, ... replaced by what the pattern's groups matched; other braces stay."""
    for number, group in groups.items():
        text = text.replace(f"{{{number}}}", group)
    return text


def _is_engine(path: Path) -> bool:
    """Is a file one of this project that its owner seldom changes?"""
    return path.is_relative_to(ROOT) and "engine" in path.relative_to(ROOT).parts


def _where(error: BaseException, frames: list[FrameType], with_tensors: bool) -> Iterator[str]:
    """The innermost line of the user's own code, the innermost layer by its name, and the tensors there."""
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if _of_worker(error):
        places += re.findall(r'File "(.+?)", line (\d+)', str(error))
    own = [(Path(name), line) for name, line in places if not name.startswith((*LIBRARIES, "<"))]
    own = [(path, line) for path, line in own if not _is_engine(path)]
    if own:
        path, line = own[-1]
        here = Path.cwd()
        yield f"line {line} of {path.relative_to(here) if path.is_relative_to(here) else path.name}"
    if modules := _modules(frames):
        yield _named(modules[0], modules[-1])
    if with_tensors and (tensors := _innermost_tensors(frames)):
        yield "there " + ", ".join(tensors[:SHOWN])


def _modules(frames: list[FrameType]) -> list[Any]:
    """The torch modules that were being called, from the outermost to the innermost."""
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    owners = [frame.f_locals.get("self") for frame in frames]
    return [owner for owner in owners if isinstance(owner, torch.nn.Module) and "_modules" in vars(owner)]


def _named(outermost: Any, innermost: Any) -> str:
    """`layer features.0 (Conv2d(1, 32, kernel_size=(3, 3)))`"""
    described = type(innermost).__name__
    with contextlib.suppress(AttributeError):  # of a layer whose __init__ has failed
        if len(full := f"{described}({innermost.extra_repr()})") <= LONGEST:
            described = full
    name = next((name for name, module in outermost.named_modules() if module is innermost), "")
    return f"layer {name} ({described})" if name else described


def _innermost_tensors(frames: list[FrameType]) -> list[str]:
    """Those of the innermost function that has any."""
    return next(filter(None, map(_tensors, reversed(frames))), [])


def _tensors(frame: FrameType) -> list[str]:
    """`input float32 [64, 128]` for each tensor among the variables of a function; none of a whole file."""
    torch, code = sys.modules.get("torch"), frame.f_code
    of_autograd = any(part in code.co_filename.replace("\\", "/") for part in AUTOGRAD)
    if torch is None or of_autograd or code.co_name == "<module>":
        return []
    found = {name: value for name, value in frame.f_locals.items() if isinstance(value, torch.Tensor)}
    inputs = {name: value for name, value in found.items() if not _is_weight(name, value, torch)}
    found = inputs or found
    devices = {value.device for value in found.values()}
    return [
        f"{name} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        + (f" on {value.device}" if len(devices) > 1 else "")
        for name, value in found.items()
    ]


def _is_weight(name: str, value: Any, torch: Any) -> bool:
    return isinstance(value, torch.nn.Parameter) or name.startswith("running_")
