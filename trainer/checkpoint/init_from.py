"""`init_from`: a new run begins with weights of an earlier one, of the 2020 template, or of a plain state_dict."""

import math
import os
import pickle
import pickletools
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.checkpoint.files import verify
from utils.config import published
from utils.errors import UsageError
from utils.process.group import barrier, is_local_main
from utils.run_folder import find_checkpoint
from utils.tensors import load_weights

SAVE = "torch.save(model.state_dict(), 'weights.pth')"
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
VALUES = ("argparse", "collections", "datetime", "decimal", "enum", "pathlib")
NO_NOTHING = ("torch.nn.modules.", "torch.distributed.")  # a whole model, and tensors
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin


def load(model: nn.Module, path: Path) -> list[str]:
    """Load the weights that fit by name and shape; the lines say what was missing, unused or of another shape.

    Raises UsageError where none fits.
    """
    path = _file(path)
    how, weights = _best(path, model.state_dict())
    return _load(model, weights, f"init_from {path}", how)


def load_published(config: Any) -> list[str]:
    """Load what its libraries publish into the model that a config has built, and say as `load` does what did not fit.

    Downloads it if need be; raises UsageError where that fails.
    """
    lines = []
    for model, make in config.published:
        name, source = getattr(make.func, "timm_name", make.func.__name__), None
        if is_local_main():
            source = _published(name, make)
        barrier()  # the others find what was downloaded
        weights = (source or _published(name, make)).state_dict()
        lines += _load(model, weights, f"arch: weights of {name}")
    config.published = []
    return lines


def _published(name: str, make: Any) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return make()
    except Exception as e:  # each library and each kind of network has its own
        why = str(e).strip().partition("\n")[0] or type(e).__name__
        raise UsageError(
            f"arch: the weights of {name} are not on this machine, and downloading them failed: {why}. "
            + published.where_to_get(make)
        ) from e


def _load(model: nn.Module, weights: Mapping[str, Any], where: str, how: str = "") -> list[str]:
    own = model.state_dict()
    resized = _resized(weights, own)
    changed = [f"{k} {list(weights[k].shape)} -> {list(own[k].shape)}" for k in resized]
    weights = {**weights, **resized}
    fits = _fitting(weights, own)
    if not fits:
        raise UsageError(
            f"{where}: none of its {len(weights)} tensors fits the model's {len(own)} by name and shape; "
            f"it has {', '.join(list(weights)[:3])}, ...; the model has {', '.join(list(own)[:3])}, ..."
        )
    load_weights(model, fits, strict=False)
    lines = [f"{where}: {len(fits)} of the model's {len(own)} tensors loaded{how}"]
    shapes = [k for k in weights if k in own and k not in fits]
    missing = [k for k in own if k not in weights]
    if (head := _head(model)) and not missing and {k.rpartition(".")[0] for k in shapes} == {head}:
        for k in shapes:  # as in arXiv:2010.11929: large random weights would spoil the first steps
            own[k].zero_()
        sizes = ", ".join(f"{k} {list(weights[k].shape)} -> {list(own[k].shape)}" for k in shapes)
        lines.append(f"{head} is a fresh head, which starts from zero: {sizes}")
        shapes = []
    for what, keys in (
        ("resized, for images of another size or other channels", changed),
        ("missing there, left as initialized", missing),
        ("not in the model, left out", [k for k in weights if k not in own]),
        (
            "of another shape, left as initialized",
            [f"{k} {list(_shape(weights[k]) or ())} -> {list(_shape(own[k]) or ())}" for k in shapes],
        ),
    ):
        if keys:
            lines.append(f"{len(keys)} {what}: {', '.join(keys)}")
    return lines


