"""Tar files in WebDataset's layout: files with one name and different endings, 0001.jpg and 0001.cls, are a sample.

An index of where each file begins is made once. After that, samples are read at random: shuffling and a resume are
exact, and no shuffle buffer is needed.
"""

import copy
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.augmentation import Transform, of_image
from data_loader.engine.changes import log
from data_loader.engine.facts import class_facts
from data_loader.engine.images.decode import ImageFile
from data_loader.engine.images.in_memory import NormalizeBatch
from data_loader.engine.texts.learned import class_numbers, learn_classes
from data_loader.engine.texts.plain_text import shown
from utils.errors import DataError, UsageError
from utils.files import write_atomic

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
LABELS = ("cls", "txt", "json")
FORMAT = 1  # part of the index's name: a change of what is stored must raise it
MOST_OPEN = 100  # tar files that a process keeps open
Task = Literal["classification", "regression"]


class TarDataLoader(BaseDataLoader):
    """Samples of tar files: inputs, and classes int64 [B] or numbers float32 [B].

    shards: tar files by a pattern (data/train-*.tar), or a list of them; not compressed. valid_shards, test_shards:
        those to validate and to test.
    input, target: the ending of the file that is used, or several, of which a sample has one: jpg;png.
        An image -> uint8 [B, 3, H, W], normalized by mean and std after all transforms. npy -> an array of one shape.
        txt, as input -> its bytes + 1, int64 [B, T], 0 where one is shorter. cls, txt, json, as target -> a class, or
        for task: regression a number. key: the entry of a json target.
    index_dir: where the index of the files is written (default: .tar_index in the folder of the first).
    facts: those of the training data, whose classes count.
    """

    def __init__(
        self,
        shards: str | list[str],
        input: str = "jpg;jpeg;png",
        target: str = "cls",
        batch_size: int = 64,
        training: bool = True,
        valid_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        key: str | None = None,
        task: Task = "classification",
        index_dir: str | None = None,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),  # of ImageNet
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        facts: dict[str, Any] | None = None,
        **kwargs,
    ):
        if not training and test_shards is None:
            raise UsageError("data_loader: there is no test data; set data_loader.args.test_shards to its tar files")
        wanted = Wanted(_endings(input), _endings(target), key, task)
        wanted.check()
        found = shards if training or test_shards is None else test_shards
        samples = TarSamples(find_index(found, wanted, index_dir), wanted)
        valid = None
        if training and valid_shards is not None:
            valid = TarSamples(find_index(valid_shards, wanted, index_dir), wanted)
        options: dict[str, Any] = {}
        if wanted.kind == "image":
            options["batch_transform"] = NormalizeBatch(mean, std, kwargs.get("transforms"))
        if wanted.kind == "txt":
            options["collate_fn"] = padded
        super().__init__(samples, batch_size, valid_dataset=valid, **options, **kwargs)
        self.facts = {"vocab_size": 257} if wanted.kind == "txt" else {}
        if samples.codes is None:
            return
        fitted_on = np.sort(self.samples(np.arange(len(self.samples))))
        classes = (facts or {}).get("class_names")
        if classes is None:
            classes = learn_classes(samples.class_names, samples.codes, fitted_on, str(samples.tars.paths[0]))
        for part in (samples, self.dataset, self.eval_dataset, self.valid_dataset):  # with transforms, these are copies
            if part is not None:
                part.encode(classes)
        labels = torch.from_numpy(samples.labels[fitted_on].astype(np.int64)) if training else None
        self.facts |= class_facts(classes, labels)


class Wanted(NamedTuple):
    """What is read of each sample."""

    input: tuple[str, ...]  # endings
    target: tuple[str, ...]
    key: str | None
    task: str

    @property
    def kind(self) -> str:
        """Of the inputs: image, npy or txt."""
        return "image" if last(self.input[0]) in IMAGES else last(self.input[0])

    @property
    def is_label(self) -> bool:
        """Is the target part of the index?"""
        return last(self.target[0]) in LABELS

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


def _endings(given: str) -> tuple[str, ...]:
    return tuple(ending.strip().lower().removeprefix(".") for ending in given.split(";"))


def last(ending: str) -> str:
    """jpg of left.jpg"""
    return ending.rpartition(".")[2]


# --- samples


