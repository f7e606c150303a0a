"""Data without targets, for predict.py: files, a folder, or a table that names files; in the order they are given."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_loader.engine.images.image_table import Finder, read_table
from data_loader.engine.paths import files_below
from utils.errors import DataError

LISTS = (".csv", ".tsv")
FILE_COLUMNS = ("file", "image", "path", "filename", "file_name", "id")
IDS = ("id", "passengerid", "imageid")  # columns of tables that name a row, in upper or lower case
SHOWN = 5  # missing files that an error lists


class Unlabeled(NamedTuple):
    """names: what each sample is called in the output. paths: of their files. columns: of a table, by name, as text.

    bad: rows that could not be read and are none of these samples: what each is called, and why.
    """

    names: Sequence[str | int]
    paths: list[str]
    columns: Mapping[str, Sequence[str]]
    bad: Sequence[tuple[str, str]] = ()


def unlabeled_files(
    data: Sequence[str],
    suffixes: Sequence[str],
    column: str | None = None,
    folder: Path | None = None,
    suffix: str = "",
    encoding: str = "utf-8",
) -> Unlabeled:
    """The files of `data`: files, folders (all files in them with one of the suffixes, sorted), or one table of names.

    column: of file names in a table; None: one of FILE_COLUMNS, or the first. folder: where they are, if not beside the
    table. suffix: what the names lack. Raises DataError for what is not there; a file that a table names is missed when
    it is read.
    """
    if missing := [path for path in data if not os.path.exists(path)]:
        more = f" and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
        raise DataError(
            f"there is no {', '.join(missing[:SHOWN])}{more}; give files ({', '.join(suffixes)}), a folder of them, or "
            f"a CSV file that names them"
        )
    lists = [path for path in data if Path(path).suffix.lower() in LISTS]
    if lists and len(data) > 1:
        raise DataError(f"{lists[0]} is a table, and {len(data) - 1} more are given; give one table, or only files")
    if lists:
        return _listed(Path(lists[0]), column, folder, suffix, encoding)
    names, paths = list[str](), list[str]()
    for path in data:
        if os.path.isdir(path):
            found = files_below(path, suffixes)
            if not found:
                raise DataError(f"no files ({', '.join(suffixes)}) in the folder {path}; give another one")
            paths += found
            names += [Path(p).relative_to(path).as_posix() if len(data) == 1 else p for p in found]
        elif not path.lower().endswith(tuple(suffixes)):
            raise DataError(f"{path} is of another kind; give files ({', '.join(suffixes)}), a folder or a CSV file")
        else:
            paths.append(path)
            names.append(path)
    return Unlabeled(names, paths, {})


def row_names(
    columns: Mapping[str, Sequence[str]], n: int, numbers: Sequence[int] | None = None
) -> Sequence[str | int]:
    """The names of the rows of a table: its column `id` or the like, if no value comes twice; else 1, 2, 3, ...

    numbers: those of the rows, where some are left out.
    """
    for name, values in columns.items():
        if name.lower() in IDS and len(set(values)) == n:
            return values
    return range(1, n + 1) if numbers is None else numbers


def _listed(path: Path, column: str | None, folder: Path | None, suffix: str, encoding: str) -> Unlabeled:
    table = read_table(path, encoding)
    if column is None or (folder is None and column not in table.columns):
        by_lower = {name.lower(): name for name in table.columns}
        column = next((by_lower[name] for name in FILE_COLUMNS if name in by_lower), next(iter(table.columns)))
    finders = [Finder(place, suffix) for place in (path.parent, folder) if place is not None]
    names = table.column(column)
    paths = [
        next((found for finder in finders if name and (found := finder.find(name))), str(path.parent / name))
        for name in names
    ]
    return Unlabeled(names, paths, table.columns)
