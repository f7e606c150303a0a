"""Chooses the kernels of a device, and on the CPU the allocator and the treatment of denormals."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import torch

from trainer.parallel import strategy


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restores at its end what `choose` has switched, so that two runs in one process do not interfere."""
    cudnn, matmul, cuda = torch.backends.cudnn, torch.backends.cuda.matmul, torch.cuda.is_available()
    deterministic, flushed, threads = _deterministic(), _flushes_denormals(), torch.get_num_threads()
    switches = [matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic] if cuda else []
    try:
        yield
    finally:
        if _deterministic() != deterministic:  # else the call imports torch._inductor, for a second and nothing
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.set_flush_denormal(flushed)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if switches:
            tf32(cudnn.allow_tf32)  # one value for all of them: they raise where they differ while they change
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = switches


def choose(options: Any, device: torch.device) -> None:
    """Switch the backends to what the keys of `trainer` say."""
    if device.type == "cuda":
        tf32(options.tf32)
        torch.backends.cudnn.benchmark = options.cudnn_benchmark
        # Its other algorithms add up gradients in any order, so that no run could be repeated
        torch.backends.cudnn.deterministic = not options.cudnn_benchmark
    if device.type != "cpu" and options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first use
        torch.use_deterministic_algorithms(True)
    if device.type == "cpu" and options.fast_cpu:
        torch.set_flush_denormal(True)  # computing with numbers below 1e-38 takes 100 times as long
        keep_memory(strategy(options).kept_bytes)
    if device.type == "cpu" and options.exact_ranks:
        torch.set_num_threads(1)  # of more, each rank has its share of the cores, and their number decides the rounding


def tf32(on: bool) -> None:
    """Let a GPU multiply float32 matrices in TF32, or not."""
    cudnn, precision = torch.backends.cudnn, "tf32" if on else "ieee"
    # The old switches first: torch.compile of 2.10 reads them, and they raise where they and the new ones differ
    torch.backends.cuda.matmul.allow_tf32 = cudnn.allow_tf32 = on
    torch.backends.cuda.matmul.fp32_precision = precision
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]


def keep_memory(largest: int = 2**30) -> None:
    """Let the process keep what it frees, for its next step; larger blocks (bytes) go back to the system."""
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        # By default large tensors are returned to the system after each step, and mapped again page by page
        libc, m_trim_threshold, m_mmap_threshold = ctypes.CDLL("libc.so.6"), -1, -3
        libc.mallopt(m_mmap_threshold, largest)
        libc.mallopt(m_trim_threshold, largest)


def _deterministic() -> tuple[bool, bool]:
    """Are only deterministic algorithms allowed, and are others merely warned of?"""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _flushes_denormals() -> bool:
    return bool(torch.tensor([1e-38]) * 0.1 == 0)
