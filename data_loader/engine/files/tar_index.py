"""Where each sample of tar files begins: an index that is made once, and reading parts of the files by it."""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_loader.engine.changes import log
from data_loader.engine.paths import place
from data_loader.engine.texts.plain_text import shown
from utils.errors import DataError, UsageError
from utils.files import write_atomic

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
LABELS = ("cls", "txt", "json")
FORMAT = 1  # part of the index's name: a change of what is stored must raise it
MOST_OPEN = 100  # tar files that a process keeps open


class Wanted(NamedTuple):
    """What is read of each sample."""

    input: tuple[str, ...]  # endings
    target: tuple[str, ...]  # none: of data without targets
    key: str | None
    task: str

    @property
    def kind(self) -> str:
        """Of the inputs: image, npy or txt."""
        return "image" if last(self.input[0]) in IMAGES else last(self.input[0])

    @property
    def is_label(self) -> bool:
        """Is the target part of the index?"""
        return bool(self.target) and last(self.target[0]) in LABELS

    def check(self) -> None:
        known = {last(ending) for ending in self.input}
        if not (known <= set(IMAGES) or known == {"npy"} or known == {"txt"}):
            raise UsageError(
                f"data_loader: input is {';'.join(self.input)}; give npy, txt, or the ending of images "
                f"({', '.join(IMAGES)})"
            )
        kinds = {last(ending) for ending in self.target}
        if not (len(kinds) == 1 and kinds <= {*LABELS, "npy"}):
            raise UsageError(f"data_loader: target is {';'.join(self.target)}; give cls, txt, json or npy")
        if ("json" in kinds) != (self.key is not None):
            raise UsageError(
                f"data_loader: target is {';'.join(self.target)} and key is {self.key}; give key for json alone: the "
                f"entry that is the target"
            )


def endings(given: str) -> tuple[str, ...]:
    return tuple(ending.strip().lower().removeprefix(".") for ending in given.split(";"))


def last(ending: str) -> str:
    """jpg of left.jpg"""
    return ending.rpartition(".")[2]


# --- samples


class TarFiles:
    """Reads parts of tar files; each process opens them for itself."""

    changes_by_itself = ("_open",)

    def __init__(self, paths: list[Path]):
        self._open: dict[int, int] = {}  # by the number of the tar file
        self.paths = paths
        self.states = [(found.st_size, found.st_mtime_ns) for found in map(os.stat, paths)]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}

    def __del__(self) -> None:
        for fd in self._open.values():
            os.close(fd)

    def read(self, number: int, start: int, size: int) -> bytes:
        """Raises OSError for a file that is not as it was when its index was made."""
        fd = self._open.get(number)
        if fd is None:
            while len(self._open) >= MOST_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            fd = self._open[number] = os.open(self.paths[number], os.O_RDONLY | getattr(os, "O_BINARY", 0))
            found = os.fstat(fd)
            if (found.st_size, found.st_mtime_ns) != self.states[number]:
                raise OSError("the tar file was changed since this run began; start it again")
        if hasattr(os, "pread"):  # forked processes share the place in an open file, which this leaves alone
            data = os.pread(fd, size, start)
        else:
            os.lseek(fd, start, os.SEEK_SET)
            data = os.read(fd, size)
        if len(data) != size:
            raise OSError(f"the tar file ends {size - len(data)} bytes too early")
        return data


# --- the index


class Index(NamedTuple):
    path: Path  # of an array with a row per sample
    tars: TarFiles


def find_index(shards: str | list[str], wanted: Wanted, folder: str | None) -> Index:
    """The index of these tar files, made if it is not there yet, or if one of them has another size or time.

    Several processes may call this at once: one makes it, and the others wait. A kill leaves nothing that is used.
    """
    from filelock import FileLock  # comes with torch

    tars = TarFiles(_tar_files(shards))
    named = [(os.path.abspath(path), *state) for path, state in zip(tars.paths, tars.states, strict=True)]
    digest = hashlib.blake2b(repr((FORMAT, *wanted, *named)).encode(), digest_size=12).hexdigest()
    path = Path(place(folder) if folder else tars.paths[0].parent / ".tar_index", f"{digest}.npy")
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # the system frees it when its process ends
                if not path.exists():
                    rows = np.concatenate([scan(tar, i, wanted) for i, tar in enumerate(tars.paths)])
                    buffer = io.BytesIO()
                    np.save(buffer, rows)
                    write_atomic(path, buffer.getvalue())
                    log.info(f"{shown([str(tar) for tar in tars.paths])}: {len(rows):,} samples; their index is {path}")
        except OSError as e:
            raise DataError(
                f"the index of the tar files cannot be written to {path.parent}: {e.strerror or e}; set "
                f"data_loader.args.index_dir to a folder that can be written"
            ) from e
    return Index(path, tars)