class TarSamples(Dataset):
    """A sample is (input, class or number), or (input, array). For classes, `encode` comes first."""

    changes_by_itself = ("_rows",)
    transforms: list[Transform] = []

    def __init__(self, index: "Index", wanted: Wanted):
        self.path, self.tars, self.wanted = index.path, index.tars, wanted
        self._rows: np.ndarray | None = None
        self.class_names: list[str] = []  # of the classes, and which one each sample has
        self.codes: np.ndarray | None = None
        self.labels: Any = None
        if wanted.is_label:
            names, codes = np.unique(self.rows["label"], return_inverse=True)
            texts = [name.decode() for name in names.tolist()]
            if wanted.task == "classification":
                self.class_names, self.codes = texts, codes.reshape(-1).astype(np.min_scalar_type(len(names)))
                self.labels = self.codes
            else:
                self.labels = np.array([float(text) for text in texts])[codes.reshape(-1)]

    @property
    def rows(self) -> np.ndarray:
        """The index, mapped: a row per sample."""
        if self._rows is None:
            self._rows = np.load(self.path, mmap_mode="r")
        return self._rows

    @property
    def lengths(self) -> np.ndarray:
        """Bytes of each input, for `bucket`."""
        return np.array(self.rows["size"])

    def __getstate__(self) -> dict[str, Any]:
        """For workers, which map the index and open the tar files for themselves."""
        return {**vars(self), "_rows": None}

    def encode(self, classes: list[str]) -> None:
        """Number the classes as the training samples have them. Raises DataError for one that these do not have."""
        if self.codes is not None:
            self.labels = class_numbers(self.class_names, self.codes, classes, self.place)

    def place(self, index: int) -> str:
        """`train-01.tar, sample '0001'`"""
        row = self.rows[index]
        return f"{self.tars.paths[row['tar']]}, sample '{row['key'].decode()}'"

    def with_transforms(self, transforms: Sequence[Transform]) -> "TarSamples":
        """The same samples, each image passed through these transforms."""
        other = copy.copy(self)
        other.transforms = list(transforms)
        return other

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.rows[index]
        try:
            data = self.tars.read(row["tar"], row["start"], row["size"])
            return self._input(data), self._target(index, row)
        except Exception as e:
            raise ValueError(f"{self.place(index)}: {e}") from e

    def _input(self, data: bytes) -> Any:
        if self.wanted.kind == "image":
            with ImageFile(data) as image:
                return of_image(self.transforms, image)
        if self.wanted.kind == "npy":
            return _array(data)
        return torch.from_numpy(np.frombuffer(data, np.uint8).astype(np.int64) + 1)

    def _target(self, index: int, row: np.void) -> Any:
        if self.labels is None:
            return _array(self.tars.read(row["tar"], row["target_start"], row["target_size"]))
        label = self.labels[index]
        return int(label) if self.codes is not None else np.float32(label)


def _array(data: bytes) -> Tensor:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


def padded(samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor]:
    """Texts of any length as int64 [B, longest], and their targets [B]."""
    texts, targets = zip(*samples, strict=True)
    return torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True), torch.as_tensor(np.array(targets))


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
    path = Path(folder or tars.paths[0].parent / ".tar_index", f"{digest}.npy")
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
    patterns = [shards] if isinstance(shards, str) else shards
    paths = []
    for pattern in patterns:
        found = [Path(pattern)]
        if any(sign in pattern for sign in "*?["):
            anchor = Path(pattern).anchor
            found = sorted(Path(anchor or ".").glob(str(Path(pattern).relative_to(anchor))))
        if not found or not found[0].is_file():
            raise DataError(
                f"there is no tar file {pattern}; set shards in data_loader.args to one, or to a pattern with *, such "
                f"as data/train-*.tar"
            )
        paths += found
    return paths


def scan(path: Path, number: int, wanted: Wanted) -> np.ndarray:
    """A row for each sample of a tar file, which is read from its begin to its end.

    Raises DataError for a file that is cut off, and for a sample that lacks one of its two files, has one twice, or a
    label that is none.
    """
    rows: list[tuple[int, ...]] = []
    texts: list[tuple[bytes, bytes]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for key, members in _by_key(tar, path).items():
                if not members.keys() & {*wanted.input, *wanted.target}:
                    continue  # a note, or the like
                one, other = (_member(members, endings, key, path) for endings in (wanted.input, wanted.target))
                label = ""
                if wanted.is_label:
                    file = tar.extractfile(other)
                    label = _label(file.read() if file else b"", wanted, f"{path}, sample '{key}', .{other.name}")
                rows.append((one.offset_data, one.size, other.offset_data, other.size))
                texts.append((key.encode(), label.encode()))
    except (tarfile.TarError, EOFError) as e:
        with open(path, "rb") as file:
            start = file.read(4)
        hint = "unpack it first: gunzip, zstd -d; only plain tar files can be read at random"
        if not start.startswith((b"\x1f\x8b", b"\x28\xb5", b"BZh", b"\xfd7zX")):
            hint = "copy or make it anew"
        raise DataError(f"{path} is no complete tar file: {e}; {hint}") from e
    if not rows:
        raise DataError(f"{path} has no samples; give tar files with {wanted.input[0]} and {wanted.target[0]} files")
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
                raise ValueError(f"its {wanted.key} is {value}, which is no label")
            text = str(value)
        if not text:
            raise ValueError("it is empty")
        if wanted.task == "regression" and not np.isfinite(float(text)):
            raise ValueError("it is not finite")
    except KeyError as e:
        raise DataError(f"{place}: it has no entry {e}; set key to an entry that all have") from e
    except (ValueError, TypeError) as e:
        raise DataError(f"{place}: it holds no {'number' if wanted.task == 'regression' else 'label'}: {e}") from e
    return text
