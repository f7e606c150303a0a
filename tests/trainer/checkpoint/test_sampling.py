"""Every way to choose samples, and every split, is exact: after a kill in mid-epoch, and with any number of workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.checkpoint.harness import House, at_step, config, die, same_end

ROTATE = [{"type": "RandomAffine", "args": {"rotate": 10.0, "shift": 1.0}}]
DIGITS = {"batch_size": 30, "transforms": ROTATE}
DRAWING = {"type": "DrawingDataLoader", "args": {"batch_size": 30, "validation_split": 0.1}}


def digits(**options: Any) -> dict[str, Any]:
    return {"data_loader": {"type": "DigitsDataLoader", "args": {**DIGITS, **options}}}


def drawing(**options: Any) -> dict[str, Any]:
    return {"data_loader": {**DRAWING, "args": {**DRAWING["args"], **options}}}  # type: ignore[dict-item]


def mixture(**options: Any) -> dict[str, Any]:
    parts = {"few": {"type": "DrawingDataLoader", "args": {"batch_size": 1, "validation_split": 0.1, **options}}}
    parts["many"] = {"type": "DrawingDataLoader", "args": {"batch_size": 1, "at_once": options.get("at_once", True)}}
    args = {"loaders": parts, "weights": {"few": 3.0, "many": 1.0}, "batch_size": 30}
    return {"data_loader": {"type": "MixtureDataLoader", "args": args}}


SPECS = {
    "balanced": digits(balanced=True, validation_split=0.1),
    "by class": digits(weights={"3": 5.0, "8": 0.0}, validation_split=0.1),
    "by class, sample by sample": drawing(weights=[1, 2, 3, 4, 5, 6, 7, 8, 9, 50]),
    "by column": drawing(weights="importance", at_once=True),
    "fold": digits(fold=2, folds=5, stratify=True),
    "groups": digits(validation_split=0.2, group="writer", stratify=True, balanced=True),
    "mixture": mixture(),
    "mixture of batches": mixture(at_once=True),
    "validation sets": {
        **digits(validation_split=0.1),
        "valid_data_loader": {
            "test": "DigitsDataLoader",
            "drawn": {"type": "DrawingDataLoader", "args": {"batch_size": 30}},
        },
        "trainer__monitor": "min val_drawn_loss",
    },
}


def offer_columns() -> None:
    """A patch: the data sets list what they need for the options above."""
    from data_loader.engine.images.in_memory import ImageTensors
    from tests.trainer.checkpoint.harness import Drawing

    Drawing.labels = property(lambda self: [i % 10 for i in range(200)])  # type: ignore[attr-defined]
    Drawing.importance = property(lambda self: [1 + (i % 7) ** 3 for i in range(200)])  # type: ignore[attr-defined]
    ImageTensors.writer = property(lambda self: [i // 30 for i in range(len(self))])  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "by column" else pytest.mark.slow) for n in SPECS])
def test_killed_in_mid_epoch_and_with_workers(name: str, tmp_path: Path) -> None:
    whole, killed, reading = (House(tmp_path / folder, config(**SPECS[name])) for folder in ("a", "b", "c"))
    whole.train(patch=offer_columns)

    def patch() -> None:
        offer_columns()
        at_step(9, die)()

    killed.train(patch=patch, code=137)
    killed.train("data_loader.args.num_workers=2", patch=offer_columns)
    same_end(killed, whole, but=("config",))
    reading.train("data_loader.args.num_workers=1", patch=offer_columns)
    same_end(reading, whole, but=("config",))
    splits = [json.loads(line)["split"] for line in whole.metrics().splitlines()]
    assert splits.count("valid") == 3


def test_the_choice_of_samples_changes_the_run(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    ends = []
    for name in ("balanced", "by class", "fold"):
        house = House(tmp_path / name, config(**SPECS[name]))
        text = house.train(patch=offer_columns).text
        assert ("each epoch draws 1,350 samples by weight" in text) == (name != "fold")
        ends.append(house.metrics())
    assert len(set(ends)) == 3
