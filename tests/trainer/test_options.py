"""The keys of `trainer`: when it validates, saves, keeps and stops; `init_from`; precision."""

import json

import pytest
import torch

import model.model
import train
from tests.tiny import CONFIG, tiny
from trainer import optim
from utils import run as runs
from utils.errors import Refused

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
    assert (state["step"], state["epoch"], state["format"]) == (9, 1, 1)


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
    told = [line for line in tiny.log().splitlines() if "epoch " in line and "best" in line]
    running = [max(accuracies[: n + 1]) for n in range(4)]
    assert len(told) == len(set(running))
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


# -- init_from


def test_init_from_takes_the_weights_and_nothing_else(tiny):
    first = tiny.train(run="first")
    path = tiny.folder / "first/checkpoints/checkpoint-step12.pth"
    second = tiny.build(f"init_from={path}", run="second")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert second.step == 0
    tiny.train(f"init_from={path}", run="second")
    assert f"init_from {path}: 4 of the model's 4 tensors loaded\n" in tiny.log("second")
    assert tiny.points("valid", "second")[0]["loss"] < tiny.points("valid", "first")[-1]["loss"]


def test_init_from_tells_what_did_not_fit(tiny):
    tiny.train("trainer.epochs=1", run="first")
    state = tiny.load("checkpoint-step6.pth", "first")["model"]
    state["module.extra.weight"] = torch.zeros(1)
    del state["layers.0.bias"]
    torch.save(state, tiny.folder / "weights.pth")
    tiny.train("arch.args.num_classes=12", f"init_from={tiny.folder / 'weights.pth'}", "trainer.epochs=1")
    assert f"init_from {tiny.folder}/weights.pth: 1 of the model's 4 tensors loaded\n" in tiny.log()
    for line in (
        "1 missing there, left as initialised: layers.0.bias\n",
        "1 not in the model, left out: extra.weight\n",
        "2 of another shape, left as initialised: layers.2.weight [10, 16] -> [12, 16], layers.2.bias [10] -> [12]\n",
    ):
        assert line in tiny.log()


def test_init_from_another_model_is_refused(tiny):
    torch.save({"conv.weight": torch.zeros(1)}, tiny.folder / "weights.pth")
    with pytest.raises(
        Refused, match=r"none of its 1 tensors fits the model's 4 by name and shape; it has conv.weight"
    ):
        tiny.build(f"init_from={tiny.folder / 'weights.pth'}")


def test_init_from_a_missing_file_is_refused(tiny):
    with pytest.raises(Refused, match=r"nowhere.pth: no such file; give a checkpoint, as saved/NAME/RUN/checkpoints/"):
        tiny.build("init_from=nowhere.pth")


# -- --check


def test_check_leaves_nothing_and_tells_in_two_lines(tiny, capsys, monkeypatch):
    (tiny.folder / "c.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tiny.folder)
    train.main(["-c", "c.json", "--check", "trainer.keep_last=1", "trainer.monitor=min val_loss", "callbacks=[EMA]"])
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "checking: two steps, validation, checkpoint, resume",
        "it works, and a resume is bit-equal; nothing was left behind",
    ]
    assert told.err == ""
    assert [path.name for path in tiny.folder.iterdir()] == ["c.json"]


def test_check_finds_a_model_that_counts_on_its_own(tiny, monkeypatch):
    class Counting(model.model.MLP):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return super().forward(x) * (1 + 0.1 * self.calls)

    monkeypatch.setattr(model.model, "Counting", Counting, raising=False)
    (tiny.folder / "c.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tiny.folder)
    with pytest.raises(Refused, match=r"a resume is not bit-equal: layers.0.weight, .* differ after step 2"):
        train.main(["-c", "c.json", "--check", "arch.type=Counting"])


# -- names of runs


def test_runs_that_begin_in_the_same_second(tiny, monkeypatch):
    """Each has a folder of its own, also where both chose their name before either made it."""
    monkeypatch.setattr(runs.time, "strftime", lambda form, *_: "2030-01-01_00-00-00")
    one, two, three = (runs.new_run(str(tiny.folder), "tiny", None) for _ in range(3))
    for run in (one, two, three):
        assert not run.exists
        run.open("name: tiny")
        assert run.exists
    assert sorted(path.name for path in (tiny.folder / "tiny").iterdir()) == [
        "2030-01-01_00-00-00",
        "2030-01-01_00-00-00-2",
        "2030-01-01_00-00-00-3",
    ]
    for run in (one, two, three):
        run.close()


def one_of_mine(params, lr: float = 0.1):
    return torch.optim.SGD(params, lr)


def test_an_optimizer_may_be_a_function(tiny, monkeypatch):
    monkeypatch.setattr(optim, "one_of_mine", one_of_mine, raising=False)
    trainer = tiny.train("optimizer={type: one_of_mine, args: {lr: 0.2}}")
    assert trainer.step == 12
    assert trainer.optimizer.defaults["lr"] == 0.2
