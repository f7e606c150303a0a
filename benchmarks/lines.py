"""Lines of code by folder, without blank lines, comments and docstrings: python benchmarks/lines.py [FOLDER]"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

NOT_OURS = {".git", ".venv", "venv", "build", "data", "saved"}
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
NOT_SOURCE = {"tests", "benchmarks"}


def code_lines(text: str) -> int:
    lines = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def count(root: Path) -> Counter[str]:
    """Lines of code by folder at the top; `scripts` are the files beside the folders."""
    lines = Counter[str]()
    for path in sorted(root.rglob("*.py")):
        folder, *rest = path.relative_to(root).parts
        if folder not in NOT_OURS and "__pycache__" not in rest:
            lines[folder if rest else "scripts"] += code_lines(path.read_text(encoding="utf-8"))
    return lines


def main() -> None:
    lines = count(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    source = sum(n for folder, n in lines.items() if folder not in NOT_SOURCE)
    for name, n in [*sorted(lines.items()), ("source", source), ("all", lines.total())]:
        print(f"{name:<12}{n:>8,}")


if __name__ == "__main__":
    main()
