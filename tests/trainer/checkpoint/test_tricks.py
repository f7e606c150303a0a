"""Each training trick that keeps a state: killed in mid-epoch and resumed, the end is that of the undisturbed run."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.checkpoint.harness import STEPS, House, Patch, before, config, die, same_end, together
from trainer.engine import out_of_memory
from trainer.engine.step import Step

PLATEAU = {"type": "ReduceLROnPlateau", "args": {"patience": 0, "threshold": 0.5, "factor": 0.3}}
GROUPS = [{"match": "classifier", "lr": 0.1}, {"match": "*.bias", "weight_decay": 0.0}]
BEST: dict[str, Any] = {"trainer__monitor": "max val_accuracy", "trainer__keep_best": 3}
MLP = {"type": "MLP", "args": {"in_features": 64, "hidden": [16, 16]}}
TRICKS: dict[str, dict[str, Any]] = {
    "EMA": {"callbacks": ["EMA"]},
    "SWA": {"callbacks": [{"type": "SWA", "args": {"start": 3, "every": 3, "bn_steps": 2}}]},
    "freeze": {"callbacks": [{"type": "Freeze", "args": {"freeze": ["features"]}}]},
    "unfreeze": {"callbacks": [{"type": "Freeze", "args": {"freeze": ["features"], "until_step": 10}}]},
    "groups": {
        "optimizer": {
            "type": "AdamW", "args": {"lr": 0.01}, "groups": GROUPS, "no_decay": True, "layer_decay": 0.5
        },
        "lr_scheduler": "WarmupCosineLR",
        "trainer__clip_grad_norm": 0.1,
    },
    "plateau": {"lr_scheduler": PLATEAU, "trainer__monitor": "min val_loss", "trainer__valid_steps": 2},
    "out of memory": {},
    "keep_best": {**BEST, "trainer__valid_steps": 1},
    "keep_best of an average": {**BEST, "trainer__valid_steps": 2, "callbacks": ["EMA"]},
    "Muon": {"optimizer": {"type": "MuonAdamW", "args": {"lr": 0.01}}, "arch": MLP},
    "schedule-free": {
        "optimizer": {"type": "AdamWScheduleFree", "args": {"lr": 0.01}},
        "callbacks": [{"type": "ScheduleFree", "args": {"bn_steps": 2}}],
    },
    "metric objects": {
        "metrics": ["accuracy", {"type": "AUROC", "args": {"task": "multiclass"}},
                    {"type": "F1Score", "args": {"task": "multiclass", "average": None}}],
        "trainer__monitor": "max val_F1Score_3", "trainer__keep_best": 2, "trainer__valid_steps": 2,
    },
    "gradient checkpointing": {"callbacks": [{"type": "GradientCheckpointing", "args": {"classes": ["BatchNorm2d"]}}]},
    "statistics": {"callbacks": ["GradNorm", {"type": "LayerStatistics", "args": {"every": 4}}]},
    "together": {
        "optimizer": {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}, "groups": GROUPS[:1]},
        "callbacks": [{"type": "Freeze", "args": {"freeze": ["features"], "until_step": 8}}, "EMA", "GradNorm"],
        "lr_scheduler": PLATEAU, "trainer__accumulate": 2, **BEST,
    },
}  # fmt: skip
NEEDS = {"schedule-free": "schedulefree", "metric objects": "torchmetrics"}
ROOM = 15  # samples, of 30


def little_memory() -> None:
    """As on a GPU on which others need room in steps 5 to 8: the run goes on in halves without them, too."""
    started, backward = out_of_memory.OutOfMemory.__init__, Step.backward

    def start(self: Any, trainer: Any) -> None:
        started(self, trainer)
        self.active = True

    def limited(self: Any, *args: Any, **kwargs: Any) -> None:
        if 4 <= self.step < STEPS + 2 and self._size > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        backward(self, *args, **kwargs)

    out_of_memory.OutOfMemory.__init__ = start  # type: ignore[method-assign]
    Step.backward = limited  # type: ignore[method-assign]


def in_the_middle() -> Patch:
    """In the third step of the second epoch, before its last backward pass, when step 8 is saved."""

    def waited(trainer: Any, *_: Any) -> None:
        if trainer.saving.checkpoints._thread is not None:
            trainer.saving.checkpoints._thread.join()
        die()

    def last(trainer: Any, *_: Any) -> bool:
        return trainer.step == STEPS + 2 and trainer._micro_batch == trainer.data_loader.sampler.accumulate - 1

    return before(Step, "backward", waited, when=last)


@pytest.mark.slow
@pytest.mark.parametrize("trick", TRICKS)
def test_killed_and_resumed(trick: str, tmp_path: Path) -> None:
    if trick in NEEDS and importlib.util.find_spec(NEEDS[trick]) is None:
        pytest.skip(f"needs {NEEDS[trick]}, an extra of pyproject.toml")
    spec = config(**TRICKS[trick])
    whole, house = House(tmp_path / "whole", spec), House(tmp_path / "killed", spec)
    patches = [little_memory] if trick == "out of memory" else []
    whole.train(patch=together(*patches))
    house.train(patch=together(*patches, in_the_middle()), code=137)
    assert house.steps[0] == STEPS + 2
    resumed = house.train(patch=together(*patches))
    assert f"from step {STEPS + 2}" in resumed.text
    same_end(house, whole)
    names = [sorted(path.name for path in (h.run / "checkpoints").glob("*.pth")) for h in (house, whole)]
    assert names[0] == names[1]
    for name in (name for name in names[0] if name.startswith("model_best")):
        one, two = house.state(name), whole.state(name)
        assert one["step"] == two["step"]
        assert all(torch.equal(value, two["model"][key]) for key, value in one["model"].items())
    if trick == "out of memory":
        assert house.state()["out_of_memory"] == {"configured": 1, "accumulate": 2}
