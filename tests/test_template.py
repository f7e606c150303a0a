"""What holds for the template, but need not hold for a project made from it: new_project.py leaves this file behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lines import code_lines

ROOT = Path(__file__).resolve().parent.parent


def test_the_json_schema_is_current() -> None:
    command = [sys.executable, "-m", "utils.config"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == (ROOT / "config/schema.json").read_text(encoding="utf-8"), "run `make schema`"


@pytest.mark.parametrize(
    "text, lines",
    [
        ("", 0),
        ("# a\n\nx = 1  # b\n", 1),
        ('"""a\n\nb"""\n\nx = 1\n', 1),
        ('x = """a\nb"""\n', 2),
        ("def f():\n    '''a'''\n    return [\n        1,  # b\n        # c\n    ]\n", 4),
    ],
)
def test_code_lines(text: str, lines: int) -> None:
    """Blank lines, comments and docstrings do not count; each line of a long string does."""
    assert code_lines(text) == lines
