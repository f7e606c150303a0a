"""Time from the start of a process to its first optimizer step, and to its end, over those of a bare script.

    python -m benchmarks.start

bare: imports torch, builds a small ConvNet, cross-entropy and Adam, and does one step on tensors in memory. ours:
`train.py` with the same network on the digits, everything on; the step is done when the `after_step` of callbacks is
called. 2020 costs: what victoresque/pytorch-template does before its first step (imports torchvision, opens a
SummaryWriter, loads single samples), written by hand; not that package, and without its pandas. Lightning, accelerate
and HF Trainer, used as their guides show, each skipped if it is not installed (extra `bench`).

Each is a process of one thread; they take turns. The clock starts in this process before it starts the other, which
sends the time (the system's monotonic clock) through a pipe at its first step; `whole` is the time until it has ended.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
MARK = """
import os, time
def mark(*_): os.write({fd}, str(time.monotonic()).encode() + b" ")
"""
MODEL = """
import torch
from torch import nn
def block(a, b): return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
net = nn.Sequential(*block(1, 32), *block(32, 64), nn.Flatten(), nn.Linear(256, 10))
criterion = nn.CrossEntropyLoss()
x, y = torch.randn(1500, 1, 8, 8), torch.randint(0, 10, (1500,))
"""
LOADER = """
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 64, shuffle=True)
"""
STEP = """
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
optimizer.zero_grad()
criterion(net(x[:64]), y[:64]).backward()
optimizer.step()
mark()
"""
OURS = """
import train
from utils.exit_codes import exit_with
build = train.build
class Mark:
    def after_step(self, trainer): mark()
def marked(*args):
    trainer = build(*args)
    trainer.callbacks.append(Mark())
    return trainer
train.build = marked
exit_with(lambda: train.main(["-c", "config/digits.yaml", "trainer.max_steps=1", "trainer.save_dir={folder}",
                                   "optimizer.type=Adam"]))
"""
TEMPLATE = """
import argparse, collections, json, logging, logging.config
import numpy as np
import torch, torchvision
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter("{folder}")
"""
TEMPLATE_STEP = """
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for data, target in loader:
    optimizer.zero_grad()
    loss = criterion(net(data), target)
    loss.backward()
    optimizer.step()
    mark()
    writer.add_scalar("loss", loss.item(), 0)
    writer.add_image("input", torchvision.utils.make_grid(data, nrow=8, normalize=True), 0)
    break
"""
LIGHTNING = """
import lightning as L
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net
    def training_step(self, batch, index): return criterion(self.net(batch[0]), batch[1])
    def configure_optimizers(self): return torch.optim.Adam(self.parameters(), lr=1e-3)
    def on_train_batch_end(self, *_): mark()
L.Trainer(max_steps=1, accelerator="cpu", default_root_dir="{folder}").fit(Net(), loader)
"""
ACCELERATE = """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
net, optimizer, loader = accelerator.prepare(net, torch.optim.Adam(net.parameters(), lr=1e-3), loader)
for data, target in loader:
    optimizer.zero_grad()
    accelerator.backward(criterion(net(data), target))
    optimizer.step()
    mark()
    break
"""
TRANSFORMERS = """
from transformers import Trainer, TrainerCallback, TrainingArguments
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net
    def forward(self, x, labels):
        output = self.net(x)
        return criterion(output, labels), output
class Mark(TrainerCallback):
    def on_step_end(self, *_, **__): mark()
data = [dict(x=a, labels=b) for a, b in zip(x, y)]
arguments = TrainingArguments("{folder}", max_steps=1, per_device_train_batch_size=64, use_cpu=True)
Trainer(Net(), arguments, train_dataset=data, callbacks=[Mark()]).train()
"""
SCRIPTS = {
    "bare": MODEL + STEP,
    "ours": OURS,
    "2020 costs": TEMPLATE + MODEL + LOADER + TEMPLATE_STEP,
    "Lightning": LIGHTNING.replace("import lightning as L\n", "import lightning as L\n" + MODEL + LOADER),
    "accelerate": MODEL + LOADER + ACCELERATE,
    "HF Trainer": MODEL + TRANSFORMERS,
}
PEERS = {"Lightning": "lightning", "accelerate": "accelerate", "HF Trainer": "transformers"}
COMMANDS = {"--help": ["--help"], "a wrong key": ["-c", "config/digits.yaml", "trainer.epoch=3"]}


def started(code: str) -> tuple[float, float]:
    """Seconds to the first step and to the end of a process that runs this code."""
    receive, send = os.pipe()
    with TemporaryDirectory(prefix="start-") as folder:
        code = (MARK + code).replace("{fd}", str(send)).replace("{folder}", folder)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENV, pass_fds=[send], capture_output=True)
        ended = time.monotonic()
    os.close(send)
    with os.fdopen(receive) as pipe:
        marks = pipe.read().split()
    if done.returncode or not marks:
        sys.exit(f"a script failed:\n{done.stderr.decode()}")
    return float(marks[0]) - began, ended - began


def answered(arguments: list[str]) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, env=ENV, capture_output=True)
    return time.monotonic() - began


ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peer-rounds", type=int, default=3, help="in how many of the rounds the peers take part")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    args = parser.parse_args()
    scripts = {name: SCRIPTS[name] for name in SCRIPTS if name in (*args.only, "bare")}
    for name in [name for name in scripts if name in PEERS and importlib.util.find_spec(PEERS[name]) is None]:
        print(f"{name}: not installed")
        del scripts[name]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in scripts}
    answers: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for script in scripts.values():
        started(script)  # compiles what it imports
    for round_ in range(args.rounds):
        for name, script in scripts.items():
            if name in ("bare", "ours") or round_ < args.peer_rounds:
                times[name].append(started(script))
        for name, arguments in COMMANDS.items():
            answers[name].append(answered(arguments))
    for name, taken in times.items():
        first, whole = zip(*taken, strict=True)
        bare_first, bare_whole = zip(*times["bare"][: len(taken)], strict=True)
        print(
            f"{name:11} whole {statistics.median(whole):5.2f} s ({_ratio(whole, bare_whole):.2f})   "
            f"first step {statistics.median(first):5.2f} s   {_ratio(first, bare_first):.2f} of bare"
        )
    for name, seconds in answers.items():
        print(f"{name:11} {statistics.median(seconds):.2f} s")


def _ratio(these: tuple[float, ...], those: tuple[float, ...]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


if __name__ == "__main__":
    main()
