"""The Makefile: .venv is made on demand, used again, and brought up to date when pyproject.toml changes."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


@pytest.fixture
def make(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    # `make test` runs this test and hands its own variables to every make below it.
    reported = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON")
    env = {key: value for key, value in os.environ.items() if key not in reported}

    def make(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["make", *args], cwd=tmp_path, env=env, capture_output=True, text=True)

    return make


def stamp(folder: Path, age: float, *names: str) -> None:
    """Make files that are `age` seconds older than pyproject.toml."""
    then = (folder / "pyproject.toml").stat().st_mtime - age
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
        os.utime(folder / name, (then, then))


def test_venv_is_made_on_demand(make):
    todo = make("--dry-run", "train").stdout
    assert "python3 -m venv .venv" in todo
    assert "-r pyproject.toml" in todo
    assert "--extra" not in todo
    assert todo.endswith("python train.py -c config/digits.yaml\n")
    assert "-r pyproject.toml --extra dev" in make("--dry-run", "test").stdout


def test_venv_is_used_again(make, tmp_path):
    stamp(tmp_path, -1, ".venv/.uv", ".venv/.base", ".venv/.dev")
    assert make("--dry-run", "train").stdout == ".venv/bin/python train.py -c config/digits.yaml\n"
    assert "install" not in make("--dry-run", "test").stdout


def test_venv_follows_pyproject(make, tmp_path):
    stamp(tmp_path, 1, ".venv/.uv", ".venv/.base", ".venv/.dev")
    for target in ("train", "test"):
        todo = make("--dry-run", target).stdout
        assert "-r pyproject.toml" in todo
        assert "-m venv" not in todo


def test_an_extra_keeps_the_installed_torch(make, tmp_path):
    stamp(tmp_path, -1, ".venv/.uv", ".venv/.base")
    todo = make("--dry-run", "extra", "NAME=metrics").stdout
    assert "grep -E '^(torch|torchvision)==' > .venv/torch.txt" in todo
    assert "uv pip install --quiet --python .venv/bin/python --constraint .venv/torch.txt" in todo
    assert "--extra metrics" in todo
    (tmp_path / "freeze").write_text(
        "#!/bin/sh\necho torch==2.10.0+cpu; echo torchmetrics==1.9.0; echo torchvision==0.25.0\n"
    )
    (tmp_path / "freeze").chmod(0o755)
    assert make("extra", "NAME=metrics", "RUN=./freeze").returncode == 0
    assert (tmp_path / ".venv/torch.txt").read_text() == "torch==2.10.0+cpu\ntorchvision==0.25.0\n"


@pytest.mark.parametrize("name", [[], ["NAME=nope"]])
def test_an_extra_that_is_not_there(make, tmp_path, name):
    stamp(tmp_path, -1, ".venv/.uv", ".venv/.base")
    done = make("extra", *name)
    assert done.returncode == 2
    assert "make extra NAME=...: pyproject.toml has the extras dev audio export huggingface metrics" in done.stderr


def test_a_schema_that_cannot_be_made_leaves_the_old_one(make, tmp_path):
    stamp(tmp_path, -1, ".venv/.uv", ".venv/.base")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/schema.json").write_text("old")
    assert make("schema", "RUN=false").returncode == 2
    assert (tmp_path / "config/schema.json").read_text() == "old"
    assert make("schema", "RUN=echo").returncode == 0
    assert (tmp_path / "config/schema.json").read_text() == "-m utils.config\n"


def test_help_names_every_target(make, tmp_path):
    targets = re.findall(r"^\.PHONY: (.+)$", (tmp_path / "Makefile").read_text(), re.MULTILINE)
    named = [line.split()[1] for line in make("help").stdout.splitlines()]
    assert sorted([*named, "help"]) == sorted(" ".join(targets).split())


def test_old_python_is_reported(make, tmp_path):
    (tmp_path / "old").write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.18\nexit 1\n')
    (tmp_path / "old").chmod(0o755)
    done = make("train", "PYTHON=./old")
    assert done.returncode == 2
    assert "This needs Python 3.10 or newer as ./old; found: Python 3.8.18." in done.stderr
    assert not (tmp_path / ".venv").exists()
