"""What is exported: predict_step as a module of plain tensors, with the preprocessing of images where it is wanted."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.engine.outputs import main_output
from utils.tensors import each_tensor, unwrap


class Pixels(nn.Module):
    """Images [B, C, H, W] of integers 0 ... max_value -> normalized by mean and std, which are of values 0 ... 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Any, std: Any, max_value: float) -> None:
        super().__init__()
        self.max_value = float(max_value)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() / self.max_value - self.mean) / self.std

    def inverse(self, images: Tensor) -> Tensor:
        """The integers that were normalized: uint8."""
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return ((images * std + mean) * self.max_value).round().clamp(0, self.max_value).to(torch.uint8)

    def about(self) -> dict[str, Any]:
        """For the metadata: the arguments of another like it."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist(), "max_value": self.max_value}

    @staticmethod
    def of(loader: Any) -> "Pixels | None":
        """As a loader normalizes images; None: it does not, or not in a way that is known."""
        found = getattr(loader, "normalization", None)
        if found is None:
            return None
        mean, std = (tuple(float(x) for x in part) for part in found)
        return Pixels(mean, std, getattr(loader.dataset, "max_value", 255))


class Predicting(nn.Module):
    """predict_step of a trainer, called with the tensors of its inputs one by one.

    example: inputs, by whose structure the tensors are put together again. half: compute in float16.
    """

    def __init__(self, trainer: Any, example: Any, pixels: Pixels | None, half: bool) -> None:
        super().__init__()
        self.model = unwrap(trainer.model)
        self.pixels, self.half_precision = pixels, half
        self._step, self._example = trainer.predict_step, each_tensor(lambda tensor: tensor[:0], example)

    def forward(self, *tensors: Tensor) -> Tensor:
        if self.pixels is not None:
            tensors = tuple(map(self.pixels, tensors))
        if self.half_precision:
            tensors = tuple(x.half() if x.is_floating_point() else x for x in tensors)
        output = main_output(self._step(together(self._example, tensors)))
        return output.float() if self.half_precision else output


class Bag(nn.Module):
    """nn.EmbeddingBag of tokens [B, T] by ordinary operations: ONNX has a loop over the samples for it."""

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.weight, self.mode, self.padding_idx = bag.weight, bag.mode, bag.padding_idx

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = F.embedding(tokens, self.weight)
        counts = torch.ones_like(tokens) if self.padding_idx is None else (tokens != self.padding_idx).long()
        total = (embedded * counts[..., None]).sum(dim=1)
        return total if self.mode == "sum" else total / counts.sum(dim=1, keepdim=True).clamp(min=1)


def without_bags(model: nn.Module) -> None:
    """Replace the EmbeddingBags of a model for which `Bag` does the same."""
    for name, child in model.named_children():
        if type(child) is nn.EmbeddingBag and child.mode != "max" and child.max_norm is None:
            setattr(model, name, Bag(child))
        else:
            without_bags(child)


def leaves(inputs: Any) -> list[Tensor]:
    """The tensors in the inputs of a model, in order."""
    found: list[Tensor] = []
    each_tensor(lambda tensor: found.append(tensor) or tensor, inputs)  # type: ignore[func-returns-value]
    return found


def together(example: Any, tensors: Any) -> Any:
    """The structure of the example, with these tensors in it."""
    remaining: Iterator[Tensor] = iter(tensors)
    return each_tensor(lambda _: next(remaining), example)


def layer_of(error: BaseException, model: nn.Module) -> str:
    """`, in the layer features.3 (Odd), model/model.py:17`: where in the model an error came up; "" if unknown."""
    names: Mapping[int, str] = {id(module): name for name, module in model.named_modules()}
    found = ""
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        trace = cause.__traceback__
        while trace is not None:
            module = trace.tb_frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in names and trace.tb_frame.f_code.co_name == "forward":
                code = trace.tb_frame.f_code
                name = names[id(module)] or "the model itself"
                found = f", in the layer {name} ({type(module).__name__}), {code.co_filename}:{trace.tb_lineno}"
            trace = trace.tb_next
        cause = cause.__cause__ or cause.__context__
    return found
