"""A typo of one letter in any key of any shipped config is caught, and the right key is nearly always suggested."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
import yaml

from utils.config import ConfigError, load
from utils.config.files import Loader

FOLDER = Path(__file__).resolve().parents[2] / "config"
CONFIGS = sorted(f.name for f in FOLDER.iterdir() if f.suffix in (".yaml", ".json") and f.name != "schema.json")
FAST = {"digits.yaml", "mnist.yaml", "victoresque.json"}  # the others take seconds, most of them for imports


COLUMNS = {"index", "train", "test"}  # keys that name a column or a split of the data, which is not read here


def keys(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The nodes of all keys, those inside `args` too."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            assert isinstance(key, yaml.ScalarNode)
            yield key
            yield from keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from keys(value)


def typos(word: str) -> Iterator[str]:
    """One letter deleted, inserted, replaced, and two swapped; the word determines where."""
    draw = crc32(word.encode())
    at, letter = draw % len(word), "abcdefghijklmnopqrstuvwxyz"[draw // 97 % 26]
    yield word[:at] + word[at + 1 :]
    yield word[:at] + letter + word[at:]
    yield word[:at] + letter + word[at + 1 :]
    if len(word) > 1:
        at = min(at, len(word) - 2)
        yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_every_typo_is_caught(name: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "config")  # with the files that `base:` names
    file = tmp_path / "config" / name
    text = file.read_text()
    load([file]).check()
    suggested = []
    for node in keys(yaml.compose(text.replace("\t", " "), Loader)):
        quote = node.style is not None
        start, end = node.start_mark.index + quote, node.end_mark.index - quote
        key = text[start:end]
        if key in COLUMNS:
            continue
        for typo in sorted(set(typos(key)) - {key, ""}):
            file.write_text(text[:start] + typo + text[end:])
            with pytest.raises(ConfigError) as error:
                load([file]).check()
            place = f"{file}:{node.start_mark.line + 1}: "
            said = [problem for problem in error.value.problems if problem.startswith(place)]
            assert said, f"{typo} for {key}: {error.value}"
            suggested.append(any(f"did you mean '{key}'?" in problem for problem in said))
    assert len(suggested) > 50
    assert sum(suggested) >= 0.95 * len(suggested)
