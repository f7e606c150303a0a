"""What leans on private names of torch: delete this file, and export.py uses torch.export as it comes, without aoti."""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental import _config

NOT_ONE = re.compile(r"^\W*L\[[^=<>]*\.size\(\)\[\d+\]\)* != 1\)*$")
FIXED = re.compile(r"^L\['\w+'\]\[(\d+)\]\.size\(\)\[(\d+)\] == \d+$")


def any_size() -> AbstractContextManager[Any]:
    """Within this, torch.export does not assume that a batch has two samples at least, as it does of EmbeddingBag."""
    if not hasattr(_config, "backed_size_oblivious"):
        return nullcontext()
    return _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def fixed_sizes(program: Any) -> set[tuple[int, int]]:
    """(input, axis) of the sizes that the program takes only as they were, although it does not write them down."""
    return {(int(m[1]), int(m[2])) for code in getattr(program, "_guards_code", ()) if (m := FIXED.match(code))}


def forget_ones(program: Any) -> None:
    """Remove the conditions `size != 1`: torch.export only saw larger batches, and takes that for a need of the model.

    Whether the program computes a batch of one as the model does is compared afterwards.
    """
    program._guards_code = [code for code in getattr(program, "_guards_code", ()) if not NOT_ONE.search(code)]


def compile_ahead(program: Any, path: Path, metadata: dict[str, str]) -> None:
    """Compile a captured program for this machine."""
    options = {"aot_inductor.metadata": metadata}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def load_compiled(path: Path) -> tuple[Any, dict[str, str]]:
    """What compile_ahead wrote, and its metadata. Raises what torch raises where it is no such file."""
    compiled = torch._inductor.aoti_load_package(str(path))
    return compiled, compiled.loader.get_metadata()  # type: ignore[attr-defined]
