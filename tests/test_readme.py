"""README.md is true: its commands run, its snippets work, its tables are those of the code; README.ko.md says the same.

`python -m tests.test_readme` writes the tables of config keys into both.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from pydantic_core import PydanticUndefined

import new_project
from utils.config import sections as parts
from utils.config.messages import describe
from utils.config.schema import Model, Part, RunConfig, TrainerConfig

ROOT = Path(__file__).resolve().parent.parent
README, KOREAN = ROOT / "README.md", ROOT / "README.ko.md"

# Commands that are not run just as they stand, and why
SKIPPED = {"make test": "it is what runs this test; tests/test_new_project.py runs it in a copy"}
FEWER = {"config/victoresque.json": "data_loader.args.data_dir=$MNIST trainer.epochs=1 trainer.limit_batches=5"}
EXIT_CODES = {"python train.py -c config/spirals.yaml arch.args.widht=128": 2}

# The interpreter that is here in place of a fresh .venv; a server that is ended once it serves; images to predict for
PROLOGUE = """
set -e
mkdir -p scans
python -c "
import numpy as np
from PIL import Image
for i, image in enumerate(np.load('data_loader/digits/digits.npz')['images'][:3]):
    Image.fromarray(image.astype('uint8') * 15).save(f'scans/{i}.png')"
make() {
    mkdir -p .venv/bin
    touch .venv/.uv .venv/.base .venv/.dev .venv/bin/activate
    command make RUN=python "$@"
}
tensorboard() {
    python -m tensorboard.main "$@" --host 127.0.0.1 --port 0 >tensorboard.txt 2>&1 &
    for _ in $(seq 120); do grep -q http://127 tensorboard.txt && break; sleep 0.5; done
    kill $!
    grep http://127 tensorboard.txt
}
"""


# What `describe` says, in Korean
WORDS = {
    r"a list, each entry a part": "구성 요소의 목록",
    r"a list, each entry a string": "문자열의 목록",
    r"a part, or several by name": "구성 요소, 또는 이름별로 여러 개",
    r"a part": "구성 요소",
    r"a mapping": "매핑",
    r"a positive integer": "양의 정수",
    r"a non-negative integer": "0 이상의 정수",
    r"a positive number": "양수",
    r"a non-negative number": "0 이상의 수",
    r"an integer": "정수",
    r"a number": "수",
    r"a string": "문자열",
    r" or ": " 또는 ",
}


class Block(NamedTuple):
    section: str
    language: str
    path: str  # of the file that the block belongs into, or ''
    text: str


def blocks(readme: Path) -> list[Block]:
    found, section = [], ""
    for heading, language, path, text in re.findall(
        r"^## ([^\n]+)$|^```(\w+) ?(\S*)\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        section = heading or section
        if language:
            found.append(Block(section, language, path, text))
    return found


def script(section: str) -> str:
    """What the section tells a person to do, as one shell script that prints `$ COMMAND` before each."""
    lines = [PROLOGUE]
    for block in blocks(README):
        if block.section != section:
            continue
        if block.path:
            whole = block.path not in new_project.template_files() or block.text.startswith('"""')
            gap = "" if whole else "\n\n"
            lines.append(f"cat {'>' if whole else '>>'} {block.path} <<'END'\n{gap}{block.text}END")
        elif block.language == "bash":
            for command in block.text.splitlines():
                plain = command.split("  # ")[0].strip()
                if plain in SKIPPED:
                    continue
                more = next((f" {limits}" for name, limits in FEWER.items() if name in plain), "")
                lines += [f"echo '$ '{quoted(plain)}", f"{plain}{more}" + expecting(EXIT_CODES.get(plain, 0))]
    return "\n".join(lines)


def quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"


def expecting(code: int) -> str:
    return f" && exit 1 || [ $? -eq {code} ]" if code else ""


# One after the other in a copy: tests/test_new_project.py runs them, and `make test` after them
IN_A_COPY = ("Your own project in ten minutes", "Callbacks", "Your own training step")
SECTIONS = dict.fromkeys(block.section for block in blocks(README) if block.language == "bash")


@pytest.mark.slow
@pytest.mark.parametrize("section", [section for section in SECTIONS if section not in IN_A_COPY])
def test_commands_and_snippets(tmp_path: Path, section: str, request: pytest.FixtureRequest) -> None:
    mnist = "$MNIST" in script(section)
    follow(tmp_path, [section], MNIST=str(request.getfixturevalue("mnist_dir")) if mnist else "")


