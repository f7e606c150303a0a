"""Finds image files: class folders, without the files that systems and programs leave in them."""

import errno
import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_loader.engine.changes import log
from data_loader.engine.paths import is_hidden
from utils.errors import DataError

ALWAYS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff")
BY_PILLOW = (".apng", ".avif", ".heic", ".heif", ".jp2", ".tga", ".webp")  # if the installed Pillow reads them
SUFFIXES = ALWAYS + BY_PILLOW
TRAIN, VALID, TEST = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing")
PART = re.compile(rf"({'|'.join((*TRAIN, *VALID, *TEST))})[-_ ]?(images?|imgs?|data|set|\d+)?", re.IGNORECASE)
SHOWN = 10  # classes that a line lists

Sample = tuple[str, Any]  # path, target


class LeftOut:
    """Counts the files and folders that were left out, by reason."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def __str__(self) -> str:
        kinds = ", ".join(f"{n:,} {suffix or 'without suffix'}" for suffix, n in self.suffixes.most_common(5))
        parts = [f"{self.suffixes.total():,} no images ({kinds})"] if self.suffixes else []
        return "; ".join(parts + [f"{n:,} {reason}" for reason, n in self.reasons.items()])

    def add(self, name: str) -> None:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in BY_PILLOW:
            self.reasons[f"{suffix}, which the installed Pillow cannot read"] += 1
        else:
            self.suffixes[suffix] += 1

    def report(self) -> None:
        if self.suffixes or self.reasons:
            log.info(f"left out: {self}")


class Folders(NamedTuple):
    """Where class folders are: in parts of data_dir, whose usual names need not be given, or in data_dir itself."""

    data_dir: Path
    train: str | None = None
    valid: str | None = None  # "": none
    test: str | None = None


class Found(NamedTuple):
    """The classes, and (path, class number) of each image."""

    classes: list[str]
    samples: list[Sample]
    valid: list[Sample] | None  # of the validation folder, if there is one and it is used


def find_class_folders(folders: Folders, training: bool, classes: Sequence[str] | None, holds_out: bool) -> Found:
    """The images of data_dir/PART/CLASS/..., or of data_dir/CLASS/... where there are no parts, to train or to test.

    classes: in testing, those of the training; by default, they are read from the training folder.
    holds_out: a validation_split is wanted. Reports what was found and what was left out.
    """
    try:
        return _training(folders, holds_out) if training else _testing(folders, classes)
    except OSError as e:
        raise DataError(f"{e.filename or folders.data_dir} cannot be read: {e.strerror or e}") from e


def _testing(folders: Folders, classes: Sequence[str] | None) -> Found:
    if classes is None:
        classes = class_folders(_train_folder(folders))
    test = part_folder(folders.data_dir, TEST, folders.test)
    if test is None:
        raise DataError(_no_test_folder(folders.data_dir))
    left_out = LeftOut()
    samples = list_images(test, classes, left_out)
    log.info(f"{test}: {counts(samples, classes)}")
    left_out.report()
    return Found(list(classes), samples, None)


def _training(folders: Folders, holds_out: bool) -> Found:
    train, left_out = _train_folder(folders), LeftOut()
    classes = class_folders(train)
    samples, valid = list_images(train, classes, left_out), None
    line = f"{train}: {counts(samples, classes)}"
    found = None
    if folders.valid or (folders.valid is None and train != folders.data_dir):
        found = part_folder(folders.data_dir, VALID, folders.valid)
    if found is not None and holds_out:
        raise DataError(
            f"{found} has validation images, but validation_split or folds holds out images of {train} too: leave out "
            f"that option to validate on it, or set data_loader.args.valid_folder='' to leave {found.name} out"
        )
    if found is not None:
        valid = list_images(found, classes, left_out)
        line += f"; to validate, {found}: {counts(valid, classes)}"
    log.info(line)
    left_out.report()
    if empty := [name for name, n in zip(classes, count(samples, len(classes)), strict=True) if n == 0]:
        log.warning(
            f"{train} has no images of {_listed(empty)}, which cannot be learned; the other classes keep their "
            f"numbers. Add images, or remove the folders"
        )
    return Found(classes, samples, valid)


def _train_folder(folders: Folders) -> Path:
    return part_folder(folders.data_dir, TRAIN, folders.train) or _without_parts(folders.data_dir)


# -- folders ----------------------------------------------------------------------------------------------------------


def part_folder(data_dir: Path, names: Sequence[str], given: str | None) -> Path | None:
    """data_dir/given, or the folder of data_dir with one of these names, in upper or lower case, that has folders in
    it; None if there is none."""
    if given:
        return data_dir / given
    entries = {name.lower(): Path(data_dir, name) for name in _folders(data_dir)}
    found = [entries[name] for name in names if name in entries and _folders(entries[name])]
    return found[0] if found else None


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder`, sorted, with accents in their letters (`normal`)."""
    classes = sorted({normal(name) for name in _folders(folder)})
    if not classes:
        if not folder.exists():
            raise DataError(
                f"There is no folder {folder.resolve()}; set data_loader.args.data_dir (or train_folder, valid_folder, "
                f"test_folder) to one that is there"
            )
        flat = _has_images(folder)
        raise DataError(
            f"No class folders in {folder.resolve()}. Put the images of each class into a folder of its name, such as "
            f"{folder / 'cat' / '1.jpg'}, or set data_loader.args.data_dir to the folder that has them"
            + ("; for images in one folder with a table of their labels, use ImageTableDataLoader" if flat else "")
        )
    return classes


