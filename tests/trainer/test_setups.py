"""What people write in plain PyTorch runs here: optimizers, schedules, models, losses and batches of many kinds. Each
learns, and a run that is interrupted ends with the bits of one that is not."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import data_loader.data_loaders
import model.loss
import model.metric
import model.model
import trainer.optim
import trainer.trainer
from tests.tiny import Tiny, tiny
from trainer import Trainer

__all__ = ["tiny"]
X = torch.randn(160, 5, generator=torch.Generator().manual_seed(0))


class ClipValueTrainer(Trainer):
    def train_step(self, batches: Any) -> None:
        for inputs, targets in self.micro_batches(batches):
            loss = self.criterion(self.model(inputs), targets)
            self.backward(loss, self.weight(targets))
            self.record(loss=loss)
        self.average(self.optimizer)
        nn.utils.clip_grad_value_(self.model.parameters(), 0.01)
        self.update(self.optimizer)


class LBFGSTrainer(Trainer):
    """The optimizer evaluates the model several times in a step."""

    def train_step(self, batches: Any) -> None:
        losses: list[Tensor] = []

        def closure() -> Tensor:
            total = torch.zeros(())
            for inputs, targets in self.micro_batches(batches):
                loss = self.criterion(self.model(inputs), targets)
                self.backward(loss)
                total = total + loss.detach() / len(batches)
            self.average(self.optimizer)
            losses.append(total)
            return total

        self.optimizer.step(closure)
        self.record(loss=losses[0])


class SAM(torch.optim.Optimizer):
    """As it is mostly copied: with a first and a second step."""

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})
        self.base = torch.optim.SGD(self.param_groups, lr=lr, momentum=0.9)
        self.param_groups, self.state = self.base.param_groups, self.base.state

    @torch.no_grad()
    def first_step(self) -> None:
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in held]).norm()
        self._moves = [(p, p.grad * (self.param_groups[0]["rho"] / norm)) for p in held]
        for p, move in self._moves:
            p.add_(move)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for p, move in self._moves:
            p.sub_(move)
        self.base.step()

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.base.param_groups, self.base.state = self.param_groups, self.state


class SAMOptimizerTrainer(Trainer):
    def train_step(self, batches: Any) -> None:
        for first in (True, False):
            for inputs, targets in self.micro_batches(batches):
                loss = self.criterion(self.model(inputs), targets)
                self.backward(loss, self.weight(targets))
                if first:
                    self.record(loss=loss)
            if first:
                self.average(self.optimizer)
                self.optimizer.first_step()
        self.update(self.optimizer)


def warmup(optimizer: torch.optim.Optimizer, steps: int = 5) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / steps))


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.flatten(1)).relu())


class Parametrized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 16))
        self.second = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.last = nn.utils.spectral_norm(nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x.flatten(1)).relu()).relu())


class LSTM(nn.Module):
    """Returns its hidden state too."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor, hidden: Any = None) -> Any:
        outputs, hidden = self.rnn(x.reshape(-1, 8, 8), hidden)
        return self.head(outputs[:, -1]), hidden


class LazyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.LazyConv2d(4, 3), nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().flatten(1))


class Fourier(nn.Module):
    """With complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 10, dtype=torch.cfloat) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.fft.fft(x.flatten(1)) @ self.weight).abs()


class SparseTable(nn.Module):
    """Embeddings whose gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(17 * 64, 8, sparse=True), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1).mul(2.6).add(2.2).round().clamp(0, 16).long()
        return self.head(self.table(pixels + 17 * torch.arange(64)).sum(1))


