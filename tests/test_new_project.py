"""new_project.py: what is copied, what is refused, and that the copy works by itself."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import new_project

ROOT = Path(__file__).resolve().parent.parent
GIT = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
MODES = pytest.mark.parametrize("mode", [[], pytest.param(["--full"], marks=pytest.mark.slow)], ids=["small", "full"])
SOMEONE = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}  # git as it is before anyone configured it


def shell(*command: object, cwd: Path, **env: str) -> str:
    """Output of a command that must succeed; like from a terminal, also where `make test` runs the tests."""
    of_make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON")
    outside = {key: text for key, text in os.environ.items() if key not in of_make}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=outside | env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def files_of(copy: Path) -> set[str]:
    return {
        path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file() and ".git" not in path.parts
    }


@MODES
def test_copy(run, tmp_path, mode):
    done = run("new_project.py", "Mine", *mode, env=SOMEONE)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "Mine"
    files, template = files_of(copy), set(new_project.template_files())

    assert files <= template | {"README.md", ".template.json"}
    code = {path for path in template if path.startswith(("data_loader/", "logger/", "model/", "trainer/", "utils/"))}
    scripts = {path for path in template if "/" not in path and path.endswith(".py")} - {"new_project.py"}
    assert code | scripts | {"LICENSE", "Makefile", "config/digits.yaml", "docs/machines.md"} <= files
    if mode:
        assert os.access(copy / ".ci/run", os.X_OK)
        left_out = {path for path in template - files if not path.startswith("tests/")}
        assert left_out <= {"README.ko.md", "new_project.py", ".github/workflows/test.yaml"}
    else:
        assert {path for path in files if path.startswith("config/")} == {"config/digits.yaml", "config/schema.json"}

    pyproject = (copy / "pyproject.toml").read_text()
    assert pyproject.startswith('[project]\nname = "Mine"\nversion = "0.1.0"\n')
    assert ("\nbench = " in pyproject) is bool(mode)
    assert '\nNAME = "Mine"' in (copy / "logger/__init__.py").read_text()
    assert 'custom_metadata_map["Mine"]' in (copy / "docs/results.md").read_text()
    assert not [
        path for path in files if path.endswith(".py") and re.search(r'"groundwork[".]', (copy / path).read_text())
    ]

    record = json.loads((copy / ".template.json").read_text())
    ours = (ROOT / "pyproject.toml").read_text()
    assert (record["template"], record["version"], record["minimal"]) == (
        new_project.value(ours, "name"),
        new_project.value(ours, "version"),
        not mode,
    )
    assert record["files"] == {path: new_project.digest(copy / path) for path in files - {".template.json"}}


def test_the_small_copy_has_the_tests_of_what_is_yours():
    tests = [path for path in new_project.wanted(full=False) if path.startswith("tests/")]
    assert {
        *("tests/conftest.py", "tests/test_smoke.py", "tests/tiny.py", "tests/data_loader/batches.py"),
        *("tests/data_loader/test_data_loaders.py", "tests/model/test_model.py", "tests/trainer/test_trainer.py"),
        "tests/trainer/callbacks/test_ema.py",
    } <= set(tests)
    engine = ("/engine/", "/checkpoint/", "/parallel/", "tests/contracts/", "tests/logger/", "tests/utils/")
    assert not [path for path in tests if any(folder in path for folder in engine)]


def test_what_is_left_out_is_there():
    """So that a file that moves does not slip into the copies."""
    files = [*new_project.template_files(), new_project.RECORD]
    assert not [pattern for pattern in new_project.LEFT_OUT if not any(fnmatch(path, pattern) for path in files)]
    assert set(new_project.BUT) <= set(files)


@MODES
def test_the_makefile_of_a_copy(run, tmp_path, mode):
    """`make test` runs the tests only: format, lint and types of a project are its owner's."""
    assert run("new_project.py", "Mine", *mode, env=SOMEONE).returncode == 0
    targets = re.findall(r"^([a-z]+):", (tmp_path / "Mine/Makefile").read_text(), re.MULTILINE)
    assert ("bench" in targets, "lines" in targets) == (bool(mode), bool(mode))
    assert {"train", "test", "lint", "schema", "extra"} <= set(targets)
    if shutil.which("make"):
        reported = shell("make", "--dry-run", "-o", ".venv/.dev", "test", cwd=tmp_path / "Mine")
        assert [line.split()[2] for line in reported.splitlines()] == ["pytest"]


