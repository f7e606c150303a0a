"""Start a project of your own from this template.

    python new_project.py ../MyProject              the whole template, under your project's name
    python new_project.py ../MyProject --minimal    without benchmarks, docs and all configs but digits

`make train` and `make test` work in the copy at once. Needs no packages and no network; git only for the first commit.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent
RECORD = ".template.json"  # which template the project came from, and each file's digest as it was then

# Not for a project: what speaks of the template itself. `*` also matches `/`.
LEFT_OUT = ["README*", "tests/test_readme.py", RECORD]
LEFT_OUT_MINIMAL = ["benchmarks/*", "docs/*", "config/*", "new_project.py", "tests/test_new_project.py"]
KEPT_MINIMAL = ["config/digits.yaml", "config/schema.json"]

README = """# {name}

    make train    # set up .venv, train config/digits.yaml
    make test     # set up, check format, lint and types, run the tests

Your data set goes into `data_loader/data_loaders.py`, your model into `model/model.py`; a copy of `config/digits.yaml`
names both:

    .venv/bin/python train.py -c config/mine.yaml

Each run has a folder under `saved/`; `.venv/bin/python test.py -r FOLDER` evaluates it on the test data.

Made from {template} {version} (MIT, see LICENSE; which files are still the template's: {record}).
"""


def main(argv: list[str] | None = None) -> int:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", help="the new project's folder, empty or not yet there; its last part names the project"
    )
    parser.add_argument("--minimal", action="store_true", help="leave out benchmarks, docs and all configs but digits")
    args = parser.parse_args(argv)

    target = Path(os.path.abspath(args.folder))
    if problem := claim(target):
        parser.exit(2, f"new_project.py: {problem}\n")
    try:
        copied = copy(target, args.minimal)
    except OSError as error:
        parser.exit(1, f"new_project.py: {error}\n{target} is incomplete: delete it, then try again.\n")
    print(f"{target.name}: {copied} files in {target}")
    print(f"Next: cd {args.folder} && make train")
    return first_commit(target)


def claim(target: Path) -> str | None:
    """Make the folder `target`; return why it cannot become a project, None if it can."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", target.name):
        return (
            f"{target.name!r} cannot name a Python project. Use the letters a-z, digits, `-`, `_` and `.`, "
            "with a letter or digit first and last, such as MyProject."
        )
    if TEMPLATE in [target.resolve(), *target.resolve().parents]:
        return f"{target} lies inside the template. Name a folder beside it, such as {TEMPLATE.parent / target.name}."
    try:
        if target.is_dir() and any(target.iterdir()):
            return f"{target} is not empty. Name a folder that is empty or not yet there."
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{target} cannot be made or read: {error.strerror}. Name another folder."
    return None


def template_files() -> list[str]:
    """The template's files, relative and sorted: all but .git and what .gitignore names. Works without git."""
    lines = (TEMPLATE / ".gitignore").read_text(encoding="utf-8").splitlines()
    patterns = [".git", *(line for line in lines if line and not line.startswith("#"))]

    def ignored(path: Path, is_folder: bool) -> bool:
        for pattern in patterns:
            subject = f"/{path.as_posix()}" if pattern.startswith("/") else path.name
            if fnmatch(subject, pattern.removesuffix("/")) and (is_folder or not pattern.endswith("/")):
                return True
        return False

    found = []
    for folder, subfolders, names in os.walk(TEMPLATE):
        room = Path(folder).relative_to(TEMPLATE)
        subfolders[:] = [name for name in subfolders if not ignored(room / name, True)]
        found += [(room / name).as_posix() for name in names if not ignored(room / name, False)]
    return sorted(found)


