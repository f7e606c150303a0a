"""Samples/s on 2 CPU processes of one thread: this trainer, a bare DistributedDataParallel loop, and Lightning.

    OMP_NUM_THREADS=1 python -m torch.distributed.run --nproc-per-node 2 -m benchmarks.ddp

Interleaved in the same processes; the figures are medians over rounds, and ratios to `bare` of the same round. The
bare loop slices its batches from memory and does nothing but the step; `channels_last` is that loop with the memory
format that the trainer chooses by itself. Lightning is skipped if it is not installed (extra `bench`). All train the
same ConvNet on the same number of samples per step. CPU is the time that the busier process spends on computing, active
waiting and copying: other work on the machine disturbs it less than samples/s.
"""

import argparse
import importlib.util
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, TensorDataset

import train
from data_loader import BaseDataLoader, data_loaders
from model.vision import ConvNet
from trainer.checkpoint import resume
from trainer.engine import setup
from utils import config as configs
from utils.process import group as distributed
from utils.run_folder import Run

BATCH, SAMPLES, WARM, STEPS, ROUNDS = 256, 12_800, 10, 60, 7
X, Y = torch.randn(SAMPLES, 1, 16, 16), torch.randint(0, 10, (SAMPLES,))


class InMemory(Dataset[Any]):
    uses_sample_keys = True  # it draws nothing

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index], Y[index]

    def __getitems__(self, indices: Any) -> tuple[Tensor, Tensor]:
        at = torch.as_tensor(indices)
        return X.index_select(0, at), Y.index_select(0, at)


class BenchDataLoader(BaseDataLoader):
    def __init__(self, batch_size: int = BATCH):
        super().__init__(InMemory(), batch_size)


setattr(data_loaders, "BenchDataLoader", BenchDataLoader)  # noqa: B010 (where configs look for it)


class Clock:
    """Seconds per step since `start`, of time and of CPU. `start` waits for all ranks."""

    def start(self) -> None:
        distributed.barrier()
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        now = time.perf_counter(), time.process_time()
        self.taken = [(end - since) / STEPS for end, since in zip(now, self._since, strict=True)]


def bare(clock: Clock, memory_format: torch.memory_format = torch.contiguous_format) -> None:
    net = DistributedDataParallel(ConvNet(widths=(32, 64)).to(memory_format=memory_format))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    rank, world = distributed.rank(), distributed.world_size()
    for step in range(STEPS + WARM):
        if step == WARM:
            clock.start()
        if step % (SAMPLES // BATCH) == 0:
            order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(step))
        i = order[step % (SAMPLES // BATCH) * BATCH :][:BATCH][rank::world]
        optimizer.zero_grad()
        F.cross_entropy(net(X[i]), Y[i]).backward()
        optimizer.step()
    clock.stop()


def ours(clock: Clock) -> None:
    config = configs.load(
        [
            {
                "name": "bench",
                "n_gpu": 0,
                "arch": {"type": "ConvNet", "args": {"widths": [32, 64]}},
                "data_loader": {"type": "BenchDataLoader"},
                "loss": "cross_entropy",
                "metrics": ["accuracy"],
                "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}},
                "trainer": {"max_steps": STEPS + WARM, "verbosity": 0, "save_period": 10**6},
            }
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"))
        trainer = train.build(config, run)
        resume.start(trainer)
        run_step = trainer.run_step

        def timed(stream: Any, log_due: bool) -> dict[str, float]:
            if trainer.step == WARM:
                clock.start()
            rates = run_step(stream, log_due)
            if trainer.step == STEPS + WARM:
                clock.stop()
            return rates

        setattr(trainer, "run_step", timed)  # noqa: B010
        trainer.train()
        run.close()
        distributed.barrier()  # before rank 0 removes the folder


def lightning(clock: Clock) -> None:
    import lightning as L

    class Net(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = ConvNet(widths=(32, 64))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            output = self.net(x)
            loss = F.cross_entropy(output, y)
            self.log("loss", loss, on_step=False, on_epoch=True)
            self.log("accuracy", (output.argmax(1) == y).float().mean(), on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)

    class Timed(L.Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == WARM:
                clock.start()

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == STEPS + WARM:
                clock.stop()

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_steps=STEPS + WARM,
        accelerator="cpu",
        devices=distributed.world_size(),
        strategy="ddp",
        callbacks=[Timed()],
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(Net(), DataLoader(TensorDataset(X, Y), BATCH // distributed.world_size(), shuffle=True))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    loops: dict[str, Callable[[Clock], None]] = {
        "bare": bare,
        "channels_last": lambda clock: bare(clock, torch.channels_last),
        "ours": ours,
    }
    if importlib.util.find_spec("lightning"):
        loops["lightning"] = lightning
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with setup.processes(0):
        times: dict[str, list[float]] = {name: [] for name in loops}
        cpu: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(ROUNDS):
            for name, loop in loops.items():
                loop(clock := Clock())
                seconds, computing = map(max, zip(*distributed.gather(clock.taken), strict=True))
                times[name].append(seconds)
                cpu[name].append(computing)
        for name, taken in times.items() if distributed.is_main() else ():
            ratio = statistics.median(b / t for b, t in zip(times["bare"], taken, strict=True))
            speed, computing = BATCH / statistics.median(taken), statistics.median(cpu[name]) * 1e3
            reported = f"{name:14} {speed:8,.0f} samples/s   {ratio:.3f} of bare   CPU {computing:.2f} ms a step"
            print(reported, flush=True)
    os._exit(0)  # after Lightning, gloo's threads abort an orderly exit


if __name__ == "__main__":
    main()
