"""The pictures of docs/: each one that is named exists, none is left over, and together they are small."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_pictures_of_the_docs():
    named = {
        path
        for page in DOCS.glob("*.md")
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    there = {f"images/{path.name}": path.stat().st_size for path in (DOCS / "images").glob("*.png")}
    assert named == set(there)
    assert sum(there.values()) < 3_000_000