# -- the manual: README.md of a copy ----------------------------------------------------------------------------------


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


@MODES
def test_the_manual(run, tmp_path, mode):
    """All sections but those about the template; it names only files that are there or that it makes."""
    assert run("new_project.py", "Mine", *mode, env=SOMEONE).returncode == 0
    copy = tmp_path / "Mine"
    ours, manual = ((folder / "README.md").read_text(encoding="utf-8") for folder in (ROOT, copy))
    assert manual.startswith("# Mine\n")
    absent = [heading for heading in headings(ours) if heading not in headings(manual)]
    assert [heading.split()[0] for heading in absent] == ["Coming", "Measured"]
    steps = [re.findall(r"^\*\*(\d+)\. (\w+)", text, re.MULTILINE) for text in (ours, manual)]
    assert steps[0][0] == ("1", "Copy")
    assert steps[1] == [(str(int(number) - 1), title) for number, title in steps[0][1:]]

    links = re.findall(r"\]\(([^)#]+)\)", manual)
    assert links
    assert not [link for link in links if "://" not in link and not (copy / link).exists()]
    made = re.findall(r"^```\w+ (\S+)$", manual, re.MULTILINE)
    named = set(re.findall(r"`((?:benchmarks|config|data_loader|docs|model|trainer)/[\w.]+\.\w+)`", manual))
    assert "trainer/trainer.py" in named
    assert "docs/machines.md" in links
    assert not [path for path in named if not (copy / path).exists() and path not in made]
    assert ("make bench" in manual) is bool(mode)


# -- the files, the first commit, what is refused ---------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs a git clone")
def test_the_files_are_those_git_would_take():
    listed = shell("git", "ls-files", "-z", "--cached", "--others", "--exclude-per-directory=.gitignore", cwd=ROOT)
    assert new_project.template_files() == sorted({path for path in listed.split("\0") if (ROOT / path).is_file()})


@GIT
def test_first_commit_holds_everything_however_git_is_configured(run, tmp_path):
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


@pytest.mark.slow
@GIT
def test_first_commit_is_by_whom_git_knows(run, tmp_path):
    (tmp_path / "gitconfig").write_text("[user]\n  name = Ada\n  email = ada@example.org\n")
    git = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": f"{tmp_path}/gitconfig"}
    assert "git does not know you" not in run("new_project.py", "Mine", env=git).stdout
    assert shell("git", "log", "--format=%an <%ae>", cwd=tmp_path / "Mine", **git) == "Ada <ada@example.org>\n"


@pytest.mark.slow
@GIT
def test_a_commit_that_git_refuses_is_reported(run, tmp_path):
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
        ("full", "is not empty. Name a folder that is empty or does not exist yet."),
        ("file", "cannot be created or read: File exists"),
        ("file/Mine", "cannot be created or read: Not a directory"),
        ("My Project", "'My Project' cannot name a Python project."),
        ("mine-", "'mine-' cannot name a Python project."),
        ("Projekt-für-mich", "cannot name a Python project."),
        ("Torch", "Torch is a package that the project itself installs. Choose a name such as MyTorch."),
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


@GIT
def test_a_new_repository_is_taken(run, tmp_path):
    """As a clone of an empty one: its .git stays, and is no file of the project."""
    shell("git", "init", "--quiet", "My Work/Mine", cwd=tmp_path)
    shell("git", "config", "user.email", "me@example.org", cwd=tmp_path / "My Work/Mine")
    done = run("new_project.py", "My Work/Mine", env=SOMEONE)
    assert (done.returncode, "cd 'My Work/Mine' && " in done.stdout) == (0, bool(shutil.which("make"))), done.stderr
    record = json.loads((tmp_path / "My Work/Mine/.template.json").read_text())
    assert not [path for path in record["files"] if path.startswith(".git/")]
    assert "me@example.org" in shell("git", "log", cwd=tmp_path / "My Work/Mine", **SOMEONE)


