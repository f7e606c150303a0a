"""Rows of the table that predict.py writes: which columns, under which names, with which values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.engine.evaluation.kinds import Name, task_of
from utils.config.files import did_you_mean, nearest
from utils.errors import UsageError

THRESHOLD = 0.5  # of a label that is predicted by itself
Cell = Callable[[int, str, Tensor], str]  # (number of the sample, its name, its outputs) -> text


def names_of(facts: Mapping[str, Any]) -> list[str] | None:
    """What the outputs of a run are called, by the facts of its data: classes, or the numbers to predict."""
    names = facts.get("class_names") or facts.get("target_names")
    return None if names is None else [str(name) for name in names]


def width_of(outputs: Tensor) -> int:
    """How many numbers a sample has in outputs [B, C]; 0 for one, [B] or [B, 1].

    Raises UsageError for outputs that are no rows.
    """
    if outputs.dim() > 2:
        raise UsageError(f"outputs {list(outputs.shape)} are no rows of a table; it takes [B] or [B, C]")
    return outputs.shape[1] if outputs.dim() == 2 and outputs.shape[1] > 1 else 0


class Columns:
    """wanted: `WHAT` or `HEADER=WHAT`, WHAT being id, label, index (of the class), prob (of the label), a class (its
    probability), a number to predict, or a column of the table that is read.

    outputs, width: as names_of and width_of give them. leading: what stands before the predictions where
    `wanted` is None. Raises UsageError for an unknown column.
    """

    def __init__(
        self,
        wanted: Sequence[str] | None,
        with_probabilities: bool,
        kind: Name,
        outputs: Sequence[str] | None,
        width: int,
        table: Mapping[str, Sequence[str]],
        leading: Sequence[str] = ("id",),
    ) -> None:
        self.kind, self.width, self.table = kind, width, table
        # of_one: the output is the probability of the second class
        self.of_one = kind != "values" and width == 0 and outputs is not None and len(outputs) == 2
        self.outputs = list(outputs or [])
        if not self.of_one and len(self.outputs) != max(width, 1):
            self.outputs = [f"output_{i}" for i in range(max(width, 1))]
        known = self._known()
        if wanted is None:
            several = kind == "values" and width > 1
            wanted = [*leading, *self.outputs] if several else [*leading, "label"]
        if with_probabilities and kind != "values":
            wanted = [*wanted, *(f"prob_{name}={name}" for name in self.outputs)]
        self.header, self._cells = list[str](), list[Cell]()
        for column in wanted or [""]:  # none at all is an unknown one
            header, _, what = column.partition("=")
            what = what or header
            if what not in known:
                raise UsageError(
                    f"--columns: unknown column '{what}'{did_you_mean(nearest(what, known))}; there are "
                    f"{', '.join(known)}; HEADER=COLUMN gives one another name"
                )
            self.header.append(header)
            self._cells.append(known[what])

    def rows(self, indices: Sequence[int], names: Sequence[str], outputs: Tensor) -> list[list[str]]:
        """outputs: probabilities or values, [B] or [B, C]"""
        outputs = outputs.double().flatten(1) if outputs.dim() > 1 else outputs.double()[:, None]
        if self.of_one:
            outputs = torch.cat([1 - outputs, outputs], dim=1)
        return [
            [cell(index, name, output) for cell in self._cells]
            for index, name, output in zip(indices, names, outputs, strict=True)
        ]

    def _known(self) -> dict[str, Cell]:
        found: dict[str, Cell] = {name: _of_table(values) for name, values in self.table.items()}
        found |= {name: _of_output(i) for i, name in enumerate(self.outputs)}
        found |= {"id": lambda _, name, __: name, "label": lambda _, __, output: self._label(output)}
        if self.kind != "values":
            found["prob"] = lambda _, __, output: _text(output.max())
            found["index"] = lambda _, __, output: " ".join(map(str, self._chosen(output)))
        return found

    def _chosen(self, output: Tensor) -> list[int]:
        """The numbers of the predicted classes."""
        if self.of_one:
            return [int(output[1] >= THRESHOLD)]
        if task_of(self.kind) == "labels":
            return torch.nonzero(output >= THRESHOLD).flatten().tolist()
        return [int(output.argmax())]

    def _label(self, output: Tensor) -> str:
        if self.kind == "values":
            return _text(output[0])
        return " ".join(self.outputs[i] for i in self._chosen(output))


def _of_output(i: int) -> Cell:
    return lambda _, __, output: _text(output[i])


def _of_table(values: Sequence[str]) -> Cell:
    return lambda index, _, __: values[index]


def _text(number: Tensor) -> str:
    return f"{number.item():.8g}"
