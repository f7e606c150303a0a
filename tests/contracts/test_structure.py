"""A file at the top of a room is yours, a folder is engine: engine never imports what is yours, and says so little that
a person can read it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("data_loader", "model", "trainer")
ENGINE = sorted(
    path
    for folder in (
        "data_loader/engine",
        "trainer/engine",
        "trainer/checkpoint",
        "trainer/parallel",
        "trainer/inference",
        "trainer/export",
        "utils",
        "logger",
    )
    for path in (ROOT / folder).rglob("*.py")
)
YOURS = {f"{room}.{path.stem}" for room in ROOMS for path in (ROOT / room).glob("*.py") if path.stem != "__init__"}


def imported(tree: ast.AST) -> set[str]:
    """Modules that are imported anywhere in it, dotted, with the names that are imported from them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_engine_imports_nothing_of_yours(path: Path) -> None:
    mine = {name for name in imported(ast.parse(path.read_text(encoding="utf-8"))) if name in YOURS}
    assert not mine, f"{path} imports {mine}: a folder is engine, which must work without the files that people edit"
    packages = {"trainer", "data_loader", "model"} & imported(ast.parse(path.read_text(encoding="utf-8")))
    assert not packages, f"{path} imports from {packages}, whose __init__ imports what is yours; name the module"


def test_that_it_would_be_seen() -> None:
    assert "trainer.trainer" in YOURS
    assert imported(ast.parse("def f():\n    from trainer import trainer")) & YOURS


def test_public_imports() -> None:
    from data_loader import BaseDataLoader
    from data_loader.engine.base_data_loader import BaseDataLoader as Loader
    from trainer import BaseTrainer, load_model
    from trainer.checkpoint.load import load_model as load
    from trainer.engine.base_trainer import BaseTrainer as Base

    assert (BaseDataLoader, BaseTrainer, load_model) == (Loader, Base, load)


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_newcomer_sees(room: str) -> None:
    """Few files at the top of each room, and a docstring in each that says what is inside."""
    files = [path for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= 11  # yours are two or three, and there is one per modality or kind of file
    assert all(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in files)
