"""Runs a function on several ranks: gloo processes forked from one server that has imported torch, in half a second."""

import contextlib
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "train",
        "trainer.checkpoint.resume",
        "trainer.engine.setup",
        "data_loader.data_loaders",
        "model.model",
        "model.vision",
        "torch._dynamo",
    ]
)

BASE: dict[str, Any] = {
    "name": "ranks",
    "n_gpu": 0,
    "arch": {"type": "ConvNet", "args": {"widths": [4, 8], "depth": 1}},
    "data_loader": {"type": "DigitsDataLoader", "args": {"batch_size": 50, "validation_split": 97}},
    "loss": "cross_entropy",
    "metrics": ["accuracy"],
    "optimizer": {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}},
    "trainer": {"max_steps": 8, "log_steps": 4, "save_steps": 4, "tensorboard": False, "verbosity": 0, "timeout": 60},
}


def on_ranks(world: int, function: Callable[..., Any], *args: Any, timeout: float = 300) -> list[Any]:
    """What `function(*args)` returns on each rank: where it raised an error the traceback, else its exit code."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pipes, processes = [], []
    for rank in range(world):
        mine, theirs = _context.Pipe()
        env = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        process = _context.Process(target=_child, args=(theirs, env, function, args))
        process.start()
        theirs.close()
        pipes.append(mine)
        processes.append(process)
    results: list[Any] = []
    for pipe, process in zip(pipes, processes, strict=True):
        found: Any = None
        with contextlib.suppress(EOFError):  # it ended without a result
            if pipe.poll(timeout):
                found = (pipe.recv(),)  # before the process is joined: it may wait for a long result to be read
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            found = (f"killed: it did not end in {timeout} seconds",)
        results.append(process.exitcode if found is None else found[0])
        pipe.close()
    return results


def _child(pipe: Any, env: dict[str, Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch

    os.environ |= {key: str(value) for key, value in env.items()}
    torch.set_num_threads(1)
    try:
        pipe.send(function(*args))
    except BaseException:
        pipe.send(traceback.format_exc())


def trained(
    overrides: list[str], folder: Path | None = None, change: Callable[[Any], None] | None = None
) -> dict[str, Any]:
    """Train BASE with these keys changed, over the ranks; in `folder`, where given, going on where a run there ended.

    change: is given the trainer before it starts. The result: the weights, and what rank 0 reported.
    """
    import train
    from model import loss
    from model import model as own
    from tests.trainer import steps
    from tests.trainer.parallel import models
    from trainer.callbacks import ema
    from trainer.checkpoint import resume as resumes
    from trainer.engine import setup
    from utils import config as configs
    from utils.errors import Interrupted
    from utils.run_folder import Run
    from utils.tensors import unwrap

    vars(own).update({m.__name__: m for m in models.ALL})
    steps.name_parts()
    vars(loss)["Center"] = models.Center
    vars(ema)["Unfreeze"] = models.Unfreeze
    config = configs.load([BASE], overrides)
    with setup.processes(0, config.run.trainer.timeout):
        trainer = train.build(config, Run((folder or Path("nowhere")) / "run"))
        points: list[Any] = []
        reporter: Any = trainer.reporter
        reporter.values = lambda split, step, values: points.append((split, step, values))
        reporter.train_point = lambda step, values: points.append(("train", step, values))
        if folder is not None:
            resumes.start(trainer)
        if change:
            change(trainer)
        with contextlib.suppress(Interrupted):
            trainer.train()
        model = unwrap(trainer.model)
        state_dict = {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in model.state_dict().items()}
        weights = {k: v.detach().numpy() for k, v in state_dict.items()}
        return {"step": trainer.step, "weights": weights, "points": points, "signal": trainer.signal.number}


def trained_as_on_gpus(*args: Any) -> dict[str, Any]:
    """`trained`, with the gradients averaged in the backward pass, by a DistributedDataParallel."""
    from trainer.parallel import replicated

    replicated.OVERLAPPED.add("cpu")
    return trained(*args)
