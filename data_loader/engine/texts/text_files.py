"""Reads texts and their labels from tables (CSV, TSV) and folders of .txt files; says in which line one is wrong."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_loader.engine.paths import files_below, is_hidden
from data_loader.engine.texts.plain_text import decoded, rows_and_separator
from utils.config.files import did_you_mean, nearest
from utils.errors import DataError


@dataclass(frozen=True)
class LabeledTexts:
    """texts, labels: [N]. columns: all of a table by name, each [N]. places: where each text is, for messages: [N].

    numbers: of the rows of a table, 1, 2, 3, ... bad: what is left out because it cannot be read, and why.
    """

    texts: list[str]
    labels: list[str]
    columns: dict[str, list[str]]
    places: list[str]
    numbers: list[int] | None = None
    bad: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return len(self.texts)


def read_table(
    path: Path, text: str, label: str | None, separator: str | None, quotes: bool | None, encoding: str
) -> LabeledTexts:
    """A table with a header. label: None: there is none, and each is "".

    Rows without label that cannot be read are left out, as `bad`.

    Raises DataError for what is no table of texts and labels.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path.resolve()}; set file or test_file in data_loader.args to the table")
    content, separator, skipped = rows_and_separator(path, read_text(path, encoding), separator)
    quotes = separator != "\t" if quotes is None else quotes
    rows = _quoted(path, content, separator) if quotes else _plain(content, separator)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    for name in (text,) if label is None else (text, label):
        if header.count(name) != 1:
            raise DataError(_no_column(path, name, header, separator))
    texts, labels, fields_of, places = list[str](), list[str](), list[list[str]](), list[str]()
    numbers, bad = list[int](), list[tuple[str, str]]()
    for number, (line, fields) in enumerate(rows, 1):
        line += skipped
        if len(fields) != len(header):
            why = _wrong_width(path, line, len(fields), len(header), separator, quotes)
            if label is not None:
                raise DataError(why)
            bad.append((f"line {line}", why))
            continue
        name = "" if label is None else fields[header.index(label)].strip()
        if label is not None and name.lower() in ("", "nan"):
            raise DataError(f"{path}, line {line}: no label in the column '{label}'; give it one, or remove the row")
        texts.append(fields[header.index(text)])
        labels.append(name)
        fields_of.append(fields)
        places.append(f"{path}, line {line}")
        numbers.append(number)
    if bad and not texts:
        raise DataError(bad[0][1])
    if not texts:
        raise DataError(f"{path} has no rows; it needs a header and a row for each text")
    columns = {name: list(values) for name, values in zip(header, zip(*fields_of, strict=True), strict=True)}
    return LabeledTexts(texts, labels, columns, places, numbers, bad)


def read_unlabeled(
    predict: Sequence[str], text: str, separator: str | None, quotes: bool | None, encoding: str
) -> LabeledTexts:
    """What predict.py is given: a table, .txt files (a text in each line), folders of .txt files (each a text), or the
    texts themselves."""
    paths = [one for one in predict if "\n" not in one and len(one.encode()) < 256]  # others are texts
    kinds = {path: Path(path.lower().removesuffix(".gz")).suffix for path in paths}
    if tables := [path for path, kind in kinds.items() if kind in (".csv", ".tsv", ".tab")]:
        if len(predict) > 1:
            raise DataError(f"{tables[0]} is a table, and {len(predict) - 1} more are given; give one table alone")
        if not Path(tables[0]).is_file():
            raise DataError(f"there is no file {Path(tables[0]).resolve()}; give a table, .txt files or a text")
        return read_table(Path(tables[0]), text, None, separator, quotes, encoding)
    texts, places, bad = list[str](), list[str](), list[tuple[str, str]]()
    for given in predict:
        if given.strip() and given in kinds and Path(given).is_dir():
            files = files_below(given, [".txt"])
            for path in files:
                name = Path(path).relative_to(given).as_posix()
                try:
                    texts.append(read_text(Path(path), encoding))
                    places.append(name)
                except DataError as e:
                    bad.append((name, str(e)))
        elif kinds.get(given) == ".txt":
            if not Path(given).is_file():
                raise DataError(f"there is no file {Path(given).resolve()}; give a .txt file, a table or a text")
            lines = read_text(Path(given), encoding).strip("\n").split("\n")
            texts += lines
            places += [str(i) for i in range(len(places) + 1, len(texts) + 1)]
        else:
            texts.append(given)
            places.append(str(len(texts)))
    if bad and not texts:
        raise DataError(bad[0][1])
    if not texts:
        raise DataError(f"no .txt files in {', '.join(predict)}; give another folder, a table or a text")
    return LabeledTexts(texts, [""] * len(texts), {"id": places, "text": texts}, places, None, bad)


def read_folders(folder: Path, encoding: str) -> LabeledTexts:
    """The .txt files in a folder for each class, in the order of their paths."""
    entries = folder.iterdir() if folder.is_dir() else ()
    classes = sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))
    files = [(Path(path), name) for name in classes for path in files_below(folder / name, [".txt"])]
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