def list_images(folder: Path, classes: Sequence[str], left_out: LeftOut) -> list[Sample]:
    """(path, class number) of all images below `folder`, sorted by class, then path."""
    class_folders(folder)  # raises DataError without any
    number, found = {normal(name): i for i, name in enumerate(classes)}, _folders(folder)
    if unknown := [n for n in found if normal(n) not in number and next(walk(folder / n, LeftOut()), None) is not None]:
        raise DataError(
            f"{folder.resolve()} has classes that the training data does not have: {', '.join(unknown)}; remove these "
            f"folders, or add the classes to the training data"
        )
    loose = sum(1 for entry in _entries(folder) if is_image(entry.name) and not entry.is_dir())
    if loose:
        left_out.reasons[f"in {folder.name}/, outside of its class folders"] += loose
    known = sorted((number[normal(name)], name) for name in found if normal(name) in number)
    samples = [(path, i) for i, name in known for path in walk(folder / name, left_out)]
    if not samples:
        raise DataError(
            f"No images ({', '.join(SUFFIXES)}) in the class folders of {folder.resolve()}"
            + (f"; there are: {left_out}" if str(left_out) else "")
        )
    return samples


def walk(folder: Path, left_out: LeftOut, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The image files below `folder`, in the order of their paths. Follows links, but no cycles.

    above: the real paths of the folders that this one is in.
    """
    real = Path(os.path.realpath(folder))
    if str(real) in above:
        left_out.reasons["links to a folder that they are in"] += 1
        return
    above = above.union(map(str, (real, *real.parents)))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_hidden(entry.name):
            left_out.reasons["hidden, or of the system"] += 1
        elif _holds(entry.is_dir):
            yield from walk(Path(entry.path), left_out, above)
        elif not is_image(entry.name):
            left_out.add(entry.name)
        elif not _holds(entry.is_file):
            left_out.reasons["links to nothing"] += 1
        else:
            yield entry.path


def is_image(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return not is_hidden(name) and (suffix in ALWAYS or (suffix in BY_PILLOW and suffix in readable()))


def readable() -> tuple[str, ...]:
    """The suffixes of images that can be read here."""
    return ALWAYS + tuple(suffix for suffix in BY_PILLOW if suffix in _read_by_pillow())


@functools.cache
def _read_by_pillow() -> set[str]:
    from PIL import Image  # loading all of its plugins takes 0.1 s

    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def normal(name: str) -> str:
    """macOS decomposes letters such as é and 한 in file names; other systems and tables mostly have them composed."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def count(samples: Sequence[Sample], num_classes: int) -> list[int]:
    """How many images each class has."""
    numbers = Counter(number for _, number in samples)
    return [numbers[number] for number in range(num_classes)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    if not folder.is_dir():
        return []
    return sorted((e for e in os.scandir(folder) if not is_hidden(e.name)), key=lambda entry: entry.name)


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if _holds(entry.is_dir)]


def _holds(is_kind: Callable[[], bool]) -> bool:
    """is_kind: `is_dir` or `is_file` of a DirEntry, which fails for a link to itself."""
    try:
        return is_kind()
    except OSError as e:
        if e.errno != errno.ELOOP:
            raise
        return False


def _has_images(folder: Path) -> bool:
    return any(is_image(entry.name) for entry in _entries(folder))


def _without_parts(data_dir: Path) -> Path:
    """data_dir itself, as the folder of class folders. Raises DataError if it has other parts, is one folder up, or has
    parts without class folders."""
    others = [part for names in (VALID, TEST) if (part := part_folder(data_dir, names, None))]
    if others:
        raise DataError(
            f"{data_dir.resolve()} has {' and '.join(f'{part.name}/' for part in others)}, but no train/ with class "
            f"folders; add it, or set data_loader.args.train_folder to the folder that trains"
        )
    for name in _folders(data_dir):
        if inner := part_folder(data_dir / name, (*TRAIN, *TEST), None):
            raise DataError(
                f"{data_dir.resolve()} has no class folders of its own, but {name}/{inner.name}/ has: set "
                f"data_loader.args.data_dir={data_dir / name}"
            )
    parts = [name for name in _folders(data_dir) if PART.fullmatch(name)]
    if parts and not any(_has_images(data_dir / name) for name in _folders(data_dir) if name not in parts):
        raise DataError(
            f"{data_dir.resolve()} has {' and '.join(f'{name}/' for name in parts)}, but no class folders in them. Put "
            f"the images of each class into a folder of its name, such as {data_dir / 'train' / 'cat' / '1.jpg'}; for "
            f"images with a table of their labels, use ImageTableDataLoader; where {parts[0]} is a class, set "
            f"data_loader.args.train_folder=."
        )
    return data_dir


def _no_test_folder(data_dir: Path) -> str:
    """One line that says what test.py can do instead."""
    text = f"{data_dir.resolve()} has no test/ with class folders; "
    if valid := part_folder(data_dir, VALID, None):
        return text + f"data_loader.args.test_folder={valid.name} tests on the validation images instead"
    train = part_folder(data_dir, TRAIN, None)
    return text + (
        f"give a folder of class folders with other images, data_loader.args.data_dir=DIR data_loader.args.test_folder="
        f". (test_folder={train.name if train else '.'} alone would test on the images that train)"
    )


# -- lines for people -------------------------------------------------------------------------------------------------


def counts(samples: Sequence[Sample], classes: Sequence[str]) -> str:
    """`245 images of 2 classes (ants 124, bees 121)`"""
    numbers = count(samples, len(classes))
    each = [f"{name} {n:,}" for name, n in zip(classes, numbers, strict=True)]
    shown = ", ".join(each) if len(each) <= SHOWN else f"{min(numbers):,} to {max(numbers):,} each"
    return f"{len(samples):,} images of {len(classes):,} {'class' if len(classes) == 1 else 'classes'} ({shown})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more classes" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