def follow(tmp_path: Path, sections: Sequence[str], then: str = "", **variables: str) -> str:
    """Run what the sections say, then `then`, with this interpreter in place of a fresh .venv.

    Returns the output, which has the lines that the sections show.
    """
    copy, bin_ = tmp_path / "Groundwork", tmp_path / "bin"
    for path in new_project.template_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy / path)
    bin_.mkdir()
    for name, module in {"python": "", "python3": "", "torchrun": " -m torch.distributed.run"}.items():
        (bin_ / name).write_text(f'#!/bin/sh\nexec {sys.executable}{module} "$@"\n')
        (bin_ / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "PYTHONWARNINGS": "error::UserWarning"}
    for name in ("MAKEFLAGS", "MFLAGS", "PYTHON"):
        env.pop(name, None)
    todo = "\n".join([*map(script, sections), then])

    done = subprocess.run(
        ["bash", "-c", todo], cwd=copy, env=env | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-5000:]
    printed = shown(done.stdout)
    for block in blocks(README):
        if block.section in sections and block.language == "text":
            missing = [line for line in shown(block.text) if not any(o.startswith(line) for o in printed)]
            assert not missing, done.stdout[-5000:]
    return done.stdout


def files_of(sections: Sequence[str]) -> list[str]:
    """The Python files that the sections have a person write."""
    return [block.path for block in blocks(README) if block.section in sections and block.path.endswith(".py")]


def shown(text: str) -> list[str]:
    """The lines that say something, numbers replaced by 0."""
    return [re.sub(r"[\d.,:_-]*\d", "0", line) for line in text.splitlines() if line.strip() not in ("", "...")]


def best_accuracy(output: str) -> float:
    return max(float(value) for value in re.findall(r"^best val_accuracy (\S+)", output, re.MULTILINE))


def test_python_without_a_file_is_quoted_from_one() -> None:
    sources = [(ROOT / path).read_text() for path in new_project.template_files() if path.endswith(".py")]
    quotes = [block.text for block in blocks(README) if block.language == "python" and not block.path]
    assert quotes
    assert all(any(quote in source for source in sources) for quote in quotes)


def test_snippets_are_python_and_yaml() -> None:
    for block in blocks(README):
        if block.language == "python" and block.path:
            ast.parse(block.text)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)


@pytest.mark.parametrize("readme", [README, KOREAN], ids=["en", "ko"])
def test_links_and_files(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]
    made = {block.path for block in blocks(README)}
    files = set(re.findall(r"`((?:config|data_loader|model|trainer)/\w+\.\w+)`", text))
    assert sorted(file for file in files - made if not (ROOT / file).exists()) == []


@pytest.mark.parametrize("readme", [README, KOREAN], ids=["en", "ko"])
def test_the_config_tables_are_current(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    assert with_tables(text) == text, "write them anew: python -m tests.test_readme"


@pytest.mark.parametrize("readme", [README, KOREAN], ids=["en", "ko"])
def test_the_table_of_parts(readme: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([\w/.*]+)` \| (?:`([\w.]+)`)?[^|]*\|$", readme.read_text(), re.MULTILINE)
    table = {section: (file, library or None) for section, file, library in rows}
    assert table == {
        section: (f"{at.rooms[0]}/*.py", next(iter(at.libraries), None)) for section, at in parts.SECTIONS.items()
    }


def test_korean_says_the_same() -> None:
    assert [block[1:] for block in blocks(KOREAN)] == [block[1:] for block in blocks(README)]
    here, there = (path.read_text(encoding="utf-8").splitlines() for path in (README, KOREAN))
    for start in ("## ", "**", "| ", "- "):
        assert sum(line.startswith(start) for line in here) == sum(line.startswith(start) for line in there), start
    rows, korean_rows = (re.findall(r"^\| (`[^`]+`)", "\n".join(lines), re.MULTILINE) for lines in (here, there))
    assert rows == korean_rows


def table(keys: str, korean: bool, kept: dict[str, str]) -> str:
    """The keys of a model; `kept` are descriptions in Korean."""
    models: dict[str, type[Model]] = {"run": RunConfig, "trainer": TrainerConfig}
    model = models[keys]
    lines = []
    for name, field in model.model_fields.items():
        key = f"trainer.{name}" if model is TrainerConfig else name
        default = "" if field.default is PydanticUndefined else f"`{yaml_value(field.default)}`"
        accepts = describe(field.annotation, tuple(field.metadata))
        accepts = accepts.replace(describe(Part), "a part").replace("a part or a mapping", "a part, or several by name")
        for english, word in WORDS.items() if korean else ():
            accepts = re.sub(english, word, accepts)
        lines.append(f"| `{key}` | {default} | {accepts} | {kept.get(key, field.description)} |")
    return "\n".join(lines)


def yaml_value(value: object) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def with_tables(text: str) -> str:
    """`text` with its tables of config keys made anew; descriptions in Korean are kept."""

    def anew(match: re.Match[str]) -> str:
        rows = [line.strip("| ").split(" | ") for line in match[3].splitlines() if line.startswith("| `")]
        korean = "기본값" in match[2]
        kept = {row[0].strip("`"): row[-1] for row in rows} if korean else {}
        return f"{match[1]}{match[2]}{table(match[1].split()[2], korean, kept)}\n{match[4]}"

    return re.sub(r"(<!-- table: \w+ -->\n)((?:.*\n)*?\|---.*\n)((?:\|.*\n)*)(\n?<!-- end -->)", anew, text)


if __name__ == "__main__":
    for readme in (README, KOREAN):
        readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
