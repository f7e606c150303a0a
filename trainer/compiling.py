"""`trainer.compile`: torch.compile for the model or for the whole forward step, its recompilations counted and told."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from logger.logger import log
from utils.errors import Refused, Stopped

BACKEND = "inductor"
MANY = 12  # graphs; worth a warning


class Compiler:
    """Compiles for one shape at a time: a graph for several would depend on which of them came first, and a resumed
    run must compute what the other would have. Steps differ by one sample at most, so few shapes come.

    what: false, true or "model", or "step": model, loss and metrics as one graph. The update is one kernel anyway.
    """

    def __init__(self, what: bool | str) -> None:
        self.what = "model" if what is True else what
        self.graphs = 0
        self._told = 0  # graphs that were told of
        self._warned = False
        self._seconds = 0.0
        self._functions: dict[Any, Callable[..., Any]] = {}
        if what:  # by torch's own limit, 8 a function, what is compiled would depend on which shapes came first
            torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10**6

    def model(self, model: nn.Module) -> None:
        """Compile the model in place, where that was asked for: its names and its state stay."""
        if self.what == "model":
            model.compile(backend=self._compile, dynamic=False)

    def step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself, or compiled where the whole step is to be."""
        if self.what != "step":
            return function
        # A method is another object each time it is asked for
        key = id(getattr(function, "__self__", None)), getattr(function, "__func__", function)
        if key not in self._functions:
            self._functions[key] = torch.compile(function, backend=self._compile, dynamic=False)
        return self._functions[key]

    def start(self, device: torch.device) -> None:
        if self.what:
            log.info("the first step compiles, which may take minutes")
        if self.what and device.type == "cpu":
            log.warning("trainer.compile: on a CPU it is seldom faster; compare samples/s with trainer.compile=false")

    def tell(self, during: str) -> None:
        """Tell of what was compiled since the last time."""
        if self.graphs == self._told:
            if self.what and not self.graphs and not self._warned:
                self._warned = True
                log.warning(
                    "trainer.compile: nothing was compiled, since this trainer never calls the model as a whole; "
                    "`compile: step` compiles its loss functions"
                )
            return
        new, again = self.graphs - self._told, "compiled again" if self._told else "compiled"
        log.info(f"{again} in {during}: {new} graph{'s' * (new > 1)}, {self._seconds:.0f} s")
        if self._told < MANY <= self.graphs:
            log.warning(
                f"trainer.compile: {self.graphs} graphs by now, one for each shape and mode. Give all samples one "
                "shape, or set trainer.compile=false"
            )
        self._told, self._seconds = self.graphs, 0.0

    def off(self) -> contextlib.AbstractContextManager[Any]:
        """Run what was compiled as it was written, so that the hooks of each layer are called."""
        return torch.compiler.set_stance("force_eager") if self.what else contextlib.nullcontext()

    def _compile(self, graph: Any, inputs: list[Any]) -> Any:
        """What torch calls with each graph that it found."""
        began = time.perf_counter()
        compiled = torch._dynamo.lookup_backend(BACKEND)(graph, inputs)
        self.graphs += 1
        self._seconds += time.perf_counter() - began
        return compiled


def failed(error: Exception) -> Stopped | None:
    """What to tell of an error that says that torch could not compile; None for any other."""
    if not any(kind.__module__.startswith("torch._dynamo") for kind in type(error).__mro__):
        return None
    return Stopped(f"trainer.compile: {_reason(error)}\nTrain without it: trainer.compile=false")


def check(what: bool | str, device: torch.device) -> None:
    """Raise Refused, before any work, where torch cannot compile here: without a C++ compiler or Triton, say."""
    if not what:
        return
    try:
        torch.compile(torch.neg, backend=BACKEND)(torch.ones(2, device=device))
    except Exception as e:
        raise Refused(
            f"trainer.compile: {what} was given, but torch cannot compile here: {_reason(e)}\n"
            f"Install what it names (on the CPU a C++ compiler such as g++), or set trainer.compile=false"
        ) from e


def _reason(error: BaseException) -> str:
    """The first line of the first cause: torch wraps it several times."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
