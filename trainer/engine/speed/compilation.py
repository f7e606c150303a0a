"""`trainer.compile`: torch.compile for the model."""

import contextlib
from typing import Any

import torch
from torch import nn

from logger.console import log
from utils.errors import Stopped, UsageError

BACKEND = "inductor"


class Compiler:
    """Compiles for one shape at a time: a graph for several would depend on which of them came first, and a resumed
    run must compute what the other would have. Steps differ by one sample at most, so there are few shapes."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def compile(self, model: nn.Module) -> None:
        """Compile the model in place: its names and its state stay."""
        if self.enabled:
            # With torch's own limit, 8 a function, what is compiled would depend on which shapes came first
            torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10**6
            model.compile(backend=BACKEND, dynamic=False)

    def start(self, device: torch.device, calls_parts: bool) -> None:
        if not self.enabled:
            return
        log.info("the first step compiles, which may take minutes; so does the first one of another batch size")
        if calls_parts:
            log.warning("trainer.compile: nothing is compiled: this trainer calls parts of the model, never the model")
        elif device.type == "cpu":
            log.warning("trainer.compile: on a CPU it is seldom faster; compare samples/s with trainer.compile=false")

    def off(self) -> contextlib.AbstractContextManager[Any]:
        """Within this, compiled modules run as they were written, so that the hooks of each layer are called."""
        return torch.compiler.set_stance("force_eager") if self.enabled else contextlib.nullcontext()


def failed(error: Exception) -> Stopped | None:
    """What to report of an error that says that torch could not compile; None for any other."""
    if not any(kind.__module__.startswith("torch._dynamo") for kind in type(error).__mro__):
        return None
    return Stopped(f"trainer.compile: {_reason(error)}\nTrain without it: trainer.compile=false")


def check(enabled: bool, device: torch.device) -> None:
    """Raise UsageError, before any work, where torch cannot compile here: without a C++ compiler or Triton, say."""
    if not enabled:
        return
    try:
        torch.compile(torch.neg, backend=BACKEND)(torch.ones(2, device=device))
    except Exception as e:
        raise UsageError(
            f"trainer.compile: true was given, but torch cannot compile here: {_reason(e)}\n"
            f"Install what it names (on the CPU a C++ compiler such as g++), or set trainer.compile=false"
        ) from e


def _reason(error: BaseException) -> str:
    """The first line of the first cause: torch wraps it several times."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
