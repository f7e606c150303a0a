"""What one step is, for supervised learning. Change it here, or derive a class and name it as `trainer.type`."""

from typing import Any

from torch import Tensor

from trainer.base_trainer import BaseTrainer


class Trainer(BaseTrainer):
    """A batch is (inputs, targets); the loss and the metrics compare the model's outputs with the targets."""

    def train_step(self, batches: list[Any]) -> None:
        self.optimize(self.loss, batches, self.optimizer)

    def eval_step(self, batch: Any) -> None:
        self.loss(batch)

    def loss(self, batch: Any) -> Tensor:
        """The mean loss of one micro-batch, a scalar."""
        inputs, targets = batch
        outputs = self.model(inputs)
        loss = self.criterion(outputs, targets)
        self.record(loss=loss)
        self.record_metrics(outputs, targets)
        return loss
