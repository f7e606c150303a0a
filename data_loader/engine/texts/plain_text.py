"""What loaders of tables and of texts share: reading a file of text, and showing and ordering names in it."""

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from utils.errors import DataError, UsageError

SHOWN = 10  # names in a message
SEPARATORS = ",;\t|"
LOOKED_AT = 1 << 20  # characters of a table, to find its separator
OF_EXCEL = re.compile(r"sep=(.)\n", re.IGNORECASE)


def decoded(path: Path, encoding: str) -> str:
    """The text of a file, without the mark (BOM) that some programs put first.

    Raises DataError with the line of what is no text, UsageError for an encoding that Python does not know.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = _unpacked(path, raw)
    if raw[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise DataError(f"{path} is a spreadsheet or a zip file; save the table as CSV, or unpack it")
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
    return text


def _unpacked(path: Path, raw: bytes) -> bytes:
    """What gzip packed."""
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} is not a sound gzip file: {e}; copy it anew") from e


def rows_and_separator(path: Path, text: str, separator: str | None) -> tuple[str, str, int]:
    """The text of a table, of lines that end in \\n; what separates its columns: by default a tab if its name says so,
    or a sign that the header has as often as the next row; and the lines before the header that are left out: `sep=;`,
    which Excel writes and hides."""
    skipped = 0
    if found := OF_EXCEL.match(text):
        text, separator, skipped = text[found.end() :], separator or found[1], 1
    if separator is not None and len(separator) != 1:
        raise UsageError(f"data_loader: separator is '{separator}'; give one character, such as ',' or a tab")
    if separator is None and path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab", ".txt")):
        separator = "\t"
    if separator is None:
        header, row = [*re.sub(r'"[^"]*"', "", text[:LOOKED_AT]).split("\n"), ""][:2]
        alike = [sign for sign in SEPARATORS if header.count(sign) == row.count(sign) > 0]
        separator = max(alike or SEPARATORS, key=header.count)
    return text, separator, skipped


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
