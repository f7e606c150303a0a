"""What loaders of tables, texts and lists of files share: reading files of text and CSV, and showing names in them."""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.config.files import did_you_mean, nearest
from utils.errors import DataError, UsageError

SHOWN = 10  # names in a message
SEPARATORS = ",;\t|"
LOOKED_AT = 1 << 20  # characters of a table, to find its separator
OF_EXCEL = re.compile(r"sep=(.)\n", re.IGNORECASE)
NO_TEXT = {
    b"PK\x03\x04": "a spreadsheet or a zip file",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"PAR1": "a Parquet file",
    b"ARROW1\0": "an Arrow file",
    b"\x1f\x8b\x08": "packed by gzip",
}  # by how such files begin


def decoded(path: Path, encoding: str) -> str:
    """The text of a file with \\n at the end of each line, without the mark (BOM) that some programs put first.

    A single \\r within a file of \\n or \\r\\n lines ends no line: it is part of a text, and becomes a space. Raises
    DataError with the line of what is not text, UsageError for an encoding that Python does not know.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as e:
            raise DataError(f"{path} is not a sound gzip file: {e}; copy it again") from e
    if what := is_no_text(raw):
        raise DataError(f"{path} is {what}; save it as CSV or text, unpack it, or give it its own ending")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        line = raw[: e.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: the byte 0x{raw[e.start]:02x} is not {encoding}; save the file as UTF-8, or give "
            f"its encoding, such as encoding: cp949 (Korean Windows) or cp1252 (Western Windows)"
        ) from e
    except LookupError as e:
        raise UsageError(f"data_loader: encoding is '{encoding}', which Python does not know; utf-8 is usual") from e
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(
            f"{path}, line {line}: a NUL character, which no text has; the file is damaged, is no text, or has another "
            f"encoding (utf-16?)"
        )
    text = text.replace("\r\n", "\n")
    return text.replace("\r", " " if "\n" in text else "\n")


def is_no_text(head: bytes) -> str | None:
    """What a file that begins so is, if it is no text."""
    return next((what for mark, what in NO_TEXT.items() if head.startswith(mark)), None)


def rows_and_separator(path: Path, text: str, separator: str | None) -> tuple[str, str, int]:
    """The text of a table, of lines that end in \\n; what separates its columns: by default a tab if its name says so,
    or a sign that the header has as often as the next row; and the lines before the header that are left out: `sep=;`,
    which Excel writes and hides."""
    skipped = 0
    if found := OF_EXCEL.match(text):
        text, separator, skipped = text[found.end() :], separator or found[1], 1
    before = len(text) - len(text.lstrip("\n"))  # empty lines before the header
    text, skipped = text[before:], skipped + before
    if separator is not None and len(separator) != 1:
        raise UsageError(f"data_loader: separator is '{separator}'; give one character, such as ',' or a tab")
    if separator is None and path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab", ".txt")):
        separator = "\t"
    if separator is None:
        header, row = [*re.sub(r'"[^"]*"', "", text[:LOOKED_AT]).split("\n"), ""][:2]
        alike = [sign for sign in SEPARATORS if header.count(sign) == row.count(sign) > 0]
        separator = max(alike or SEPARATORS, key=header.count)
    return text, separator, skipped


class Csv(NamedTuple):
    """A table of text. columns: by name. rows: the number of each row, where the header's is 1; lines: where it begins.
    bad: rows that have more or fewer fields than the header, by number, and why that is wrong."""

    columns: dict[str, list[str]]
    rows: list[int]
    lines: list[int]
    bad: dict[int, str]


def read_csv(path: Path, encoding: str) -> Csv:
    """A table with a header and rows that fit it. Raises DataError for anything else."""
    if not path.is_file():
        raise DataError(f"there is no file {path.resolve()}; give a table, a CSV file")
    found = split_rows(path, *rows_and_separator(path, decoded(path, encoding), None))
    for why in found.bad.values():
        raise DataError(why)
    if not found.rows:
        raise DataError(f"{path} has no rows; it needs a header and a row for each sample")
    return found


def split_rows(path: Path, text: str, separator: str, skipped: int, quotes: bool = True, unit: str = "row") -> Csv:
    """What `rows_and_separator` returned as a table; empty lines are left out and do not count as rows.

    quotes: may a field in double quotes have separators and several lines? unit: messages count rows or lines.
    """
    before = csv.field_size_limit(2**31 - 1)  # default: 128 KB
    reader = csv.reader(
        io.StringIO(text, newline="\n"),
        delimiter=separator,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
    )
    rows, numbers, lines, bad = list[list[str]](), list[int](), list[int](), dict[int, str]()
    try:
        header = header_of(path, next(reader, []))
        number = 1 + skipped
        line = reader.line_num + 1 + skipped
        for fields in reader:
            if not fields and len(header) == 1 and unit == "row":  # of a single column, an empty line is no value
                fields = [""]
            if fields:
                number += 1
            if len(fields) == len(header):
                rows.append(fields)
                numbers.append(number)
                lines.append(line)
            elif fields:
                what = "more" if len(fields) > len(header) else "fewer"
                sign = "a tab" if separator == "\t" else f"'{separator}'"
                how = "" if quotes else " in all rows and set quotes: true"
                bad[number] = (
                    f"{path}, {unit} {line if unit == 'line' else number}: {len(fields)} fields, {what} than the "
                    f"{len(header)} of the header; put a field that contains {sign} into double quotes{how}, or "
                    f"correct the row"
                )
            line = reader.line_num + 1 + skipped
    except csv.Error as e:
        raise DataError(
            f"{path}, line {reader.line_num + skipped}: {e}; correct the quotes there, or set quotes: false "
            f"(TextTableDataLoader) if they are part of the text"
        ) from e
    finally:
        csv.field_size_limit(before)
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return Csv({name: list(values) for name, values in zip(header, columns, strict=True)}, numbers, lines, bad)


def header_of(path: Path, fields: Sequence[str]) -> list[str]:
    """The names of columns. Raises DataError for two of one name, but for none: table programs leave some empty."""
    names = [name.strip() for name in fields]
    if not any(names):
        raise DataError(f"{path} is empty; it needs a header and a row for each sample")
    for i, name in enumerate(names):
        if name and name in names[:i]:
            raise DataError(f"{path}: two columns are called '{name}'; rename one of them in the first row")
    return names


def no_column(where: str, name: str, names: Sequence[str]) -> DataError:
    """What to raise for a column that a table does not have."""
    if names[0].startswith(("{", "[{")):
        hint = "HuggingFaceDataLoader reads JSON"
    elif len(names) == 1 and re.search(r"[;\t|, ]", names[0]):
        hint = "does another character separate the columns? TableDataLoader and TextTableDataLoader have separator"
    else:
        return DataError(f"{where} has no column '{name}'{did_you_mean(nearest(name, names))}; it has {shown(names)}")
    return DataError(f"{where} has no column '{name}'; it has {names[0][:100]}; {hint}")


def by_number(name: str) -> tuple[float, str]:
    """A key by which 2 comes before 10, and numbers before text."""
    try:
        value = float(name)
    except ValueError:
        value = math.inf
    return (math.inf if math.isnan(value) else value), name


def shown(names: Sequence[str]) -> str:
    """`a, b, c`, shortened where there are many."""
    return ", ".join([*names[:SHOWN], *([f"... ({len(names):,} in all)"] if len(names) > SHOWN else [])])
