"""The names in the files at the top of the project's rooms, found without importing the files."""

import ast
import functools
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class File(NamedTuple):
    path: str  # for people: model/model.py
    module: str  # model.model
    defined: Mapping[str, int]  # public name -> line
    imported: Mapping[str, int]
    stars: bool  # whether it has a `from x import *`


def files(rooms: Sequence[str], home: str) -> Iterator[File]:
    """The files at the top of these rooms, `home` first."""
    found = [(f"{room}/{path.name}", path) for room in rooms for path in python_files(room)]
    for shown_path, path in sorted(found, key=lambda file: file[0] != home):
        module = shown_path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        yield File(shown_path, module, *_names_in(path, path.stat().st_mtime_ns))


def python_files(room: str) -> list[Path]:
    package, *inner = room.split("/")
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return [p for place in places or () for p in sorted(Path(place, *inner).glob("*.py")) if p.stem.isidentifier()]


def loaded(rooms: Sequence[str], name: str) -> Iterator[Any]:
    """Objects of this name in the imported modules of these rooms, also those that code has assigned."""
    for room in rooms:
        package = room.replace("/", ".")
        for path, module in list(sys.modules.items()):
            is_inside = path.startswith(package) and package in (path, path.rpartition(".")[0])
            if is_inside and name in vars(module):
                yield vars(module)[name]


@functools.cache
def _names_in(path: Path, changed: int) -> tuple[dict[str, int], dict[str, int], bool]:
    """The public names that a file defines and imports at its top level, with their lines; and whether by a star."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        statements: list[ast.AST] = list(ast.parse(text).body)
    except (SyntaxError, ValueError):  # importing it, for one of its names, shows the error
        names = re.finditer(r"^(?:class |def )?(\w+)(?=\s*[(:=])", text, re.MULTILINE)
        return {name[1]: text.count("\n", 0, name.start()) + 1 for name in names}, {}, False
    defined: dict[str, int] = {}
    imported: dict[str, int] = {}
    for node in statements:  # grows: the insides of `if`, `try` and `with` count too
        if isinstance(node, (ast.If, ast.Try, ast.With, ast.ExceptHandler)):
            statements += ast.iter_child_nodes(node)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            defined.setdefault(node.name, node.lineno)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                imported.setdefault(alias.asname or alias.name.split(".")[0], node.lineno)
        elif isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                        defined.setdefault(name.id, node.lineno)

    def public(names: dict[str, int]) -> dict[str, int]:
        return {name: line for name, line in names.items() if not name.startswith("_")}

    return public(defined), public(imported), "*" in imported
