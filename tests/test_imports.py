"""Who may import whom (docs/architecture.md), also inside functions; and that what must be quick is."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "utils": {"utils"},
    "logger": {"logger", "utils"},
    "data_loader": {"data_loader", "utils"},
    "model": {"model", "utils"},
    "trainer": {"trainer", "logger", "utils"},
}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in MAY_IMPORT
    for path in ROOT.glob(f"{room}/**/*.py")
}


def imports(path: Path) -> set[str]:
    """All modules of this project that a file imports anywhere in it, dotted; not those for type checkers only."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write `from room.module import ...`, not a relative import"
            dotted = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in dotted}
    return {name for name in found if name.split(".")[0] in SCRIPTS | MAY_IMPORT.keys()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_rooms_import_only_whom_they_may(module: str) -> None:
    allowed = MAY_IMPORT[module.split(".")[0]]
    forbidden = {name for name in imports(MODULES[module]) if name.split(".")[0] not in allowed}
    assert not forbidden, f"{module} imports {forbidden}; allowed are {allowed}. Hand it the object, or move the code."


def test_no_circles() -> None:
    TopologicalSorter({module: imports(path) for module, path in MODULES.items()}).prepare()  # raises CycleError


@pytest.mark.parametrize("module", ["utils.config", "utils.cli"])
def test_reading_a_config_needs_no_torch(module: str) -> None:
    code = (
        f"import sys, {module}; print(*sorted({{'torch', 'torchvision', 'numpy', 'tensorboard'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_importing_torch_leaves_garbage_collection_on() -> None:
    """And what torch consists of out of it: it is looked through neither then nor at the end."""
    code = "import gc; from utils.config import config; config._import_torch(); "
    code += "print(gc.isenabled(), gc.get_freeze_count())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    enabled, frozen = done.stdout.split()
    assert enabled == "True"
    assert int(frozen) > 100_000
