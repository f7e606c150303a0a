"""new_project.py: what is copied, what is refused, and that the copy works by itself."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import new_project

ROOT = Path(__file__).resolve().parent.parent
GIT = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
MODES = pytest.mark.parametrize("mode", [[], ["--minimal"]], ids=["whole", "minimal"])
SOMEONE = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}  # git as it is before anyone configured it


def shell(*command: object, cwd: Path, **env: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


@MODES
def test_copy(run, tmp_path, mode):
    done = run("new_project.py", "Mine", *mode, env=SOMEONE)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "Mine"

    files = {
        path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file() and ".git" not in path.parts
    }
    template = set(new_project.template_files())
    assert files <= template | {"README.md", ".template.json"}
    assert {"LICENSE", "Makefile", ".ci/run", "train.py", "config/digits.yaml", "tests/test_imports.py"} <= files
    if mode:
        assert {path for path in files if path.startswith("config/")} == {"config/digits.yaml", "config/schema.json"}
        assert "new_project.py" not in files
    else:
        left_out = {path for path in template - files if not path.startswith("README")}
        assert left_out <= {".template.json", "tests/test_readme.py"}
    assert os.access(copy / ".ci/run", os.X_OK)

    pyproject = (copy / "pyproject.toml").read_text()
    assert pyproject.startswith('[project]\nname = "Mine"\nversion = "0.1.0"\n')
    assert ("\nbench = " in pyproject) is (not mode)
    assert (copy / "README.md").read_text().startswith("# Mine\n")

    record = json.loads((copy / ".template.json").read_text())
    ours = (ROOT / "pyproject.toml").read_text()
    assert (record["template"], record["version"]) == (
        new_project.value(ours, "name"),
        new_project.value(ours, "version"),
    )
    assert record["files"] == {path: new_project.digest(copy / path) for path in files - {".template.json"}}


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs a git clone")
def test_the_files_are_those_git_would_take():
    listed = shell("git", "ls-files", "-z", "--cached", "--others", "--exclude-per-directory=.gitignore", cwd=ROOT)
    assert new_project.template_files() == sorted({path for path in listed.split("\0") if (ROOT / path).is_file()})


@GIT
def test_first_commit_holds_everything_whatever_git_is_told(run, tmp_path):
    """Nobody named, all arrays ignored by the person's own git, and called from another repository's hook."""
    (tmp_path / "ignore").write_text("*.npz\n*.json\n")
    (tmp_path / "gitconfig").write_text(f"[core]\n  excludesFile = {tmp_path}/ignore\n[user]\n  useConfigOnly = true\n")
    git = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": f"{tmp_path}/gitconfig"}
    done = run("new_project.py", "Mine", env={**git, "GIT_DIR": str(tmp_path / "elsewhere")})
    assert done.returncode == 0, done.stderr
    assert "git does not know you yet" in done.stdout
    copy = tmp_path / "Mine"
    committed = shell("git", "ls-files", "-z", cwd=copy, **git).split("\0")[:-1]
    assert set(committed) == {*json.loads((copy / ".template.json").read_text())["files"], ".template.json"}
    assert shell("git", "log", "--format=%an <%ae>: %s", cwd=copy, **git) == "Mine <Mine@localhost>: Start Mine\n"
    assert not shell("git", "status", "--short", cwd=copy, **git)


@GIT
def test_first_commit_is_by_whom_git_knows(run, tmp_path):
    (tmp_path / "gitconfig").write_text("[user]\n  name = Ada\n  email = ada@example.org\n")
    git = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": f"{tmp_path}/gitconfig"}
    assert "git does not know you" not in run("new_project.py", "Mine", env=git).stdout
    assert shell("git", "log", "--format=%an <%ae>", cwd=tmp_path / "Mine", **git) == "Ada <ada@example.org>\n"


@GIT
def test_a_commit_that_git_refuses_is_told(run, tmp_path):
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/pre-commit").write_text("#!/bin/sh\necho not on my watch >&2\nexit 1\n")
    (tmp_path / "hooks/pre-commit").chmod(0o755)
    (tmp_path / "gitconfig").write_text(f"[core]\n  hooksPath = {tmp_path}/hooks\n")
    done = run("new_project.py", "Mine", env={"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": f"{tmp_path}/gitconfig"})
    assert done.returncode == 1
    assert "No first commit was made: git" in done.stderr
    assert "not on my watch" in done.stderr


def test_without_git(run, tmp_path):
    done = run("new_project.py", "Mine", env={"PATH": str(tmp_path / "nothing")})
    assert done.returncode == 0, done.stderr
    assert "git is not installed" in done.stdout
    assert (tmp_path / "Mine/train.py").exists()
    assert not (tmp_path / "Mine/.git").exists()


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("full", "is not empty. Name a folder that is empty or not yet there."),
        ("file", "cannot be made or read: File exists"),
        ("file/Mine", "cannot be made or read: Not a directory"),
        ("My Project", "'My Project' cannot name a Python project."),
        ("mine-", "'mine-' cannot name a Python project."),
        ("Projekt-für-mich", "cannot name a Python project."),
        (ROOT / "Mine", "lies inside the template. Name a folder beside it"),
        (ROOT, "lies inside the template."),
        ("/", "'' cannot name a Python project."),
    ],
)
def test_refused(run, tmp_path, folder, says):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    done = run("new_project.py", folder)
    assert done.returncode == 2
    assert says in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert not (ROOT / "Mine").exists()


def test_an_empty_folder_is_taken(run, tmp_path):
    (tmp_path / "Mine").mkdir()
    assert run("new_project.py", ".", cwd=tmp_path / "Mine", env=SOMEONE).returncode == 0
    assert (tmp_path / "Mine/train.py").exists()


@MODES
def test_tests_of_the_copy_collect(run, tmp_path, mode):
    assert run("new_project.py", "Mine", *mode, env=SOMEONE).returncode == 0
    collected = shell(sys.executable, "-m", "pytest", "--collect-only", "-q", cwd=tmp_path / "Mine")
    assert "tests/test_imports.py::" in collected


@pytest.mark.slow
@MODES
def test_make_train_and_make_test_in_the_copy(run, tmp_path, mode):
    """What the Makefile runs, by the interpreter that is here in place of a fresh .venv."""
    assert run("new_project.py", "Mine", *mode, env=SOMEONE).returncode == 0
    copy = tmp_path / "Mine"
    (copy / ".venv").mkdir()
    for stamp in (".uv", ".base", ".dev"):
        (copy / ".venv" / stamp).touch()  # newer than pyproject.toml: nothing to install
    shell("make", "test", f"RUN={sys.executable}", cwd=copy)
    shell("make", "train", f"RUN={sys.executable}", cwd=copy)
    assert list(copy.glob("saved/*/*/checkpoints/model_best.pth"))
    assert not shell("git", "status", "--short", cwd=copy)