def wanted(minimal: bool) -> list[str]:
    """The template's files that a project gets."""
    files = template_files()

    def among(patterns: list[str]) -> set[str]:
        return {path for path in files if any(fnmatch(path, pattern) for pattern in patterns)}

    left_out = among(LEFT_OUT)
    if minimal:
        left_out |= among(LEFT_OUT_MINIMAL) - set(KEPT_MINIMAL)
        # A test that names a config or a benchmark which stays behind stays with it.
        names = [Path(path).name for path in left_out if path.startswith(("config/", "benchmarks/"))]
        for test in among(["tests/*test_*.py"]):
            text = (TEMPLATE / test).read_text(encoding="utf-8")
            if any(name in text for name in names):
                left_out.add(test)
    return [path for path in files if path not in left_out]


def copy(target: Path, minimal: bool) -> int:
    """Copy the template into the empty folder `target` under the name of that folder; return the number of files."""
    pyproject = (TEMPLATE / "pyproject.toml").read_text(encoding="utf-8")
    template, version = (value(pyproject, key) for key in ("name", "version"))
    for path in wanted(minimal):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TEMPLATE / path, target / path)
        # Executable stays executable, and a template that is read-only gives a project that can be edited.
        (target / path).chmod((TEMPLATE / path).stat().st_mode | 0o200)

    for key, new in {"name": target.name, "version": "0.1.0", "description": f"The project {target.name}."}.items():
        pyproject = pyproject.replace(f'\n{key} = "{value(pyproject, key)}"\n', f'\n{key} = "{new}"\n', 1)
    if minimal:
        pyproject = re.sub(r"^bench = .*\n", "", pyproject, flags=re.MULTILINE)  # needed by benchmarks/ alone
    write(target / "pyproject.toml", pyproject)
    write(target / "README.md", README.format(name=target.name, template=template, version=version, record=RECORD))

    files = {path.relative_to(target).as_posix(): digest(path) for path in sorted(target.rglob("*")) if path.is_file()}
    origin = {"template": template, "version": version, "commit": commit_of_template()}
    write(target / RECORD, json.dumps({**origin, "minimal": minimal, "files": files}, indent=2) + "\n")
    return len(files) + 1


def value(pyproject: str, key: str) -> str:
    """The string under `key` in pyproject's first table (tomllib came with Python 3.11 only)."""
    match = re.search(rf'^{key} = "(.*)"$', pyproject, re.MULTILINE)
    assert match, f"pyproject.toml has no line {key} = ..."
    return match[1]


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def digest(path: Path) -> str:
    """SHA-256 of a file, the same whichever way git ended its lines."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def git(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # A hook that calls us sets GIT_DIR and the like, which name its repository, not `folder`.
    foreign = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
    env = {key: text for key, text in os.environ.items() if key not in foreign}
    return subprocess.run(["git", *args], cwd=folder, env=env, capture_output=True, text=True)


def commit_of_template() -> str | None:
    """The template's git commit, with `-dirty` if it was changed since; None where that cannot be known."""
    if not shutil.which("git") or not (TEMPLATE / ".git").exists():
        return None
    described = git(TEMPLATE, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return described.stdout.strip() or None


def first_commit(target: Path) -> int:
    """Make `target` a git repository with one commit; return the exit code. Without git say so, and be content."""
    if not shutil.which("git"):
        print("No first commit was made, because git is not installed.")
        return 0
    identity = []
    for key, substitute in {"user.name": target.name, "user.email": f"{target.name}@localhost"}.items():
        if not git(target, "config", key).stdout.strip():
            identity += ["-c", f"{key}={substitute}"]
    steps = [
        ["init", "--quiet"],
        ["add", "--all", "--force"],  # a person's own global ignore file must not cost the project a file
        [*identity, "commit", "--quiet", "--message", f"Start {target.name}"],
    ]
    for step in steps:
        if (done := git(target, *step)).returncode:
            print(f"No first commit was made: git {' '.join(step)} said\n{done.stderr or done.stdout}", file=sys.stderr)
            return 1
    if identity:
        print("git does not know you yet: set user.name and user.email, then git commit --amend --reset-author")
    return 0


if __name__ == "__main__":
    sys.exit(main())
