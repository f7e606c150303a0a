"""Start a project of your own from this template.

    python new_project.py ../MyProject           code, one config, the manual, tests for the files that you edit
    python new_project.py ../MyProject --full    all configs, all tests and the benchmarks too

`make train` and `make test` work in the copy at once. No packages and no network are needed; git makes a first commit.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from utils.exit_codes import exit_with

TEMPLATE = Path(__file__).resolve().parent
RECORD = ".template.json"  # which template the project came from, and each file's digest at that time

# Not for a project: what is about the template itself, such as tests that grade its files. `*` also matches `/`.
LEFT_OUT = [
    "README*", "new_project.py", RECORD, ".github/*",
    "tests/test_imports.py", "tests/test_new_project.py", "tests/test_readme.py", "tests/test_setup.py",
    "tests/test_template.py",
    "tests/contracts/test_deletion.py", "tests/contracts/test_mutations.py", "tests/contracts/test_shipped_configs.py",
    "tests/contracts/test_newcomers_configs.py", "tests/contracts/test_structure.py",
]  # fmt: skip
ONLY_FULL = [".ci/*", "benchmarks/*", "config/*", "tests/*"]
BUT = ["config/digits.yaml", "config/schema.json", "tests/conftest.py", "tests/test_smoke.py"]
YOURS = ["data_loader", "model", "trainer", "trainer/callbacks"]  # the files in them, not their folders

# Sections of README.md that stay behind, by how they start
NOT_IN_MANUAL = ("## Coming from ", "## Measured")

README = """# {name}

Made from {template} {version} (MIT, see LICENSE; `{record}` lists its files). This is its manual.

`make train` sets up `.venv`. Then activate it once in each new shell: `source .venv/bin/activate`, or
`.venv\\Scripts\\activate` on Windows.

"""


def main(argv: list[str] | None = None) -> int:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", help="the new project's folder, which is empty or does not exist yet; its name is the project's name"
    )
    parser.add_argument("--full", action="store_true", help="copy all configs, all tests and the benchmarks too")
    args = parser.parse_args(argv)

    target = Path(os.path.abspath(args.folder))
    if problem := claim(target):
        parser.exit(2, f"new_project.py: {problem}\n")
    try:
        copied = copy(target, args.full)
    except OSError as error:
        parser.exit(1, f"new_project.py: {error}\n{target} is incomplete: delete it, then try again.\n")
    code = first_commit(target)
    print(f"{target.name}: {copied} files in {target}")
    if shutil.which("make"):
        print(f"Next: cd {shlex.quote(args.folder)} && make train")
    else:
        print(f"Next: cd {args.folder}, then set it up without make; README.md shows how")
    return code


def claim(target: Path) -> str | None:
    """Make the folder `target`; return why it cannot become a project, None if it can."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", target.name):
        return (
            f"{target.name!r} cannot name a Python project. Use the letters a-z, digits, `-`, `_` and `.`, "
            "with a letter or digit first and last, such as MyProject."
        )
    if re.search(rf'"{re.escape(target.name)}[<>"]', read("pyproject.toml"), re.IGNORECASE):
        return f"{target.name} is a package that the project itself installs. Choose a name such as My{target.name}."
    if TEMPLATE in [target.resolve(), *target.resolve().parents]:
        return f"{target} lies inside the template. Name a folder beside it, such as {TEMPLATE.parent / target.name}."
    try:
        if target.is_dir() and any(path.name != ".git" for path in target.iterdir()):  # a new repository is empty
            return f"{target} is not empty. Name a folder that is empty or does not exist yet."
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{target} cannot be created or read: {error.strerror}. Name another folder."
    return None


def template_files() -> list[str]:
    """The template's files, relative and sorted: all but .git and what .gitignore names. Works without git."""
    lines = read(".gitignore").splitlines()
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


def wanted(full: bool) -> list[str]:
    """The template's files that a project gets."""
    files = template_files()

    def among(patterns: list[str]) -> set[str]:
        return {path for path in files if any(fnmatch(path, pattern) for pattern in patterns)}

    left_out = among(LEFT_OUT)
    if not full:
        left_out |= among(ONLY_FULL) - set(BUT)
        # A test that names a config or a benchmark which stays behind stays with it.
        names = [Path(path).name for path in left_out if path.startswith(("config/", "benchmarks/"))]
        tests = {path for path in files if of_yours(path, files)}
        tests = {path for path in tests if not any(name in read(path) for name in names)}
        # One that imports from tests of engine stays with those
        tests = {path for path in tests if all(folder_of(name) in ["", *YOURS] for name in helpers({path}, files))}
        left_out -= tests
        left_out -= helpers(tests, files)
    return [path for path in files if path not in left_out]


def of_yours(test: str, files: list[str]) -> bool:
    """Is it a test of a file that people edit? tests/model/test_loss.py is, because there is a model/loss.py."""
    folder, name = folder_of(test), test.rpartition("/")[2]
    if not test.startswith("tests/") or folder not in YOURS or not name.startswith("test_"):
        return False
    return f"{folder}/{name.removeprefix('test_')}" in files


