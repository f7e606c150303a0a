"""Notices what changes in a data set during a run: workers have copies of it, and a resume begins with a new one."""

import contextlib
import logging
import operator
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from data_loader.engine.reachable import FUNCTIONS, attributes, is_own, is_standard, joined, reachable

log = logging.getLogger("groundwork.data_loader")  # below the project's logger, which this room does not import
PLAIN = (int, float, complex, bool, str, bytes, type(None))
MISSING = object()
SHORT = 100  # items of a list or dict that are compared at each step
LONG = 10**5  # entries compared once an epoch: evenly spaced ones of an array, the first of a list


class Change(NamedTuple):
    owner: Any
    path: str  # of the owner: dataset.transform
    key: Any
    before: Any
    now: Any

    def __str__(self) -> str:
        return joined(self.path, self.key) if isinstance(self.key, str) else self.path


class Snapshot:
    """The attributes of a data set, and of all objects that it refers to, at one moment."""

    def __init__(self, root: Any) -> None:
        found = list(reachable(root))
        long: list[tuple[str, Any]] = [(path, o) for path, o in found if isinstance(o, (list, dict)) and len(o) > SHORT]
        inside = tuple(f"{path}[" for path, _ in long)  # of a list of samples, only which objects it holds is compared
        watched = [(path, owner) for path, owner in found if _is_watched(owner) and not path.startswith(inside)]
        self._owners = [(path, owner, dict(_held(owner))) for path, owner in watched]
        values = [(joined(path, key), value) for path, _, held in self._owners for key, value in held.items()]
        tensors = [(path, value) for path, value in values if isinstance(value, Tensor) and not value.is_inference()]
        self._tensors = [(path, tensor, tensor._version) for path, tensor in tensors]  # counts changes in place
        long += [(path, value) for path, value in values if isinstance(value, np.ndarray) and _in_memory(value)]
        self._contents = [(path, value, _contents(value)) for path, value in long]

    def changes(self, contents: bool = False) -> list[Change]:
        """What is different now. Takes some 10 us; `contents` looks into arrays and long lists too, in milliseconds."""
        found = []
        for path, owner, before in self._owners:
            now = _held(owner)
            if now.keys() != before.keys() or any(map(operator.is_not, now.values(), before.values())):
                for key in before.keys() | now.keys():
                    old, new = before.get(key, MISSING), now.get(key, MISSING)
                    if old is MISSING and isinstance(key, str):  # it may have been its class's
                        old = getattr(type(owner), key, MISSING)
                    if old is not new and _differ(old, new):
                        found.append(Change(owner, path, key, old, new))
        found += [Change(t, path, None, None, t) for path, t, version in self._tensors if t._version != version]
        if contents:
            found += [Change(v, path, None, None, v) for path, v, old in self._contents if _contents(v) != old]
        return found

    def find(self, path: str) -> Any:
        """The object that was at this path, or None."""
        return next((owner for at, owner, _ in self._owners if at == path), None)


@contextlib.contextmanager
def numbers_changed(root: Any) -> Iterator[list[str]]:
    """Yields a list that afterwards names the numbers that changed meanwhile."""
    snapshot, names = Snapshot(root), list[str]()
    yield names
    names += [str(change) for change in snapshot.changes() if _is_number(change.before) and _is_number(change.now)]


class DataState:
    """What callbacks changed in the data set during a run, for the checkpoint: numbers, strings, and lists of them."""

    def __init__(self, root: Any) -> None:
        self._start = Snapshot(root)
        self._lost: set[str] = set()  # values that a checkpoint cannot hold; reported once

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for change in self._start.changes(contents=True):
            if isinstance(change.owner, list) and _is_plain(change.owner) and len(change.owner) <= SHORT:
                state[change.path] = list(change.owner)
            elif _is_plain(change.now) and isinstance(change.key, (str, int)):
                now = list(change.now) if isinstance(change.now, tuple) else change.now
                state.setdefault(change.path, {})[change.key] = now
            elif str(change) not in self._lost:
                self._lost.add(str(change))
                log.warning(
                    f"data_loader: {change} was changed during the run, and is in no checkpoint: a resumed run begins "
                    f"with it as the data loader makes it, unless a callback changes it again"
                )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for path, values in state.items():
            owner = self._start.find(path)
            if owner is None:
                continue
            if isinstance(values, list):
                owner[:] = values
            elif isinstance(owner, dict):
                owner.update(values)
            else:
                for name, value in values.items():
                    setattr(owner, name, value)


def shown(value: Any) -> str:
    if value is MISSING:
        return "nothing"
    return repr(value) if _is_plain(value) and len(repr(value)) < 40 else f"a {type(value).__name__}"


def _held(owner: Any) -> Mapping[Any, Any]:
    """What an object holds, by name or place."""
    if isinstance(owner, dict):
        return owner
    if isinstance(owner, list):
        return dict(enumerate(owner))
    if isinstance(owner, type):
        return {key: value for key, value in vars(owner).items() if _is_plain(value) and not key.startswith("__")}
    return attributes(owner)


def _is_watched(owner: Any) -> bool:
    """False for functions, Python's own objects (a logger) and classes of libraries."""
    if isinstance(owner, (list, dict)):
        return len(owner) <= SHORT
    if isinstance(owner, type):
        return is_own(owner.__module__)
    return not isinstance(owner, (*FUNCTIONS, tuple)) and not is_standard(type(owner).__module__)


def _differ(old: Any, new: Any) -> bool:
    """Can samples depend on the difference? Not on a file, say, that is opened when it is first read."""
    if _is_plain(old) and _is_plain(new):
        return type(old) is not type(new) or repr(old) != repr(new)  # repr: NaN equals itself
    there = [value for value in (old, new) if value is not None and value is not MISSING]
    kinds = (*PLAIN, Tensor, np.ndarray, list, tuple, dict, set, Dataset)
    return len(there) == 2 or any(isinstance(value, kinds) or callable(value) for value in there)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, complex)) and not isinstance(value, bool)


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, (tuple, list)) and all(isinstance(v, PLAIN) for v in value))


def _in_memory(array: np.ndarray) -> bool:
    """Not a file that is read as an array, nor an array that cannot be changed."""
    return array.flags.writeable and not isinstance(array, np.memmap) and not isinstance(array.base, np.memmap)


def _contents(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return [id(v) for v in value.flat[:LONG]]
        return zlib.crc32(value.reshape(-1)[:: max(1, value.size // LONG)].tobytes())
    return [len(value), *(id(v) for v in list(value.values() if isinstance(value, dict) else value[:LONG]))]
