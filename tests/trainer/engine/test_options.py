"""The keys of `trainer`: when it validates, saves, keeps and stops; precision."""

import pytest
import torch

from tests.tiny import tiny

__all__ = ["tiny"]


def test_epochs_validate_and_save(tiny):
    tiny.train("trainer.epochs=3")
    assert tiny.steps("valid") == [6, 12, 18]
    assert tiny.checkpoints() == ["checkpoint-step12.pth", "checkpoint-step18.pth", "checkpoint-step6.pth"]


def test_periods(tiny):
    tiny.train("trainer.epochs=5", "trainer.valid_period=2", "trainer.save_period=3")
    assert tiny.steps("valid") == [12, 24, 30]  # and at the end
    assert tiny.checkpoints() == ["checkpoint-step18.pth", "checkpoint-step30.pth"]


def test_steps_in_place_of_epochs(tiny):
    tiny.train("trainer.epochs=null", "trainer.max_steps=9", "trainer.valid_steps=4", "trainer.save_steps=5")
    assert tiny.steps("valid") == [4, 8, 9]
    assert tiny.checkpoints() == ["checkpoint-step5.pth", "checkpoint-step9.pth"]
    state = tiny.load("checkpoint-step9.pth")
    assert (state["step"], state["epoch"], state["format"]) == (9, 1, 2)


def test_whichever_of_epochs_and_max_steps_ends_first(tiny):
    assert tiny.train("trainer.epochs=5", "trainer.max_steps=7", run="a").step == 7
    assert tiny.train("trainer.epochs=1", "trainer.max_steps=7", run="b").step == 6


def test_limit_batches_null_is_the_whole_data_set(tiny):
    trainer = tiny.train("trainer.epochs=1", "trainer.limit_batches=null")
    assert trainer.step == 50  # 1,400 / 28
    assert trainer.valid_data_loader.steps_per_epoch == 4
    limited = tiny.build("trainer.limit_batches=2", run="limited")
    assert (limited.steps_per_epoch, limited.valid_data_loader.steps_per_epoch) == (2, 2)


def test_keep_last(tiny):
    tiny.train("trainer.save_steps=1", "trainer.keep_last=2")
    assert tiny.checkpoints() == ["checkpoint-step11.pth", "checkpoint-step12.pth"]


def test_best(tiny):
    done = tiny.train("trainer.epochs=4", "trainer.monitor=max val_accuracy", "trainer.save_period=9")
    accuracies = [point["accuracy"] for point in tiny.points("valid")]
    best = accuracies.index(max(accuracies))
    saved = tiny.load("model_best.pth")
    assert (saved["step"], done.monitor.best) == (tiny.steps("valid")[best], max(accuracies))
    assert saved["monitor"] == {"best": max(accuracies), "best_step": saved["step"], "bad_count": 0}
    reported = [line for line in tiny.log().splitlines() if "epoch " in line and "best" in line]
    running = [max(accuracies[: n + 1]) for n in range(4)]
    assert len(reported) == len(set(running))
    assert f"best val_accuracy {max(accuracies):.6g} at step {saved['step']}\n" in tiny.log()


def test_without_monitor_there_is_no_best(tiny):
    tiny.train("trainer.epochs=1")
    assert tiny.checkpoints() == ["checkpoint-step6.pth"]


def test_early_stop(tiny):
    frozen = ["optimizer.args.lr=0.0", "trainer.epochs=9", "trainer.monitor=min val_loss", "trainer.early_stop=3"]
    done = tiny.train(*frozen)
    assert tiny.steps("valid") == [6, 12, 18, 24]  # the first is the best, three do not improve
    assert done.step == 24
    assert "finished at step 24: val_loss has not improved in 3 validations\n" in tiny.log()
    assert "best val_loss" in tiny.log()


def test_early_stop_counts_on_after_a_resume(tiny):
    frozen = ["optimizer.args.lr=0.0", "trainer.monitor=min val_loss", "trainer.early_stop=3"]
    tiny.train(*frozen, "trainer.epochs=2")
    assert tiny.train(*frozen, "trainer.epochs=9").step == 24


def test_monitor_of_training(tiny):
    done = tiny.train("data_loader.args.validation_split=0", "trainer.monitor=min loss")
    assert tiny.steps("valid") == []
    assert done.monitor.best_step == 12


@pytest.mark.parametrize("accumulate", [1, 2])
def test_bf16_on_the_cpu(tiny, accumulate):
    trainer = tiny.train("trainer.precision=bf16", f"trainer.accumulate={accumulate}", "trainer.epochs=8")
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert {v.dtype for v in tiny.load("checkpoint-step48.pth")["model"].values()} == {torch.float32}
    first, last = tiny.points("valid")[0], tiny.points("valid")[-1]
    assert last["loss"] < first["loss"] / 2
    tiny.train(f"trainer.accumulate={accumulate}", "trainer.epochs=8", run="fp32")
    assert tiny.points("valid", "fp32")[-1]["loss"] == pytest.approx(last["loss"], rel=0.05)
    assert tiny.points("valid", "fp32")[-1]["loss"] != last["loss"]