class WithLoss(nn.Module):
    """As models of Hugging Face: called by names, it returns a loss where it gets labels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(input_ids)
        return {"logits": logits} | ({} if labels is None else {"loss": F.cross_entropy(logits, labels)})


class Dicts(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": X[i], "labels": X[i, :3].argmax()}


class WithLossTrainer(Trainer):
    def train_step(self, batches: Any) -> None:
        for batch in self.micro_batches(batches):
            outputs = self.model(**batch)
            self.backward(outputs["loss"])
            self.record(loss=outputs["loss"], **self.metrics(outputs["logits"], batch["labels"]))
        self.update(self.optimizer)

    def eval_step(self, batch: Any) -> Any:
        outputs = self.model(**batch)
        self.record(loss=outputs["loss"], **self.metrics(outputs["logits"], batch["labels"]))
        return outputs["logits"]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(5, 16), nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x).relu()
        return {"kind": self.kind(h), "size": self.size(h).squeeze(1)}


class TwoTasks(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Tensor]]:
        return X[i], {"kind": X[i, :3].argmax(), "size": X[i].sum()}


class Uncertainty(nn.Module):
    """Weighs two tasks by what it learns of their noise (Kendall et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, output: Any, target: Any) -> dict[str, Tensor]:
        kind, size = F.cross_entropy(output["kind"], target["kind"]), F.mse_loss(output["size"], target["size"])
        of_kind, of_size = self.log_variances
        return {"of_kind": (-of_kind).exp() * kind + of_kind, "of_size": (-of_size).exp() * size + of_size}


def kind_accuracy(output: Any, target: Any) -> Tensor:
    return output["kind"].argmax(1) == target["kind"]


def both(output: Any, target: Any) -> dict[str, Tensor]:
    return {"right": kind_accuracy(output, target), "error": (output["size"] - target["size"]).abs()}


