"""Counts the FLOPs of a forward pass, 2 for each multiply-add of matrix products, convolutions and attention.

torch.utils.flop_counter counts the same (a test compares the two), but needs seconds: it imports Triton, and any
TorchDispatchMode imports torch._dynamo. This one looks at the calls of torch's functions instead.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


def _matmul(out: Tensor, a: Tensor, *_: Any) -> int:
    return 2 * out.numel() * a.shape[-1]


def _added_product(out: Tensor, added: Tensor, a: Tensor, *_: Any) -> int:
    return 2 * out.numel() * a.shape[-1]


def _convolution(out: Tensor, x: Tensor, weight: Tensor, *_: Any) -> int:
    return 2 * out.numel() * weight[0].numel()


def _transposed_convolution(out: Tensor, x: Tensor, weight: Tensor, *_: Any) -> int:
    return 2 * x.numel() * weight[0].numel()


def _attention(out: Tensor, query: Tensor, key: Tensor, *_: Any) -> int:
    return 2 * query.numel() * key.shape[-2] + 2 * out.numel() * key.shape[-2]


def _multi_head(out: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """[L, N, E]: four projections, and the attention between them."""
    width = query.shape[-1]
    projections = 2 * query.numel() * width + key.numel() * width + value.numel() * width
    return 2 * projections + 4 * query.numel() * key.shape[0]


def _recurrent(out: Any, x: Tensor, hidden: Any, weights: Any, *_: Any) -> int:
    """[L, N, E] or [N, L, E], or packed: each step multiplies by every weight matrix."""
    steps = x.numel() // x.shape[-1] if isinstance(weights, (list, tuple)) else 0
    return 2 * steps * sum(weight.numel() for weight in weights if weight.dim() == 2) if steps else 0


def _einsum(out: Tensor, equation: Any, *operands: Any) -> int:
    """Of two operands: the product of all sizes."""
    if not isinstance(equation, str) or len(operands) != 2 or "." in equation:
        return 0
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes = {
        letter: n for term, x in zip(terms, operands, strict=True) for letter, n in zip(term, x.shape, strict=True)
    }
    return 2 * math.prod(sizes.values())


FORMULAS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("linear", "matmul", "__matmul__", "mm", "bmm"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _added_product),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_convolution),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
    "einsum": _einsum,
}


class FlopCounter(TorchFunctionMode):
    """Within this, `add` is called with the FLOPs of each call of a function that is known."""

    def __init__(self, add: Callable[[int], None]) -> None:
        super().__init__()
        self.add = add

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := FORMULAS.get(getattr(func, "__name__", "")):
            self.add(formula(out, *args, *(kwargs or {}).values()))
        return out
