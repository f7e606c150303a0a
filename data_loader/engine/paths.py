"""Paths as configs give them, and the files in a folder, without hidden files of the system."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.config.values import expanded
from utils.errors import DataError, UsageError

HIDDEN = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information")


def place(path: str | Path) -> Path:
    """A path without ~ and $VARIABLE. Raises UsageError for a variable that is not set."""
    try:
        return Path(expanded(str(path)))
    except ValueError as e:
        raise UsageError(f"data_loader: {path}: {e}") from e


def is_hidden(name: str) -> bool:
    """Is this what a system or program keeps between a person's files: .DS_Store, ._1.jpg, .ipynb_checkpoints?"""
    return name.startswith(".") or name.lower() in HIDDEN


def files_below(folder: str | Path, suffixes: Sequence[str]) -> list[str]:
    """The files with these suffixes in a folder and those below it, by path. Follows links, but no cycles.

    Raises DataError for a folder that cannot be read.
    """
    try:
        return list(_below(str(folder), tuple(suffixes), frozenset()))
    except OSError as e:
        raise DataError(f"{e.filename or folder} cannot be read: {e.strerror or e}") from e


def _below(folder: str, suffixes: tuple[str, ...], above: frozenset[str]) -> Iterator[str]:
    """above: the real paths of the folders that this one is in."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_hidden(entry.name):
            continue
        if os.path.isdir(entry.path):
            yield from _below(entry.path, suffixes, above | {real})
        elif entry.name.lower().endswith(suffixes):
            yield entry.path