def _tar_files(shards: str | list[str]) -> list[Path]:
    paths = list[Path]()
    given = [shards] if isinstance(shards, str) else shards
    for pattern in [path for one in given for path in _without_braces(str(place(one)))]:
        found = [Path(pattern)]
        if any(sign in pattern for sign in "*?["):
            anchor = Path(pattern).anchor
            found = sorted(Path(anchor or ".").glob(str(Path(pattern).relative_to(anchor))))
        elif found[0].is_dir():
            found = sorted(found[0].glob("*.tar"))
        if not found or not found[0].is_file():
            raise DataError(
                f"there is no tar file {pattern}; give one, a folder of them, or a pattern with *, such as "
                f"data/train-*.tar (data_loader.args.shards)"
            )
        paths += found
    if not paths:
        raise DataError(f"{shards} names no tar file; in braces, the smaller number comes first: {{000..009}}")
    return paths


def _without_braces(pattern: str) -> list[str]:
    """train-000.tar, ..., train-009.tar of train-{000..009}.tar, as WebDataset writes them."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        return [pattern]
    numbers = [str(number).zfill(len(found[1])) for number in range(int(found[1]), int(found[2]) + 1)]
    ends = _without_braces(pattern[found.end() :])
    return [pattern[: found.start()] + number + end for number in numbers for end in ends]


def scan(path: Path, number: int, wanted: Wanted) -> np.ndarray:
    """A row for each sample of a tar file, which is read from its begin to its end.

    Raises DataError for a file that is cut off, and for a sample that lacks one of its two files, has one twice, or a
    label that is none.
    """
    rows: list[tuple[int, ...]] = []
    texts: list[tuple[bytes, bytes]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            found = _by_key(tar, path)
            for key, members in found.items():
                if not members.keys() & {*wanted.input, *wanted.target}:
                    continue  # a note, or the like
                one = _member(members, wanted.input, key, path)
                other = _member(members, wanted.target, key, path) if wanted.target else one
                label = ""
                if wanted.is_label:
                    file = tar.extractfile(other)
                    label = _label(file.read() if file else b"", wanted, f"{path}, sample '{key}', {other.name}")
                rows.append((one.offset_data, one.size, other.offset_data, other.size))
                texts.append((key.encode(), label.encode()))
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}") from e
    except (tarfile.TarError, EOFError) as e:
        with open(path, "rb") as file:
            start = file.read(4)
        hint = "unpack it first: gunzip, zstd -d; only plain tar files can be read at random"
        if not start.startswith((b"\x1f\x8b", b"\x28\xb5", b"BZh", b"\xfd7zX")):
            hint = "copy or create it again"
        raise DataError(f"{path} is not a complete tar file: {e}; {hint}") from e
    if not rows:
        needed = " and ".join(kinds[0] for kinds in (wanted.input, wanted.target) if kinds)
        hint = ""
        if found:
            key, members = next(iter(found.items()))
            hint = f"; the first dot ends a sample's name: its first one is '{key}', with .{', .'.join(members)}"
        raise DataError(f"{path} has no samples; give tar files with {needed} files{hint}")
    places = [(name, "<i8") for name in ("start", "size", "target_start", "target_size")]
    widths = [max(len(row[column]) for row in texts) for column in (0, 1)]
    dtype = [("tar", "<i4"), *places, ("key", f"S{widths[0]}"), ("label", f"S{max(widths[1], 1)}")]
    return np.array([(number, *where, *text) for where, text in zip(rows, texts, strict=True)], dtype)


def _by_key(tar: tarfile.TarFile, path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """{key: {ending: member}}; a key is a path up to the first dot of its file's name, as in WebDataset."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        folder, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not member.isreg() or not stem or not ending or stem.startswith("__"):
            continue  # folders, links, hidden files and notes on the whole tar file
        members = found.setdefault(folder + slash + stem, {})
        if ending.lower() in members:
            raise DataError(
                f"{path}: the sample '{folder + slash + stem}' has .{ending.lower()} twice; remove one, or give one of "
                f"the two samples another name"
            )
        members[ending.lower()] = member
    with open(path, "rb") as file:
        file.seek(tar.offset)
        if len(end := file.read(512)) < 512 or any(end):
            raise tarfile.ReadError("no empty block follows its last file, so it is cut off or damaged")
    return found


def _member(members: dict[str, tarfile.TarInfo], endings: Sequence[str], key: str, path: Path) -> tarfile.TarInfo:
    for ending in endings:
        if ending in members:
            return members[ending]
    raise DataError(
        f"{path}: the sample '{key}' has no .{' or .'.join(endings)}, but {', '.join('.' + e for e in members)}; add "
        f"it, or name another ending as input or target"
    )


def _label(data: bytes, wanted: Wanted, place: str) -> str:
    """What is in a .cls, .txt or .json file."""
    try:
        text = data.decode("utf-8-sig").strip()
        if wanted.key is not None:
            value = json.loads(text)[wanted.key]
            if isinstance(value, (dict, list)) or value is None:
                raise ValueError(f"its {wanted.key} is {value}, which is not a label")
            text = str(value)
        if text.lower() in ("", "nan"):
            raise ValueError("it is empty" if not text else f"it is {text}")
        if wanted.task == "regression" and not np.isfinite(float(text)):
            raise ValueError("it is not finite")
    except KeyError as e:
        raise DataError(f"{place}: it has no entry {e}; set key to an entry that all have") from e
    except (ValueError, TypeError) as e:
        raise DataError(f"{place}: it holds no {'number' if wanted.task == 'regression' else 'label'}: {e}") from e
    return text
