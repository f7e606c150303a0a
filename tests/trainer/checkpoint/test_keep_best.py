"""`trainer.keep_best`: the checkpoints of the N best validations, over kills and resumes."""

from typing import Any

import pytest

from tests.tiny import Tiny, tiny

__all__ = ["tiny"]
KEYS = ["trainer.monitor=max val_accuracy", "trainer.valid_steps=1", "trainer.epochs=3", "trainer.keep_last=1"]
KEYS += ["data_loader.args.validation_split=30", "trainer.keep_best=3"]


def kept(tiny: Tiny, run: str = "run") -> list[str]:
    return [name for name in tiny.checkpoints(run) if name.startswith("model_best_step") and name.endswith(".pth")]


def best_by_the_log(tiny: Tiny, run: str = "run") -> list[str]:
    points = sorted(tiny.points("valid", run), key=lambda point: -point["accuracy"])[:3]
    return sorted(f"model_best_step{point['step']}.pth" for point in points)


def test_the_best_of_all_validations_are_kept(tiny: Tiny) -> None:
    done = tiny.train(*KEYS)
    assert kept(tiny) == best_by_the_log(tiny)
    assert len(set(tiny.steps("valid"))) == 18
    for value, step in done.monitor.top:
        saved = tiny.load(f"model_best_step{step}.pth")
        assert saved["step"] == step
        assert saved["values"]["val_accuracy"] == value
    best = f"model_best_step{done.monitor.best_step}.pth"
    folder = tiny.folder / "run/checkpoints"
    assert (folder / best).stat().st_ino == (folder / "model_best.pth").stat().st_ino  # one file under two names
    tiny.train(*KEYS, "trainer.keep_best=1", run="one")
    assert kept(tiny, "one") == []


@pytest.mark.parametrize("step", [3, 8])
def test_after_a_resume_they_are_those_of_a_run_without_a_break(tiny: Tiny, step: int) -> None:
    tiny.train(*KEYS, run="whole")
    tiny.train(*KEYS, f"trainer.max_steps={step}")
    again = tiny.train(*KEYS)
    assert kept(tiny) == kept(tiny, "whole")
    assert again.monitor.top_steps == [p["step"] for p in best(tiny)]


def best(tiny: Tiny) -> list[dict[str, Any]]:
    return sorted(tiny.points("valid"), key=lambda point: -point["accuracy"])[:3]


def test_going_back_sets_newer_ones_aside(tiny: Tiny) -> None:
    tiny.train(*KEYS, "trainer.keep_last=20", "trainer.save_steps=1", "trainer.max_steps=10")
    newer = [name for name in kept(tiny) if int(name[15:-4]) > 4]
    assert newer
    done = tiny.train(*KEYS, "trainer.max_steps=5", checkpoint="checkpoint-step4.pth")
    assert all(f"{name}.bak" in tiny.checkpoints() for name in newer)
    assert {int(name[15:-4]) for name in kept(tiny)} <= set(done.monitor.top_steps)  # some were deleted before
