"""Where the time of the step of benchmarks.step goes, in the trainer and in the plain loop: us a step, one thread.

    python -m benchmarks.profile

Each figure is the 20th percentile of means over 50 steps. Three ideas for the trainer's part made no measurable
difference: keeping the optimizer's lists between steps, seeding Python's generator without its checks, and sharing one
null context. What remains is what the plain loop does not do: seeding each step (the price of an exact resume), the
gradient norm (for clipping and the NaN check), accuracy, the schedule, and logging.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import train
from benchmarks import step
from benchmarks.mnist import in_child
from trainer.checkpoint import resume
from trainer.engine import step as engine
from trainer.engine.metrics import Metrics
from utils import config as configs
from utils.run_folder import Run

CHUNK = 50  # steps
Times = dict[str, float]


class Marks:
    """Sums seconds by name, and keeps the sum of each chunk of steps."""

    def __init__(self) -> None:
        self.sums: Times = defaultdict(float)
        self.chunks: list[Times] = []
        self.last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.sums[name] += now - self.last
        self.last = now

    def wrap(self, owner: Any, method: str, name: str, before: str) -> None:
        """Count the time before each call of the method as `before`, and that of the call as `name`."""
        function = getattr(owner, method)

        def marked(*args: Any, **kwargs: Any) -> Any:
            self(before)
            result = function(*args, **kwargs)
            self(name)
            return result

        setattr(owner, method, marked)

    def chunk(self) -> None:
        self.chunks.append(dict(self.sums))

    def typical(self) -> Times:
        """Microseconds per step."""
        pairs = list(zip(self.chunks, self.chunks[1:], strict=False))
        added = {name: sorted(b.get(name, 0.0) - a.get(name, 0.0) for a, b in pairs) for name in self.sums}
        return {name: values[len(values) // 5] / CHUNK * 1e6 for name, values in added.items()}


def plain(steps: int) -> Times:
    net, criterion = step.model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    mark = Marks()
    for i in range(steps):
        if i % CHUNK == 0:
            mark.chunk()
        mark("other")
        if i % (step.SAMPLES // step.BATCH) == 0:
            order = torch.randperm(step.SAMPLES)
        at = order[i % (step.SAMPLES // step.BATCH) * step.BATCH :][: step.BATCH]
        x, y = step.X[at], step.Y[at]
        mark("batch")
        optimizer.zero_grad()
        mark("gradients to None")
        output = net(x)
        mark("model")
        loss = criterion(output, y)
        mark("loss")
        loss.backward()
        mark("backward")
        optimizer.step()
        mark("optimizer")
    return mark.typical()


def ours(steps: int) -> Times:
    config = configs.load([step.config_of(steps)])
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"))
        trainer = train.build(config, run)
        resume.start(trainer)
        mark = Marks()
        renamed = {"data": "batch", "forward": "rest of forward"}
        inside = ["other"]

        class Phase:
            def __init__(self, name: str) -> None:
                self.name = renamed.get(name, name)

            def __enter__(self) -> None:
                mark(inside[-1])
                inside.append(self.name)

            def __exit__(self, *_: object) -> None:
                mark(inside.pop())

        setattr(trainer.clock, "phases", {name: Phase(name) for name in trainer.clock.phases})  # noqa: B010
        mark.wrap(engine, "seed_all", "seeds", "gradients to None")
        mark.wrap(trainer.model, "forward", "model", "rest of forward")
        mark.wrap(trainer.criterion.criterion, "forward", "loss", "rest of forward")
        mark.wrap(trainer, "weight", "weight of the loss", "rest of forward")
        mark.wrap(Metrics, "__call__", "accuracy", "rest of forward")
        mark.wrap(trainer.parallel, "clip", "norm of the gradients", "optimizer")
        mark.wrap(trainer.lr_scheduler, "after_step", "schedule", "other")
        run_step = trainer.run_step

        def counted(stream: Any, log_due: bool) -> dict[str, float]:
            if trainer.step % CHUNK == 0:
                mark.chunk()
            return run_step(stream, log_due)

        setattr(trainer, "run_step", counted)  # noqa: B010
        trainer.train()
        run.close()
    return mark.typical()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    theirs, mine = in_child(plain, args.steps), in_child(ours, args.steps)
    print(f"{'us a step':24} {'plain':>7} {'ours':>7}")
    for name in [*theirs, *(name for name in mine if name not in theirs)]:
        print(f"{name:24} {theirs.get(name, 0.0):7.1f} {mine.get(name, 0.0):7.1f}")
    print(f"{'sum':24} {sum(theirs.values()):7.1f} {sum(mine.values()):7.1f}")


if __name__ == "__main__":
    main()