class Triplets(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        return X[i], X[i] + 0.1 * torch.randn(5), X[(i * 7 + 1) % len(X)]


class TripletTrainer(Trainer):
    def train_step(self, batches: Any) -> None:
        for anchors, positives, negatives in self.micro_batches(batches):
            loss = self.criterion(self.model(anchors), self.model(positives), self.model(negatives))
            self.backward(loss)
            self.record(loss=loss)
        self.update(self.optimizer)

    def eval_step(self, batch: Any) -> Any:
        outputs = [self.model(part) for part in batch]
        self.record(loss=self.criterion(*outputs))
        return outputs[0]


class Auxiliary(nn.Module):
    """Two outputs while it trains, as Inception has them."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.auxiliary = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Any:
        x = x.flatten(1)
        return (self.main(x), self.auxiliary(x)) if self.training else self.main(x)


def with_auxiliary(output: Any, target: Tensor) -> Tensor:
    outputs = output if isinstance(output, tuple) else (output,)
    losses = [F.cross_entropy(each, target) for each in outputs]
    return losses[0] + 0.4 * sum(losses[1:], torch.zeros(()))


PARTS: dict[Any, tuple[Any, ...]] = {
    trainer.trainer: (ClipValueTrainer, LBFGSTrainer, SAMOptimizerTrainer, WithLossTrainer, TripletTrainer),
    trainer.optim: (SAM, warmup),
    model.model: (EncoderDecoder, Parametrized, LSTM, LazyNet, Fourier, SparseTable, WithLoss, TwoHeads, Auxiliary),
    model.loss: (Uncertainty, with_auxiliary),
    model.metric: (kind_accuracy, both),
    data_loader.data_loaders: (Dicts, TwoTasks, Triplets),
}
LINEAR = "{type: LinearLR, args: {start_factor: 0.1, total_iters: 5}}"
TWO = "optimizer={table: {type: SparseAdam, args: {lr: 0.02}}, head: {type: AdamW, args: {lr: 0.02}}}"
SMALL = "data_loader.args={batch_size: 20, validation_split: 40}"
SETUPS: dict[str, list[str]] = {
    "two optimizers": [
        "arch=EncoderDecoder",
        "optimizer={encoder: {type: AdamW, args: {lr: 0.01}}, head: {type: SGD, args: {lr: 0.1}}}",
        "lr_scheduler={head: {type: StepLR, args: {step_size: 2}}}",
    ],
    "clipping by value": ["trainer.type=ClipValueTrainer", "optimizer.args.lr=1.0"],
    "LBFGS": ["trainer.type=LBFGSTrainer", "optimizer={type: LBFGS, args: {lr: 0.2, max_iter: 4}}"],
    "SAM": ["trainer.type=SAMOptimizerTrainer", "optimizer={type: SAM, args: {lr: 0.1}}"],
    "restarts": ["lr_scheduler={type: CosineAnnealingWarmRestarts, interval: step, args: {T_0: 7, T_mult: 2}}"],
    "plateau": ["lr_scheduler={type: ReduceLROnPlateau, args: {patience: 0}}", "trainer.monitor=min val_loss"],
    "sequential": [
        f"lr_scheduler={{type: SequentialLR, interval: step, args: {{schedulers: [{LINEAR}, "
        "{type: CosineAnnealingLR, args: {T_max: 15}}], milestones: [5]}}"
    ],
    "chained": [
        f"lr_scheduler={{type: ChainedScheduler, interval: step, args: {{schedulers: [{LINEAR}, "
        "{type: ExponentialLR, args: {gamma: 0.98}}]}}"
    ],
    "lambda": ["lr_scheduler={type: warmup, interval: step}"],
    "parametrizations": ["arch=Parametrized", "callbacks=[EMA]", "optimizer={type: AdamW, args: {lr: 0.02}}"],
    "hidden state": ["arch=LSTM", "optimizer={type: AdamW, args: {lr: 0.02}}"],
    "lazy": ["arch=LazyNet", "callbacks=[EMA]"],
    "complex weights": ["arch=Fourier", "optimizer={type: Adam, args: {lr: 0.01}}", "callbacks=[EMA, GradNorm]",
                        "trainer.clip_grad_norm=1.0"],
    "sparse gradients": ["arch=SparseTable", TWO, "trainer.clip_grad_norm=1.0", "trainer.accumulate=2"],
    "class weights": ["loss={type: CrossEntropyLoss, args: {weight: [1, 2, 1, 1, 1, 1, 1, 1, 1, 3]}}"],
    "a model with a loss": ["arch=WithLoss", "data_loader.type=Dicts", SMALL, "trainer.type=WithLossTrainer"],
    "two tasks": ["arch=TwoHeads", "data_loader.type=TwoTasks", SMALL, "loss=Uncertainty", "optimizer.args.lr=0.05",
                  "metrics=[kind_accuracy, both]", "trainer.monitor=max val_both_right"],
    "triplets": ["arch={type: MLP, args: {in_features: 5, hidden: [], num_classes: 4}}", "data_loader.type=Triplets",
                 SMALL, "loss=TripletMarginLoss", "metrics=[]", "trainer.type=TripletTrainer"],
    "auxiliary outputs": ["arch=Auxiliary", "loss=with_auxiliary"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, parts in PARTS.items():
        for part in parts:
            monkeypatch.setattr(room, part.__name__, part, raising=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated in favor of:FutureWarning")  # torch.nn.utils.spectral_norm
@pytest.mark.parametrize("setup", SETUPS)
def test_it_learns_and_resumes_exactly(tiny: Tiny, setup: str) -> None:
    keys = ["trainer.epochs=4", "trainer.limit_batches=5", "trainer.log_steps=5", *SETUPS[setup]]
    whole = tiny.train(*keys, run="whole")
    tiny.train(*keys, "trainer.max_steps=8")
    again = tiny.train(*keys)
    assert whole.step == again.step == 20
    one, two = whole.model.state_dict(), again.model.state_dict()
    assert [name for name, value in one.items() if not torch.equal(value, two[name])] == []
    assert all(map(torch.equal, *([p for _, p in t.criterion.named_parameters()] for t in (whole, again))))
    losses = [point["loss"] for point in tiny.points("train", "whole")]
    assert losses[-1] < losses[0] - 0.01
    assert tiny.points("valid")[-1] == tiny.points("valid", "whole")[-1]
    if setup == "two tasks":
        point = tiny.points("valid")[-1]
        assert point.keys() - {"step", "epoch", "split"} == {
            "loss", "of_kind", "of_size", "kind_accuracy", "both_right", "both_error"
        }  # fmt: skip
        assert point["kind_accuracy"] == point["both_right"]
