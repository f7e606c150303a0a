"""Texts of configs that are nearly YAML or JSON: read as meant, or refused in one sentence."""

import math
from pathlib import Path

import pytest

from tests.house import house  # noqa: F401
from utils.config import load
from utils.config.files import ConfigError, Tree, parse, read, shown
from utils.config.names import find


def problem(text: str | bytes, file: Path) -> str:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as raised:
        read(file)
    return str(raised.value).replace(str(file), file.name)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.json", '{"name": "a" // the name\n}', "x.json:1: this is not valid JSON "),
        ("x.json", '{"name": "a"\n "seed": 1}', "x.json:2: this is not valid JSON "),
        ("x.yaml", "name: a\nloss: 손실\n".encode("cp949"), "x.yaml:2: not UTF-8 text; save the file as UTF-8"),
        ("x.pth", b"PK\x03\x04\xff\xfe", "x.pth: not UTF-8 text; to continue from a checkpoint, use -r"),
        ("x.yaml", "name: a\n\nloss: \x07\n", "x.yaml:3: this is not valid YAML (unacceptable character #x0007"),
        (
            "x.yaml",
            "custom:\n  a\N{ZERO WIDTH SPACE}: 1\n",
            "x.yaml:2: custom.a\N{ZERO WIDTH SPACE}: U+200B is an invisible character; retype this line",
        ),
        (
            "x.yaml",
            "custom: {a: 1,\n b:2}\n",
            'x.yaml:2: custom.b:2: a space is missing after the colon in "b:2"',
        ),
    ],
)
def test_nearly_right(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    assert problem(text, tmp_path / name).startswith(said)


@pytest.mark.parametrize("text", ["{http://x: , 'a:1': , 1:30: 2}", "{a: 'b:1', 'c': d:1}", "{a:{b: 1}}"])
def test_colons_that_are_meant(text: str) -> None:
    parse(text, lambda line: "")


def test_numbers_as_json_writes_them() -> None:
    data, _ = parse('{"a": [Infinity, -Infinity, .inf], "b": NaN, "c": "NaN"}', lambda line: "")
    assert data["a"] == [math.inf, -math.inf, math.inf]
    assert math.isnan(data["b"])
    assert data["c"] == "NaN"


def test_base_is_a_key_of_files() -> None:
    with pytest.raises(ConfigError, match=r"base=a\.yaml: base is a key of files; put that file first: -c BASE FILE"):
        Tree({}, {}).set("base=a.yaml")


def test_invisible_characters_are_shown() -> None:
    assert shown("\N{NO-BREAK SPACE}3 한") == '"\\u00a03 한"'


@pytest.mark.parametrize("name", ["off", "no", "None"])
def test_no_schedule_is_null(name: str) -> None:
    with pytest.raises(LookupError, match="no value is null in a config"):
        find("lr_scheduler", name)


def test_spaces_around_the_equals_sign(house: Path) -> None:  # noqa: F811
    assert load(["x.yaml"], ["seed = 3"]).run.seed == 3
