"""What one training step and one evaluation step are: start here.

Change them, or derive a class in a file of its own beside this one and name it as `trainer.type` in the config.
"""

from collections.abc import Sequence
from typing import Any

from trainer.engine.base_trainer import BaseTrainer


class Trainer(BaseTrainer):
    """Supervised learning: a batch is (inputs, targets)."""

    takes_pairs = True  # those of a dict, of (x1, x2, y), or of x alone, too: unpack makes them

    def train_step(self, batches: Sequence[Any]) -> None:
        for inputs, targets in self.micro_batches(batches):  # clears all gradients, then seeds and unpacks each
            with self.autocast():
                outputs = self.model(inputs)
                loss = self.criterion(outputs, targets)
            weight = self.weight(targets)  # what the loss is the mean over: samples, or the labels not ignored
            self.backward(loss, weight)
            self.record(loss=loss, **self.metrics(outputs, targets), weight=weight)
        self.update(self.optimizer)  # averages over ranks, unscales, checks, clips, steps

    def eval_step(self, batch: Any) -> Any:
        inputs, targets = batch
        outputs = self.model(inputs)
        loss = self.criterion(outputs, targets)
        self.record(loss=loss, **self.metrics(outputs, targets), weight=self.weight(targets))
        return outputs  # for callbacks and the reports of test.py

    def predict_step(self, inputs: Any) -> Any:
        return self.model(inputs)
