"""The confusion matrix and the worst samples of a run, where `test.py -r RUN --save RUN/outputs.npz` has saved them."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from logger.report.runs import Run

WORST = 12
MATRIX = 20  # classes that a matrix has room for
CELL = 34


def section(run: Run) -> str:
    """HTML; '' for a run without such a file, or whose outputs are not one class for each sample."""
    for path in sorted(run.folder.glob("*.npz")):
        try:
            return _of_file(path)
        except (OSError, KeyError, ValueError, IndexError) as e:
            run.notes.append(f"{path.name} cannot be shown: {type(e).__name__}: {e}")
    return ""


def _of_file(path: Path) -> str:
    import numpy as np

    with np.load(path) as saved:  # allow_pickle is off: such a file runs no code
        targets, found, names = saved["targets"], saved["probabilities"], saved["names"]
        given = [str(name) for name in saved["class_names"]] if "class_names" in saved else []
    if targets.ndim != 1 or found.ndim != 2 or targets.dtype.kind != "i":
        raise ValueError("expected one class number for each sample, and a probability for each class")
    count = found.shape[1]
    classes = given if len(given) == count else [str(i) for i in range(count)]
    chosen, rows = found.argmax(axis=1), np.arange(len(targets))
    right = found[rows, targets]
    wrong = np.flatnonzero(chosen != targets)
    worst = wrong[np.argsort(right[wrong], kind="stable")][:WORST]
    lines = [
        f"<tr><td>{escape(str(names[i]))}<td>{escape(classes[targets[i]])}<td>{escape(classes[chosen[i]])}"
        f"<td>{found[i, chosen[i]]:.3f}<td>{right[i]:.3g}"
        for i in worst
    ]
    matrix = np.bincount(targets * count + chosen, minlength=count * count).reshape(count, count)
    head = "<tr><th>sample<th>is<th>taken for<th>probability<th>of what it is"
    return (
        f"<h3>{escape(str(path))}: {len(wrong):,} of {len(targets):,} wrong</h3>"
        f'<div class="two">{_matrix(matrix.tolist(), classes) if count <= MATRIX else ""}'
        f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div></div>'
    )


def _matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """As SVG: rows are true classes, columns predictions; darker cells are larger shares of the row."""
    left = 20 + 7 * max(map(len, classes))
    size = left + CELL * len(classes), left + CELL * len(classes) + 20
    parts = [f'<svg class="matrix" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="confusion matrix">']
    parts.append(f'<text text-anchor="end" x="{size[0]}" y="{size[1] - 4}">rows: what it is; columns: taken for</text>')
    for i, (name, row) in enumerate(zip(classes, counts, strict=True)):
        middle = left + CELL * (i + 0.5)
        parts.append(f'<text text-anchor="end" x="{left - 6}" y="{middle + 4}">{escape(name)}</text>')
        turned = f'transform="translate({middle + 4} {left - 6}) rotate(-90)"'
        parts.append(f'<text text-anchor="start" {turned}>{escape(name)}</text>')
        for j, n in enumerate(row):
            share, kind = n / max(sum(row), 1), "right" if i == j else "wrong"
            x = left + CELL * j
            parts.append(f'<rect class="{kind}" x="{x}" y="{left + CELL * i}" width="{CELL - 1}" height="{CELL - 1}" ')
            parts.append(f'style="fill-opacity:{0.06 + 0.6 * share:.3f}"/>')
            if n:
                parts.append(f'<text class="ink" text-anchor="middle" x="{x + CELL / 2}" y="{middle + 4}">{n}</text>')
    return "".join([*parts, "</svg>"])
