"""Reads texts and their labels from tables (CSV, TSV) and folders of .txt files; says in which line one is wrong."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_loader.engine.texts.plain_text import decoded
from utils.config.files import did_you_mean, nearest
from utils.errors import DataError, UsageError


@dataclass(frozen=True)
class LabeledTexts:
    """texts, labels: [N]. columns: all of a table by name, each [N]. places: where each text is, for messages: [N]."""

    texts: list[str]
    labels: list[str]
    columns: dict[str, list[str]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def read_table(
    path: Path, text: str, label: str | None, separator: str | None, quotes: bool | None, encoding: str
) -> LabeledTexts:
    """A table with a header. label: None: there is none, and each is "".

    Raises DataError for what is no table of texts and labels.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path.resolve()}; set file or test_file in data_loader.args to the table")
    separator = separator or ("\t" if path.suffix.lower() in (".tsv", ".tab", ".txt") else ",")
    if len(separator) != 1:
        raise UsageError(f"data_loader: separator is '{separator}'; give one character, such as ',' or a tab")
    quotes = separator != "\t" if quotes is None else quotes
    content = read_text(path, encoding)
    rows = _quoted(path, content, separator) if quotes else _plain(content, separator)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    for name in (text,) if label is None else (text, label):
        if header.count(name) != 1:
            raise DataError(_no_column(path, name, header, separator))
    texts, labels, fields_of, places = list[str](), list[str](), list[list[str]](), list[str]()
    for line, fields in rows:
        if len(fields) != len(header):
            raise DataError(_wrong_width(path, line, len(fields), len(header), separator, quotes))
        name = "" if label is None else fields[header.index(label)].strip()
        if not name and label is not None:
            raise DataError(f"{path}, line {line}: no label in the column '{label}'; give it one, or remove the row")
        texts.append(fields[header.index(text)])
        labels.append(name)
        fields_of.append(fields)
        places.append(f"{path}, line {line}")
    if not texts:
        raise DataError(f"{path} has no rows; it needs a header and a row for each text")
    columns = {name: list(values) for name, values in zip(header, zip(*fields_of, strict=True), strict=True)}
    return LabeledTexts(texts, labels, columns, places)


def read_unlabeled(
    predict: Sequence[str], text: str, separator: str | None, quotes: bool | None, encoding: str
) -> LabeledTexts:
    """What predict.py is given: a table, .txt files (a text in each line), folders of .txt files (each a text), or the
    texts themselves."""
    kinds = {path: Path(path).suffix.lower() for path in predict if "\n" not in path and len(path) < 256}
    if tables := [path for path, kind in kinds.items() if kind in (".csv", ".tsv", ".tab")]:
        if len(predict) > 1:
            raise DataError(f"{tables[0]} is a table, and {len(predict) - 1} more are given; give one table alone")
        return read_table(Path(tables[0]), text, None, separator, quotes, encoding)
    texts, places = list[str](), list[str]()
    for given in predict:
        if given.strip() and given in kinds and Path(given).is_dir():
            files = sorted(Path(given).rglob("*.txt"))
            texts += [read_text(path, encoding) for path in files]
            places += [path.relative_to(given).as_posix() for path in files]
        elif kinds.get(given) == ".txt":
            if not Path(given).is_file():
                raise DataError(f"there is no file {Path(given).resolve()}; give a .txt file, a table or a text")
            lines = read_text(Path(given), encoding).strip("\n").split("\n")
            texts += lines
            places += [str(i) for i in range(len(places) + 1, len(texts) + 1)]
        else:
            texts.append(given)
            places.append(str(len(texts)))
    if not texts:
        raise DataError(f"no .txt files in {', '.join(predict)}; give another folder, a table or a text")
    return LabeledTexts(texts, [""] * len(texts), {"id": places, "text": texts}, places)


def read_folders(folder: Path, encoding: str) -> LabeledTexts:
    """The .txt files in a folder for each class, in the order of their paths."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    files = [(path, name) for name in classes for path in sorted((folder / name).rglob("*.txt"))]
    if not files:
        what = "no .txt files in the class folders of" if classes else "no class folders in"
        raise DataError(
            f"{what} {folder.resolve()}; put the texts of each class into a folder of its name, such as "
            f"{folder / 'positive' / '1.txt'}, or set data_loader.args.data_dir"
        )
    texts = [read_text(path, encoding) for path, _ in files]
    return LabeledTexts(texts, [name for _, name in files], {}, [str(path) for path, _ in files])


def read_text(path: Path, encoding: str) -> str:
    """The text of a file with \\n at the end of each line, without the mark (BOM) that some programs put first.

    A single \\r within a file of \\n or \\r\\n lines ends no line: it is part of a text, and becomes a space.
    """
    text = decoded(path, encoding)
    if not text.strip():
        raise DataError(f"{path} is empty; it needs text")
    text = text.replace("\r\n", "\n")
    return text.replace("\r", " " if "\n" in text else "\n")


def _plain(content: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line:
            yield number, line.split(separator)


def _quoted(path: Path, content: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """A quoted field may have separators and several lines; a row is known by its first line."""
    before = csv.field_size_limit(sys.maxsize if sys.maxsize < 2**31 else 2**31 - 1)  # default: 128 KB
    try:
        reader = csv.reader(io.StringIO(content, newline="\n"), delimiter=separator, strict=True)
        line = 1
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as e:
        raise DataError(
            f"{path}, line {reader.line_num}: {e}; correct the quotes there, or set quotes: false if they are "
            f"part of the text"
        ) from e
    finally:
        csv.field_size_limit(before)


def _no_column(path: Path, name: str, header: list[str], separator: str) -> str:
    if name in header:
        return f"{path}: two columns are called '{name}'; rename one of them in the first line"
    one = len(header) == 1 and any(mark in header[0] for mark in ";\t|,")
    hint = "; does another character separate the columns? Set separator" if one else ""
    near = "" if one else did_you_mean(nearest(name, header))
    return f"{path} has no column '{name}'{near}; it has {', '.join(header)}{hint}"


def _wrong_width(path: Path, line: int, width: int, expected: int, separator: str, quotes: bool) -> str:
    shown = "a tab" if separator == "\t" else f"'{separator}'"
    what = "more" if width > expected else "fewer"
    how = "into double quotes" if quotes else "into double quotes in all rows and set quotes: true"
    return (
        f"{path}, line {line}: {width} fields, {what} than the {expected} of the header; put a text that contains "
        f"{shown} {how}, or correct the row"
    )
