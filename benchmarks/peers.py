"""The other ways to train that benchmarks compare with: seconds per step of one task, with the same features.

Lightning, accelerate and HF Trainer (extra `bench`), used as their guides show. Each has its progress bar, running loss
and accuracy, TensorBoard every 50 steps, a cosine schedule, and clipping if the task has it. They get whole batches
sliced from memory: torch's DataLoader at its best.

`2020 costs` is not a package. It is what victoresque/pytorch-template does in a step, written by hand: single samples
from the DataLoader, loss and accuracy moved to the host and to TensorBoard in each step, an image of the inputs every
sqrt(batch) steps, histograms of the weights each epoch; no clipping, no progress bar, and without its pandas.
"""

import contextlib
import importlib.util
import io
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

WARM = 50


@dataclass
class Task:
    model: Callable[[], nn.Module]
    criterion: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor
    batch: int
    side: int  # the inputs drawn as pictures: side x side
    clip: float | None = None
    samples: Any = None  # the data set as the 2020 template has it, which gives single samples


class Clock:
    """Seconds per step, after the warm-up."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done, self.start, self.end = steps, 0, 0.0, 0.0

    def tick(self) -> None:
        """Count a finished step."""
        self.done += 1
        if self.done == WARM:
            self.start = time.perf_counter()
        if self.done == WARM + self.steps:
            self.end = time.perf_counter()

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / self.steps


def whole_batches(task: Task, collate: Callable[[Any], Any] = tuple) -> Any:
    """torch's DataLoader at its best: it fetches whole batches and collates nothing."""

    class Slices(TensorDataset):
        def __getitems__(self, indices: list[int]) -> Any:
            at = torch.tensor(indices)
            return tuple(tensor.index_select(0, at) for tensor in self.tensors)

    return DataLoader(Slices(task.x, task.y), task.batch, shuffle=True, collate_fn=collate)


def costs_of_2020(task: Task, steps: int) -> float:
    from torchvision.utils import make_grid

    net, criterion, clock = task.model(), task.criterion, Clock(steps)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 50)
    loader = DataLoader(task.samples or TensorDataset(task.x, task.y), task.batch, shuffle=True)
    often = int(math.sqrt(task.batch))
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        step = 0
        while True:
            total, hits = [0.0, 0], [0.0, 0]
            for i, (data, target) in enumerate(loader):
                began = time.perf_counter()
                optimizer.zero_grad()
                output = net(data)
                loss = criterion(output, target)
                loss.backward()
                optimizer.step()
                writer.add_scalar("loss/train", loss.item(), step)
                total = [total[0] + loss.item(), total[1] + 1]
                accuracy = torch.sum(output.argmax(1) == target).item() / len(target)
                writer.add_scalar("accuracy/train", accuracy, step)
                hits = [hits[0] + accuracy, hits[1] + 1]
                if i % often == 0:
                    writer.add_image(
                        "input", make_grid(data.view(-1, 1, task.side, task.side), nrow=8, normalize=True), step
                    )
                writer.add_scalar("steps_per_sec/train", 1 / (time.perf_counter() - began), step)
                clock.tick()
                step += 1
                if step == steps + WARM:
                    return clock.seconds
            schedule.step()
            for name, p in net.named_parameters():
                writer.add_histogram(name, p, step, bins="auto")


def lightning(task: Task, steps: int) -> float:
    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger

    class Net(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = task.model(), task.criterion

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            output = self.net(x)
            loss = self.criterion(output, y)
            accuracy = (output.argmax(1) == y).float().mean()
            self.log_dict({"loss": loss, "accuracy": accuracy}, prog_bar=True, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps + WARM)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_train_batch_end(self, *_: Any) -> None:
            clock.tick()

    clock = Clock(steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_steps=steps + WARM,
            accelerator="cpu",
            gradient_clip_val=task.clip,
            log_every_n_steps=50,
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(Net(), whole_batches(task))
    return clock.seconds


def accelerate(task: Task, steps: int) -> float:
    from accelerate import Accelerator

    clock, criterion, net = Clock(steps), task.criterion, task.model()
    with tempfile.TemporaryDirectory() as folder:
        accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder)
        accelerator.init_trackers("bench")
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps + WARM)
        net, optimizer, loader, schedule = accelerator.prepare(net, optimizer, whole_batches(task), schedule)
        total, correct, n = 0.0, 0, 0
        bar = tqdm(total=steps + WARM, file=sys.stderr)
        while clock.done < steps + WARM:
            for x, y in loader:
                optimizer.zero_grad()
                output = net(x)
                loss = criterion(output, y)
                accelerator.backward(loss)
                if task.clip is not None:
                    accelerator.clip_grad_norm_(net.parameters(), task.clip)
                optimizer.step()
                schedule.step()
                total += loss.item() * len(y)
                correct += (output.argmax(1) == y).sum().item()
                n += len(y)
                bar.update()
                if clock.done % 50 == 0:
                    accelerator.log({"loss": total / n, "accuracy": correct / n}, step=clock.done)
                    bar.set_postfix(loss=total / n, accuracy=correct / n)
                clock.tick()
                if clock.done == steps + WARM:
                    break
        accelerator.end_training()
    return clock.seconds


def hf_trainer(task: Task, steps: int) -> float:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.correct, self.seen = task.model(), 0, 0

        def forward(self, x: Any, labels: Any) -> Any:
            output = self.net(x)
            self.correct += (output.argmax(1) == labels).sum().item()
            self.seen += len(labels)
            return {"loss": task.criterion(output, labels), "logits": output}

    class Tick(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    class Fed(Trainer):
        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(whole_batches(task, lambda batch: {"x": batch[0], "labels": batch[1]}))

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            super().log(logs | {"accuracy": net.correct / max(net.seen, 1)}, *args, **kwargs)

    clock, net = Clock(steps), Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps + WARM)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps + WARM,
            per_device_train_batch_size=task.batch,
            logging_steps=50,
            report_to="tensorboard",
            max_grad_norm=task.clip or 0.0,
            save_strategy="no",
            use_cpu=True,
        )
        fed = Fed(net, arguments, train_dataset=TensorDataset(task.x, task.y), optimizers=(optimizer, schedule))
        fed.add_callback(Tick())
        fed.train()
    return clock.seconds


PEERS: dict[str, tuple[str, Callable[[Task, int], float]]] = {
    "2020 costs": ("torchvision", costs_of_2020),
    "Lightning": ("lightning", lightning),
    "accelerate": ("accelerate", accelerate),
    "HF Trainer": ("transformers", hf_trainer),
}


def installed(names: list[str]) -> list[str]:
    """The peers that are installed; prints those that are not."""
    missing = [name for name in names if name in PEERS and importlib.util.find_spec(PEERS[name][0]) is None]
    for name in missing:
        print(f"{name}: not installed (extra `bench`)")
    return [name for name in names if name not in missing]


def run(name: str, task: Task, steps: int) -> float:
    """Seconds per step, after a warm-up. The peer's output is discarded; its progress bar still draws."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    nothing = io.StringIO()
    with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PEERS[name][1](task, steps)
