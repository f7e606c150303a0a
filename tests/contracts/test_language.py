"""What people read is plain American English: none of the words that readers stumbled over."""

import re

import pytest

from tests.conftest import ROOT

WORDS = {
    r"\b(is|are|was|were) told\b": "is reported",
    r"\btells? (you|people) apart\b": "distinguishes",
    r"\bso many\b": "this many, or the number",
    r"\blearned of\b": "learned from",
    r"\banew\b": "again",
    r"\bof no use\b": "unused",
    r"\ba text\b(?! (file|field|editor))": "a string",
    r"\bstands? (once|twice|in)\b": "appears",
    r"\bbelongs into\b": "belongs in",
    r"\bevolves\b": "changes",
    r"\bdear\b": "expensive",
    r"\ba slip\b": "a typo",
    r"\bfrom their first \d+ bits\b": "TF32",
    r"\b\w*(coloured|colours?|behaviour|favour|centre|grey)\w*\b": "the American spelling",
    r"\b(normal|initial|optim|serial|standard|summar|synchron|recogn)is(e|ed|es|ing|ation)\b": "the American spelling",
    r"\b(Refused|wait_for_all|from_main|last_closed|white|Vote|beat)\b(?=[(.:=])": "the field's term",
}
FILES = [
    path
    for pattern in ("*.md", "*.py", "Makefile", "docs/*.md", "config/*.yaml", "*/**/*.py")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "README.ko.md" and not {".venv", "tests", "saved", "data"} & set(path.relative_to(ROOT).parts)
]


def found(text: str) -> list[str]:
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}: {instead}"
        for word, instead in WORDS.items()
        for match in re.finditer(word, text)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words(path):
    lines = found(path.read_text(encoding="utf-8"))
    assert [line for line in lines if not ("text" in path.name and "a string" in line)] == []  # where texts are data


@pytest.mark.parametrize(
    "sentence",
    ["A slip is told before it starts", "a key that stands twice", "left as initialised", "so many of them", "a text"],
)
def test_the_words_are_found(sentence):
    assert found(sentence)
