"""Callbacks: their hooks, order and state, and what a hook may do."""

import trainer.callbacks
from tests.tiny import tiny

__all__ = ["tiny"]


def test_hooks_run_in_the_order_of_the_config(tiny, monkeypatch):
    reported = []

    class First:
        def after_step(self, trainer):
            reported.append((type(self).__name__, trainer.step))

        def after_epoch(self, trainer, values):
            reported.append((type(self).__name__, sorted(values)))

    class Second(First):
        pass

    for callback in (First, Second):
        monkeypatch.setattr(trainer.callbacks, callback.__name__, callback, raising=False)
    tiny.train("callbacks=[Second, First]", "trainer.epochs=1", "trainer.limit_batches=1")
    values = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert reported == [("Second", 1), ("First", 1), ("Second", values), ("First", values)]


def test_a_callback_ends_the_run(tiny, monkeypatch):
    class Ender:
        def after_step(self, trainer):
            if trainer.step == 4:
                trainer.stop("four is enough")

    monkeypatch.setattr(trainer.callbacks, "Ender", Ender, raising=False)
    done = tiny.train("callbacks=[Ender]")
    assert done.step == 4
    assert "finished at step 4: four is enough\n" in tiny.log()
    assert tiny.load("checkpoint-step4.pth")["step"] == 4
    tiny.train("callbacks=[Ender]")
    assert tiny.steps("train") == [4]  # finished, also for a resume


def test_state_of_a_callback_is_in_the_checkpoint_and_comes_back(tiny, monkeypatch):
    class Counter:
        def __init__(self):
            self.count = 0

        def after_step(self, trainer):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    monkeypatch.setattr(trainer.callbacks, "Counter", Counter, raising=False)
    tiny.train("callbacks=[Counter]", "trainer.epochs=1")
    assert tiny.load("checkpoint-step6.pth")["callbacks"] == {"Counter": {"count": 6}}
    assert tiny.train("callbacks=[Counter]").callbacks[0].count == 12