def folder_of(test: str) -> str:
    """The folder whose code it tests; empty for a file at the top of tests/."""
    return test.removeprefix("tests/").rpartition("/")[0]


def helpers(tests: set[str], files: list[str]) -> set[str]:
    """The files of tests/ that these import, and so on."""
    found: set[str] = set()
    left = sorted(tests)
    while left:
        modules = re.findall(r"^ *from (tests[.\w]*) import ", read(left.pop()), re.MULTILINE)
        new = {f"{module.replace('.', '/')}.py" for module in modules} & set(files) - found
        found |= new
        left += new
    return found


def copy(target: Path, full: bool) -> int:
    """Copy the template into the empty folder `target` under the name of that folder; return the number of files."""
    pyproject = read("pyproject.toml")
    template, version = (value(pyproject, key) for key in ("name", "version"))
    paths = wanted(full)
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TEMPLATE / path, target / path)
        # Keep executable bits; make files of a read-only template writable.
        (target / path).chmod((TEMPLATE / path).stat().st_mode | 0o200)
        if path.endswith((".py", ".md")):  # the logger and the metadata of exports are named after the project
            write(target / path, re.sub(rf'"{template}(?=[".])', f'"{target.name}', read(path)))

    for key, new in {"name": target.name, "version": "0.1.0", "description": f"The project {target.name}."}.items():
        pyproject = pyproject.replace(f'\n{key} = "{value(pyproject, key)}"\n', f'\n{key} = "{new}"\n', 1)
    # In the template a warning fails a test. Here it may come from a library that the project chose.
    pyproject = re.sub(r"^filterwarnings = .*\n", "", pyproject, flags=re.MULTILINE)
    makefile = without_block("template", read("Makefile"))
    if not full:
        pyproject = re.sub(r"^bench = .*\n", "", pyproject, flags=re.MULTILINE)  # needed by benchmarks/ alone
        makefile = without_block("benchmarks", makefile)
    write(target / "pyproject.toml", pyproject)
    write(target / "Makefile", makefile)
    write(target / ".gitignore", re.sub(r"^# Also what new_project.py .*\n", "", read(".gitignore")))
    head = README.format(name=target.name, template=template, version=version, record=RECORD)
    write(target / "README.md", head + manual(read("README.md"), set(template_files()) - set(paths)))

    found = [path.relative_to(target) for path in sorted(target.rglob("*")) if path.is_file()]
    files = {path.as_posix(): digest(target / path) for path in found if path.parts[0] != ".git"}
    origin = {"template": template, "version": version, "commit": commit_of_template()}
    write(target / RECORD, json.dumps({**origin, "minimal": not full, "files": files}, indent=2) + "\n")
    return len(files) + 1


def manual(readme: str, left_out: set[str]) -> str:
    """The sections of the template's README that a project needs."""
    sections = re.split(r"^(?=## )", readme, flags=re.MULTILINE)[1:]
    text = "".join(section for section in sections if not section.startswith(NOT_IN_MANUAL))
    # The first step of the tutorial has been done: it is copying the template
    text = re.sub(r"^\*\*1\. Copy .*?(?=^\*\*2\. )", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\*\*(\d+)\. ", lambda step: f"**{int(step[1]) - 1}. ", text, flags=re.MULTILINE)
    for path in left_out:
        text = text.replace(f", `{path}`", "")
    if "benchmarks/run.py" in left_out:
        text = "\n\n".join(paragraph for paragraph in text.split("\n\n") if "`make bench`" not in paragraph)
    return text


def without_block(name: str, makefile: str) -> str:
    return re.sub(rf"^# <{name}>.*?^# </{name}>\n", "", makefile, flags=re.MULTILINE | re.DOTALL)


def read(path: str) -> str:
    return (TEMPLATE / path).read_text(encoding="utf-8")


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
    # git writes UTF-8, whatever the encoding of the console
    return subprocess.run(["git", *args], cwd=folder, env=env, capture_output=True, encoding="utf-8", errors="replace")


def commit_of_template() -> str | None:
    """The template's git commit, with `-dirty` if it was changed since; None where that cannot be known."""
    if not shutil.which("git") or not (TEMPLATE / ".git").exists():
        return None
    described = git(TEMPLATE, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return described.stdout.strip() or None


def first_commit(target: Path) -> int:
    """Make `target` a git repository with one commit; return the exit code. Without git, print a note."""
    if not shutil.which("git"):
        print("No first commit was made, because git is not installed.")
        return 0
    identity = []
    for key, substitute in {"user.name": target.name, "user.email": f"{target.name}@localhost"}.items():
        if not git(target, "config", key).stdout.strip():
            identity += ["-c", f"{key}={substitute}"]
    steps = [
        ["init", "--quiet"],
        ["add", "--all", "--force"],  # include files that the user's global gitignore would skip
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
    exit_with(main)