def test_an_empty_folder_is_taken(run, tmp_path):
    (tmp_path / "Mine").mkdir()
    assert run("new_project.py", ".", cwd=tmp_path / "Mine", env=SOMEONE).returncode == 0
    assert (tmp_path / "Mine/train.py").exists()


@pytest.mark.slow
def test_tests_of_a_full_copy_collect(run, tmp_path):
    """Those of a small one run below."""
    assert run("new_project.py", "Mine", "--full", env=SOMEONE).returncode == 0
    collected = shell(sys.executable, "-m", "pytest", "--collect-only", "-q", cwd=tmp_path / "Mine")
    assert "tests/test_smoke.py::" in collected


# After the tutorial: lint by choice, tests beside scratch files, a new schema by choice
AFTERWARDS = """
command make RUN=python lint
echo 'def f(:' | tee scratch.py model/scratch.py data_loader/scratch.py trainer/callbacks/scratch.py > /dev/null
echo 'import os,sys;x=1' > old_train.py
command make RUN=python test
rm scratch.py */scratch.py trainer/callbacks/scratch.py
command make RUN=python schema
"""


def cache_of_mypy(tmp_path: Path) -> dict[str, str]:
    """Where `make lint` ran here: a copy of what it knows of the libraries, which takes a minute to find out."""
    here = ROOT / ".mypy_cache"
    if here.exists():
        shutil.copytree(here, tmp_path / "mypy")
    return {"MYPY_CACHE_DIR": str(tmp_path / "mypy")}


@pytest.mark.slow
def test_make_test_in_the_copy_after_the_tutorial(tmp_path):
    """The README's own tutorial, callback and training step, as a person follows them."""
    from tests import test_readme  # imports torch

    output = test_readme.follow(tmp_path, test_readme.IN_A_COPY, AFTERWARDS, **cache_of_mypy(tmp_path))
    trained = output[output.index("--run-id first") : output.index("$ tensorboard")]
    assert test_readme.best_accuracy(trained) > 0.9
    assert len(re.findall(r"^=* ?\d+ passed", output, re.MULTILINE)) == 1
    copy = tmp_path / "Spirals"
    schema = (copy / "config/schema.json").read_text()
    assert all(f'"{name}"' in schema for name in ("SpiralNet", "Spirals", "sure", "StopAt", "MixupTrainer"))
    files = set(test_readme.files_of(test_readme.IN_A_COPY))
    for check in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *check, *files], cwd=copy, check=True)


@pytest.mark.slow
def test_a_broken_test_file_leaves_the_others_alone(run, tmp_path):
    assert run("new_project.py", "Mine", env=SOMEONE).returncode == 0
    (tmp_path / "Mine/tests/test_scratch.py").write_text("def test_(:\n")
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_scratch.py", "tests/model/test_loss.py"]
    done = subprocess.run(command, cwd=tmp_path / "Mine", capture_output=True, text=True)
    assert re.search(r"\d passed, .*1 error", done.stdout), done.stdout


@pytest.mark.slow
def test_make_lint_and_make_train_in_a_full_copy(run, tmp_path):
    assert run("new_project.py", "Mine", "--full", env=SOMEONE).returncode == 0
    copy = tmp_path / "Mine"
    (copy / ".venv").mkdir()
    for stamp in (".uv", ".base", ".dev"):
        (copy / ".venv" / stamp).touch()  # newer than pyproject.toml: nothing to install
    shell("make", "lint", f"RUN={sys.executable}", cwd=copy, **cache_of_mypy(tmp_path))
    shell("make", "train", f"RUN={sys.executable}", cwd=copy)
    assert list(copy.glob("saved/*/*/checkpoints/model_best.pth"))
    assert not shell("git", "status", "--short", cwd=copy)
