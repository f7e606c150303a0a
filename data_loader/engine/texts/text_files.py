"""Reads texts and their labels from tables (CSV, TSV) and folders of .txt files; says in which line one is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_loader.engine.paths import files_below, is_hidden
from data_loader.engine.texts.plain_text import decoded, no_column, rows_and_separator, split_rows
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

    Raises DataError for what is not a table of texts and labels.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path.resolve()}; set file or test_file in data_loader.args to the table")
    content, separator, skipped = rows_and_separator(path, read_text(path, encoding), separator)
    quotes = separator != "\t" if quotes is None else quotes
    found = split_rows(path, content, separator, skipped, quotes, unit="line")
    for name in (text,) if label is None else (text, label):
        if name not in found.columns:
            raise no_column(str(path), name, list(found.columns))
    if found.bad and (label is not None or not found.rows):
        raise DataError(next(iter(found.bad.values())))
    if not found.rows:
        raise DataError(f"{path} has no rows; it needs a header and a row for each text")
    labels = [""] * len(found.rows) if label is None else [name.strip() for name in found.columns[label]]
    places = [f"{path}, line {line}" for line in found.lines]
    for place, name in zip(places, labels, strict=True):
        if label is not None and name.lower() in ("", "nan"):
            raise DataError(f"{place}: no label in the column '{label}'; give it one, or remove the row")
    numbers = [row - skipped - 1 for row in found.rows]
    bad = [(f"row {row}", why) for row, why in found.bad.items()]
    return LabeledTexts(found.columns[text], labels, found.columns, places, numbers, bad)


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
    text = decoded(path, encoding)
    if not text.strip():
        raise DataError(f"{path} is empty; it needs text")
    return text