def _resized(weights: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """What fits once it is resized, as timm does: the first convolution, and position embeddings [1, N, D] of a ViT."""
    found = dict[str, Tensor]()
    first = next((k for k, v in own.items() if isinstance(v, Tensor) and v.dim() == 4), None)
    for k, value in weights.items():
        old, new = _shape(value), _shape(own.get(k))
        if not old or not new or old == new or len(old) != len(new) or not value.is_floating_point():
            continue
        if k == first and old[1] in (1, 3) and (old[0], old[2:]) == (new[0], new[2:]):
            several = value.repeat(1, -(-new[1] // old[1]), 1, 1)[:, : new[1]] * (old[1] / new[1])
            found[k] = value.sum(1, keepdim=True) if new[1] == 1 else several
        elif "pos" in k and len(old) == 3 and old[0] == 1 and (old[0], old[2]) == (new[0], new[2]):
            for n in range(min(6, old[1], new[1])):  # tokens that are no patches
                a, b = math.isqrt(old[1] - n), math.isqrt(new[1] - n)
                if k not in found and (n + a * a, n + b * b) == (old[1], new[1]):
                    grid = value[:, n:].float().unflatten(1, (a, a)).permute(0, 3, 1, 2)
                    grid = F.interpolate(grid, (b, b), mode="bicubic", antialias=True).flatten(2).mT
                    found[k] = torch.cat([value[:, :n], grid.to(value.dtype)], 1)
    return found


def _head(model: nn.Module) -> str | None:
    """The name of a model's last layer with weights, if it is linear or a convolution."""
    layers = [(name, m) for name, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    name, last = layers[-1] if layers else ("", model)
    return name if isinstance(last, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) else None


def read(path: Path, own: Mapping[str, Any]) -> dict[str, Any]:
    """The weights in a file that fit best into `own`, a model's state_dict; on the CPU.

    Raises UsageError where the file cannot be read without running code from it.
    """
    return _best(path, own)[1]


def _best(path: Path, own: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What fits best of all state_dicts in the file, by the names of `own`; and how the names were changed for that."""
    found = list(_state_dicts(_read(path)))
    if not found:
        raise UsageError(f"{path} holds no model weights: a state_dict, or a checkpoint with `model` or `state_dict`")
    if any(v.is_meta for v in found[0].values() if isinstance(v, Tensor)):  # a sharded checkpoint
        from trainer.checkpoint import shards  # takes half a second to import

        return "", shards.load_weights(path)
    found += [{k.replace("_orig_mod.", ""): v for k, v in weights.items()} for weights in found]  # of torch.compile
    how, best, most = "", found[0], -1
    for weights in found:
        for prefix, part in _without_prefixes(weights):
            fits = len(_fitting(part, own))
            if fits > most and (not prefix or 2 * fits >= len(part)):  # a few may fit by chance
                how, best, most = (f", without the prefix {prefix}" if prefix else ""), part, fits
    if 2 * most >= len(best):
        return how, best
    for weights in found:  # of a part of the model: a backbone
        for prefix, part in _without_prefixes(weights):
            for inside, place in _without_prefixes(dict(own)) if 2 * len(part) > len(weights) else ():
                fits = len(_fitting(part, place))
                if fits > most and 2 * fits >= len(weights):
                    without = f", without the prefix {prefix}" if prefix else ""
                    how, best, most = f"{without}, into {inside}", {inside + k: v for k, v in part.items()}, fits
    return how, best


def _state_dicts(data: Any, depth: int = 4) -> Iterator[dict[str, Any]]:
    """All mappings of names to tensors, some levels deep; ours and the 2020 template's first."""
    if not depth or not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        return
    if any(isinstance(value, Tensor) for value in data.values()):
        yield dict(data)
    for key in sorted(data, key=lambda key: key not in ("model", "state_dict")):
        yield from _state_dicts(data[key], depth - 1)


def _without_prefixes(weights: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(prefix, the weights whose names begin with it, without it): of wrappers, or of a model that contained it."""
    yield prefix, weights
    for head in dict.fromkeys(key.partition(".")[0] + "." for key in weights if "." in key):
        if prefix.count(".") < 3:
            part = {key.removeprefix(head): v for key, v in weights.items() if key.startswith(head)}
            yield from _without_prefixes(part, prefix + head)


def _fitting(weights: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in weights.items() if k in own and _shape(own[k]) == _shape(v)}


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None  # a module's extra state may be anything


def _file(path: Path) -> Path:
    """The checkpoint of a run, where its folder is given; raises UsageError where there is no file."""
    if os.path.isfile(path):  # Path raises for a long name
        return path
    if os.path.isfile(path / "config.yaml"):
        return find_checkpoint(str(path))
    there = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES) if os.path.isdir(path) else []
    what = "this is a folder" if os.path.isdir(path) else "no such file"
    if str(path).startswith(("http:", "https:")):
        what = "this is an address: download the file"
    raise UsageError(
        f"init_from {path}: {what}; give a run's folder or a file of weights, such as "
        f"{path / there[0] if there else 'saved/NAME/RUN/checkpoints/model_best.pth'}"
    )


def _read(path: Path) -> Any:
    with open(path, "rb") as file:
        begin = file.read(len(OLD_FORMAT))
    is_zip = zipfile.is_zipfile(path)
    if begin[8:9] == b"{" or (path.suffix == ".safetensors" and not is_zip):
        return _read_safetensors(path)
    if not is_zip and begin != OLD_FORMAT:
        kinds = {b"": "it is empty", b"PK": "it is incomplete", b"\x1f\x8b": "it is compressed by gzip; unpack it"}
        kind = "written by pickle alone" if begin[:1] == b"\x80" else f"it begins with {begin.decode('latin-1')!r}"
        raise _not_weights(path, kinds.get(begin[:2], kind))
    try:
        if is_zip:
            verify(path)
        stand_ins: list[Any] = [(_Nothing, name) for name in _globals(path) if _is_harmless(name)]
        with open(path, "rb") as file, torch.serialization.safe_globals(stand_ins):  # a path may end in .safetensors
            return torch.load(file, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except Exception as e:
        why = str(e).splitlines()[0] if str(e) else type(e).__name__
        if isinstance(e, pickle.UnpicklingError):
            why = "it holds Python objects, and loading those could run code"
        raise UsageError(
            f"{path} cannot be used: {why}. If you trust it, convert it once where it was made: {SAVE}"
        ) from e


def _not_weights(path: Path, kind: str) -> UsageError:
    return UsageError(f"{path} is not a torch.save file: {kind}. Give a checkpoint, or a state_dict saved by {SAVE}")


def _is_harmless(name: str) -> bool:
    """A file that names more of Python's library than values is refused, though a stand-in would run none of it."""
    module = name.partition(".")[0]
    return not name.startswith(NO_NOTHING) and (module in VALUES or module not in sys.stdlib_module_names)


def _globals(path: Path) -> set[str]:
    """The names of the classes and functions that a torch.save file refers to."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return {name for _ in range(4) for name in _globals_in(file)}  # two numbers, the system, the data
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2]: name for name in archive.namelist()}
        if "data.pkl" not in names or "constants.pkl" in names:  # of TorchScript
            raise _not_weights(path, "a zip file of another kind")
        with archive.open(names["data.pkl"]) as data:
            return set(_globals_in(data))


def _globals_in(file: IO[bytes]) -> Iterator[str]:
    for code, argument, _ in pickletools.genops(file):
        if code.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield f"{IMPORT_MAPPING.get(module, module)}.{name}"  # pickle writes the names of Python 2


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UsageError(
            f"{path}: files of this kind need safetensors, which is not installed: make extra NAME=timm"
        ) from None
    try:
        return load_file(path)
    except Exception as e:  # not all versions have a class SafetensorError
        raise UsageError(f"{path} cannot be used: {e}; it is incomplete, or no safetensors file: get it again") from e


class _Nothing:
    """Stands in for what a checkpoint holds besides tensors and plain types: a config, a best value, arguments.

    Accepts any arguments and runs none of the pickled code.
    """

    def __new__(cls, *_: object) -> "_Nothing":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __hash__(self) -> int:
        return 0
