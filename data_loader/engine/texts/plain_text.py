"""What loaders of tables and of texts share: reading a file of text, and showing and ordering names in it."""

from collections.abc import Sequence
from pathlib import Path

from utils.errors import DataError, UsageError

SHOWN = 10  # names in a message


def decoded(path: Path, encoding: str) -> str:
    """The text of a file, without the mark (BOM) that some programs put first.

    Raises DataError with the line of what is no text, UsageError for an encoding that Python does not know.
    """
    raw = path.read_bytes()
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


def by_number(name: str) -> tuple[float, str]:
    """A key by which 2 comes before 10, and numbers before text."""
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name


def shown(names: Sequence[str]) -> str:
    """`a, b, c`, shortened where there are many."""
    return ", ".join([*names[:SHOWN], *([f"... ({len(names):,} in all)"] if len(names) > SHOWN else [])])
