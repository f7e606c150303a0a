"""What is said after the traceback of an error that people often meet: each from code that really fails."""

import copy
import io
import json
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import train
from tests.tiny import CONFIG
from utils import exit_codes
from utils.troubleshooting.advice import KNOWN, advice, find
from utils.troubleshooting.known import Known

ROOT = Path(__file__).resolve().parents[3]
X = torch.ones
LABELS = torch.zeros(64, dtype=torch.long)


class Net(nn.Module):
    """Calls one layer, or a function of its input, as a model's part `body`."""

    def __init__(self, body: Callable) -> None:
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)


class NoReturn(nn.Module):
    def forward(self, x):
        x + 1


class FourSizes(nn.Module):
    def forward(self, x):
        b, c, h, w = x.shape
        return x.reshape(b, c * h * w)


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(1)


def three_parts():
    batch = [X(1), X(1), X(1)]
    inputs, targets = batch
    return inputs, targets


def item_first():
    number: Any = X(1).item()
    number.backward()


def tensor_for_channels():
    channels: Any = X(2)
    nn.Conv2d(channels, 8, 3)


class NoSuper(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(2, 2)


class NoSuperNoLayer(nn.Module):
    def __init__(self):
        self.size = 2


class Recursive(nn.Module):
    def forward(self, x):
        return self(x)


class Misspelled(nn.Module):
    def forwrad(self, x):
        return x


def backward_twice():
    w = X(3, requires_grad=True)
    loss = (w * w).sum()
    loss.backward()
    loss.backward()


def leaf_in_place():
    w = nn.Parameter(X(3))
    w.add_(1)


def needed_in_place():
    x = X(3, requires_grad=True).exp()
    x += 1
    x.sum().backward()


def nan_found():
    with torch.autograd.detect_anomaly(check_nan=True), warnings.catch_warnings():
        w = torch.zeros(1, requires_grad=True)
        (w.sqrt() * 0).sum().backward()


def loaded(state):
    nn.Sequential(nn.Linear(2, 2)).load_state_dict(state)


def other_optimizer():
    one, two = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    torch.optim.SGD(one.parameters(), lr=1.0).load_state_dict(torch.optim.SGD(two.parameters(), lr=1.0).state_dict())


def unpickled():
    file = io.BytesIO()
    torch.save({"model": nn.Linear(2, 2)}, file)
    file.seek(0)
    torch.load(file, weights_only=True)


def too_many_files():
    raise OSError(24, os.strerror(24))  # as open() raises it; a limit that low would break the test's process


def raises(error: Exception):
    def function():
        raise error

    return function


def called(function: Any, *wrong: Any):
    return lambda: function(*wrong)


def net(layer, *shape, dtype=torch.float32):
    return lambda: Net(layer)(torch.ones(shape, dtype=dtype))


def loss(function, outputs, targets):
    return lambda: function(outputs, targets)


FAILURES = {
    # of layers
    "linear": (net(nn.Linear(256, 10), 64, 128), "in_features=256; here it is 128", "nn.LazyLinear(10)"),
    "matmul": (net(lambda x: x @ X(5, 6), 3, 4), "product of 3x4 and 5x6", ".transpose(-2, -1)"),
    "channels": (net(nn.Conv2d(1, 8, 3), 4, 3, 8, 8), "made for 1 channels, but its input has 3", "in_channels=3"),
    "channels last": (
        net(nn.Conv2d(3, 8, 3), 4, 9, 8, 3),
        "[4, 9, 8, 3] have their 3 channels last",
        "movedim(-1, 1)",
    ),
    "no channels": (net(nn.Conv2d(1, 8, 3), 8, 28, 28), "channels is missing", "x.unsqueeze(1)"),
    "a shortcut": (net(lambda x: x + X(1, 16, 4, 4), 1, 8, 4, 4), "one has 8 and the other 16", "1x1 convolution"),
    "softmax": (net(nn.Softmax(dim=2), 4, 10), "no dimension 2: it must be in [-2, 1]", "dim=1"),
    "three means": (lambda: X(1, 8, 8).sub_(X(3, 1, 1)), "three means for grayscale", "Normalize((0.5,), (0.5,))"),
    "dimensions": (
        net(nn.Conv2d(1, 8, 3), 4, 8),
        "4D input is expected: [batch, channels, ...]",
        "unsqueeze",
    ),
    "batch norm": (net(nn.BatchNorm2d(3), 4, 8, 2, 2), "made for 3 channels, but its input has 8", "num_features=8"),
    "batch norm dimensions": (net(nn.BatchNorm2d(3), 4, 3), "expects 4D input, but got 2D", "BatchNorm1d for [B, C]"),
    "layer norm": (
        net(nn.LayerNorm(64), 4, 128),
        "last dimensions of 64, but its input is [4, 128]",
        "normalized_shape",
    ),
    "lstm": (
        net(nn.LSTM(10, 20), 4, 3, 20),
        "expects 10 features per time step, but its input has 20",
        "batch_first=True",
    ),
    "kernel": (
        net(nn.Conv2d(1, 1, 5), 1, 1, 3, 3),
        "too few pixels are left for the kernel: 3 x 3",
        "padding",
    ),
    "pooling": (net(nn.MaxPool2d(2), 1, 1, 1, 1), "for the kernel: 1x1x1", "fewer poolings"),
    "cat": (net(lambda x: torch.cat([x, x[..., :7]], 1), 1, 2, 8), "one is 8 and 7", "skip.shape[-2:]"),
    "view": (net(lambda x: x.transpose(1, 2).view(4, 30), 4, 5, 6), "view never copies", ".reshape(...)"),
    "view of another size": (
        net(lambda x: x.view(-1, 960), 8, 5, 4),
        "[-1, 960] needs another number of values than the 160",
        "flatten(1)",
    ),
    "transposed": (net(nn.ConvTranspose2d(16, 8, 2), 4, 8, 4, 4), "made for 16 channels, but its input has 8", "=8"),
    "sequences without channels": (net(nn.Conv1d(1, 8, 3), 4, 100), "channels is missing", "[B, T] to [B, 1, T]"),
    "pooling of a vector": (net(nn.MaxPool2d(2), 4), "4D input is expected", "x.unsqueeze(1)"),
    "upsample": (net(nn.Upsample(scale_factor=2, mode="bilinear"), 2, 3, 8), "4D input is expected", "x.unsqueeze(1)"),
    "group norm": (net(nn.GroupNorm(2, 6), 2, 8, 4, 4), "made for 6 channels", "layer before it"),
    "prelu": (net(nn.PReLU(4), 2, 3), "made for 4 channels, but its input has another number: 3", "layer before it"),
    "images to an lstm": (net(nn.LSTM(8, 20), 4, 3, 8, 8), "but its input is 4D", "x.flatten(2)"),
    "state of another batch": (
        lambda: nn.GRU(10, 20, batch_first=True)(X(4, 3, 10), X(1, 8, 20)),
        "here [1, 4, 20], but it is [1, 8, 20]",
        "x.shape[0]",
    ),
    "attention": (
        net(nn.TransformerEncoderLayer(16, 4), 2, 3, 8),
        "made for embed_dim=16, but its input has 8",
        "nn.Linear(8, 16)",
    ),
    "matrix and vector": (lambda: X(3, 4) @ X(3), "product of 3x4 and 3", ".T"),
    "batches of matrices": (
        lambda: X(2, 3, 4) @ X(2, 3, 4),
        "must begin with [2, 4], but it begins with [2, 3]",
        ".transpose(-2, -1)",
    ),
    "cat of images and features": (lambda: torch.cat([X(2, 3, 4), X(2, 5)], 1), "3 and 2 dimensions", "x.flatten(1)"),
    "fixed batch size": (
        lambda: X(8, 4).__setitem__(slice(8), X(5, 4)),
        "[5, 4] does not fit into [8, 4]",
        "x.shape[0]",
    ),
    "too many indices": (lambda: X(3)[:, 0], "fewer dimensions", "x.unsqueeze(0)"),
    "loop over a number": (lambda: list(torch.tensor(3)), "fewer dimensions", ".item()"),
    # of a loss
    "no classes": (loss(F.cross_entropy, X(64), LABELS), "outputs have no dimension of classes", "BCEWithLogitsLoss"),
    "classes last": (
        loss(F.cross_entropy, X(8, 5, 3), LABELS[:40].view(8, 5)),
        "expected as [8, 3], but they are [8, 5]",
        "outputs.transpose(1, 2)",
    ),
    "void label": (
        loss(F.cross_entropy, X(1, 3, 8, 8), LABELS.view(1, 8, 8) + 255),
        "a label is 255; class numbers",
        "ignore_index=255",
    ),
    "ctc": (
        lambda: F.ctc_loss(X(10, 2, 5), X(2, 4), torch.tensor([10, 11]), torch.tensor([4, 4])),
        "input_lengths do not fit",
        "strides",
    ),
    "bce of labels": (loss(F.binary_cross_entropy, X(4) / 2, X(4) * 2), "labels such as 2", "targets between 0 and 1"),
    "a dict of outputs": (loss(F.cross_entropy, {"logits": X(2)}, LABELS), "string or dict came", "the tensor in it"),
    "a dict to mse": (loss(F.mse_loss, {"logits": X(2)}, X(2)), "string or dict came", "the tensor in it"),
    "an object of outputs": (loss(F.cross_entropy, slice(0), LABELS), "a slice came", "outputs.logits"),
    "batch size": (loss(F.cross_entropy, X(32, 10), LABELS), "returned 32 rows for 64 targets", "x.flatten(1)"),
    "labels [B, 1]": (loss(F.cross_entropy, X(64, 10), LABELS[:, None]), "class numbers [B]", "targets.squeeze(1)"),
    "a label per image": (
        loss(F.cross_entropy, X(64, 10, 8, 8), LABELS),
        "targets have 1 dimensions",
        "x.mean(dim=(2, 3))",
    ),
    "mask sizes": (
        loss(F.cross_entropy, X(1, 2, 8, 8), LABELS.view(1, 8, 8)[:, 1:]),
        "[1, 2, 8, 8] and targets [1, 7, 8]",
        "interpolate",
    ),
    "bce shapes": (
        loss(F.binary_cross_entropy_with_logits, X(4, 1), X(4)),
        "outputs are [4, 1] and targets [4]",
        "squeeze(1)",
    ),
    "bce shapes of probabilities": (
        loss(F.binary_cross_entropy, X(4, 1), X(4)),
        "outputs are [4, 1] and targets [4]",
        "squeeze(1)",
    ),
    "one-hot": (loss(F.cross_entropy, X(64, 10), F.one_hot(LABELS, 10)), "class numbers [B]", "targets.argmax(1)"),
    "labels are names": (loss(F.cross_entropy, X(1, 2), ("cat",)), "targets are a tuple", "class_names.index(name)"),
    "label too large": (
        loss(F.cross_entropy, X(64, 10), LABELS + 10),
        "a label is 10, but the model has 10 outputs or fewer",
        "arch.args.num_classes",
    ),
    "negative label": (loss(F.cross_entropy, X(64, 10), LABELS - 1), "a label is -1", "loss.args.ignore_index=-1"),
    "float labels": (
        loss(F.cross_entropy, X(64, 10), X(64)),
        "int64 (long), but the targets are Float",
        "targets.long()",
    ),
    "int labels": (loss(F.nll_loss, X(64, 10), LABELS.int()), "the targets are Int", "targets.long()"),
    "long for bce": (
        loss(F.binary_cross_entropy_with_logits, X(64), LABELS),
        "expects floating-point targets",
        "targets.float()",
    ),
    "bce of logits": (loss(F.binary_cross_entropy, X(4) * 5, X(4)), "outside 0..1", "BCEWithLogitsLoss"),
    # of values
    "float64": (net(nn.Linear(4, 2), 3, 4, dtype=torch.float64), "float64 (NumPy's default)", "astype(np.float32)"),
    "float64 images": (net(nn.Conv2d(1, 2, 3), 1, 1, 5, 5, dtype=torch.float64), "float64", "tensor.float()"),
    "float64 to batch norm": (net(nn.BatchNorm1d(3), 4, 3, dtype=torch.float64), "float64", "tensor.float()"),
    "float64 to an lstm": (
        net(nn.LSTM(4, 2), 3, 2, 4, dtype=torch.float64),
        "inputs are float64",
        "tensor.float()",
    ),
    "uint8": (net(nn.Conv2d(3, 2, 3), 1, 3, 5, 5, dtype=torch.uint8), "uint8 (0..255)", "/ 255"),
    "uint8, no bias": (net(nn.Conv2d(3, 2, 3, bias=False), 1, 3, 5, 5, dtype=torch.uint8), "uint8", "/ 255"),
    "uint8 to linear": (net(nn.Linear(4, 2), 3, 4, dtype=torch.uint8), "uint8", "/ 255"),
    "integers": (net(nn.Linear(4, 2), 3, 4, dtype=torch.long), "these inputs are integers", "nn.Embedding"),
    "half": (
        net(nn.Linear(4, 2), 3, 4, dtype=torch.half),
        "16-bit values meet 32-bit weights",
        "trainer.precision=bf16",
    ),
    "embedding of floats": (net(nn.Embedding(5, 2), 4), "looks up integers, but these are Float", "tensor.long()"),
    "three of two": (three_parts, "2 values were expected", "def unpack(self, batch)"),
    "three sizes": (lambda: FourSizes()(X(2, 3, 4)), "4 values were expected on that line", "x.shape"),
    "one sequence": (net(nn.Conv1d(1, 4, 3), 1, 8, 100), "its input has 8", "in_channels=8"),
    "the key of a dict batch": (lambda: Flat()("image"), "takes the keys", "def unpack(self, batch)"),
    "a key to a layer": (lambda: Net(nn.Linear(4, 2))("image"), "takes the keys", "def unpack(self, batch)"),
    "a key to a convolution": (lambda: Net(nn.Conv2d(1, 2, 3))("image"), "takes the keys", "def unpack(self, batch)"),
    "strings": (lambda: torch.tensor(["a"]), "cannot hold strings", "class_names.index(name)"),
    "objects": (lambda: torch.from_numpy(np.array([1, "a"], object)), "not numeric", "df.dtypes"),
    "ragged": (lambda: torch.tensor([[1, 2], [3]]), "different lengths, 2 and 1", "pad_sequence"),
    "PIL images": (lambda: torch.utils.data.default_collate([Image.new("L", (2, 2))]), "PIL image", "ToTensor()"),
    "returns None": (lambda: torch.utils.data.default_collate([None]), "__getitem__ returned None", "`return`"),
    "embedding index": (
        lambda: Net(nn.Embedding(5, 2))(torch.tensor([5])),
        "a row that it does not have",
        "num_embeddings",
    ),
    "one_hot": (lambda: F.one_hot(torch.tensor([3]), 3), "not below num_classes", "largest label + 1"),
    "mean of integers": (lambda: LABELS.mean(), "mean of integers", ".float().mean()"),
    "nan": (
        # torch.compile turns validation off for the whole process
        lambda: torch.distributions.Categorical(logits=X(3) * torch.nan, validate_args=True),
        "there is NaN",
        "trainer.clip_grad_norm=1",
    ),
    "nan in backward": (nan_found, "there is NaN", "log(0)"),
    "negative std": (
        lambda: torch.distributions.Normal(X(2), -X(2), validate_args=True),
        "scale of Normal",
        "softplus",
    ),
    "half weights": (net(nn.Linear(4, 2).half(), 3, 4), "16-bit values meet 32-bit", "trainer.precision=bf16"),
    "integers by floats": (lambda: LABELS[None] @ X(64, 2), "these inputs are integers", "tensor.float()"),
    "softmax of integers": (lambda: LABELS.softmax(0), "softmax", ".float()"),
    "flipped array": (lambda: torch.from_numpy(np.ones((3, 3))[::-1]), "flipped without a copy", "ascontiguousarray"),
    "a missing value": (lambda: torch.tensor([1, None]), "strings or None", "float('nan')"),
    "an object in a batch": (lambda: torch.utils.data.default_collate([Path()]), "made of pathlib", "collate_fn"),
    "an array of strings": (lambda: torch.utils.data.default_collate([np.array(["a"])]), "not numeric", "df.dtypes"),
    "lists in a batch": (lambda: torch.utils.data.default_collate([[1, 2], [1]]), "different lengths", "pad_sequence"),
    "index": (lambda: X(3)[torch.tensor([5])], "index 5 was asked of dimension 0, which has size 3", "start at 1"),
    "mask": (lambda: X(3)[X(4).bool()], "a mask [4] selects from a tensor [3]", "targets != -1"),
    "index of floats": (lambda: X(3)[X(2)], "an index must be an integer", "indices.long()"),
    "bfloat16 to numpy": (lambda: X(3).bfloat16().numpy(), "no bfloat16", ".float().numpy()"),
    # of a training step
    "a part in place": (lambda: X(4, requires_grad=True).exp().chunk(2)[0].add_(1), "Split returned", ".clone()"),
    "a copy of a module with a result": (
        lambda: copy.deepcopy(X(3, requires_grad=True) * 2),
        "keeps the result of a layer",
        "x.detach()",
    ),
    "a tensor as a weight": (lambda: setattr(nn.Linear(2, 2), "weight", X(2, 2)), "only a Parameter", "copy_(tensor)"),
    "backward twice": (backward_twice, "whose graph was freed", "state.detach()"),
    "leaf in place": (leaf_in_place, "a parameter was changed in place", "torch.no_grad()"),
    "needed in place": (needed_in_place, "needs a tensor [3], the output of Exp", "x = x + 1"),
    "no scalar": (lambda: X(3, requires_grad=True).exp().backward(), "starts from one number", "loss.mean()"),
    "integer parameter": (lambda: nn.Parameter(LABELS), "made from integers", "floating-point"),
    "no gradient": (lambda: X(3).sum().backward(), "does not depend on any weight", "requires_grad"),
    "item before backward": (item_first, "a plain number", "keep the tensor"),
    "numpy of a gradient": (lambda: X(3, requires_grad=True).numpy(), "NumPy cannot hold", "detach().cpu().numpy()"),
    # of a model
    "no super().__init__()": (NoSuper, "does not set up nn.Module", "super().__init__()"),
    "no return": (lambda: Net(nn.Linear(2, 2))(NoReturn()(X(2))), "a forward without `return`", "returns its result"),
    "no return, shape": (lambda: Flat()(None), "a NoneType came where a tensor", "return the result of forward"),
    "no return, loss": (loss(F.cross_entropy, None, LABELS), "a forward without `return`", "returns its result"),
    "no return, conv": (lambda: nn.Conv2d(1, 1, 1)(None), "None came", "returns its result"),
    "lstm's tuple": (lambda: nn.Linear(20, 2)(nn.LSTM(10, 20)(X(4, 3, 10))), "a tuple came", "output, state = "),
    "an array": (lambda: nn.Linear(2, 2)(np.zeros((1, 2))), "an array or list came", "torch.as_tensor"),
    "no forward": (lambda: Misspelled()(X(1)), "Misspelled has no method forward", "spelling"),
    "module list": (lambda: nn.ModuleList([nn.Linear(2, 2)])(X(2)), "a ModuleList only holds layers", "nn.Sequential"),
    "one sample": (net(nn.BatchNorm1d(3), 1, 3), "the input is [1, 3]", "GroupNorm"),
    "plain list": (lambda: torch.optim.SGD([], lr=1.0), "no parameters that are registered", "nn.ModuleList"),
    "if": (lambda: bool(X(3)), "this tensor has several", ".all()"),
    "item": (lambda: X(3).item(), "this tensor has several", ".mean().item()"),
    "format": (lambda: f"{X(3):.3f}", "f'{x:.3f}' need one value", ".mean().item()"),
    "no super().__init__(), no layer": (lambda: NoSuperNoLayer()(X(2)), "does not set up nn.Module", "super()"),
    "a list in Sequential": (called(nn.Sequential, [nn.ReLU()]), "but list is none", "nn.Sequential(*layers)"),
    "a layer without brackets": (called(nn.Sequential, nn.ReLU), "activation.ReLU is none", "nn.ReLU(), with"),
    "a quotient as a size": (called(nn.Conv2d, 3, 16 / 2, 3), "/ makes one", "channels // 2"),
    "a view of a quotient": (called(X(2, 4).view, 2, 4 / 2, 2), "/ makes one", "channels // 2"),
    "arguments of forward": (net(nn.MultiheadAttention(4, 2), 2, 4), "MultiheadAttention is called", "(x, x, x)"),
    "recursion": (lambda: Recursive()(X(2)), "calls itself", "self.layer(x)"),
    "None": (lambda: NoReturn()(X(2)) + X(2), "None came", "returns its result"),
    "lstm's tuple in a sum": (lambda: nn.LSTM(10, 20)(X(4, 3, 10)) + X(1), "a tuple came", "output, state = "),
    # of checkpoints
    "a file's name as state": (lambda: loaded("model.pth"), "neither a file's name", "torch.load(FILE"),
    "an optimizer of another model": (other_optimizer, "saved with other parameters", "init_from=FILE"),
    "half a file": (
        lambda: torch.load(io.BytesIO(b"PK\x03\x04...."), weights_only=True),
        "no complete checkpoint",
        "git lfs pull",
    ),
    "a web page": (lambda: torch.load(io.BytesIO(b"<html>"), weights_only=True), "is a web page", "git lfs pull"),
    "module.": (
        lambda: loaded({"module.0.weight": X(2, 2), "module.0.bias": X(2)}),
        "begins with `module.`",
        "removeprefix('module.')",
    ),
    "compiled": (lambda: loaded({"_orig_mod.0.weight": X(2, 2)}), "begins with `_orig_mod.`", "init_from=FILE"),
    "another size": (
        lambda: loaded({"0.weight": X(3, 2), "0.bias": X(2)}),
        "`0.weight` is [3, 2] in the file, but [2, 2]",
        "init_from",
    ),
    "other names": (
        lambda: loaded({"0.weight": X(2, 2), "more": X(1)}),
        "not those of this Sequential",
        "init_from=FILE",
    ),
    "a whole model": (unpickled, "could run any code", "model.state_dict()"),
    # of the machine
    "memory": (lambda: torch.empty(1 << 50), "no memory (RAM) for 4503599627370496", "trainer.accumulate=2"),
    "lambda": (lambda: pickle.dumps(lambda x: x), "a lambda or a function inside of a function", "functools.partial"),
    "stack": (lambda: torch.utils.data.default_collate([X(3), X(4)]), "one batch: [3] and [4]", "pad_sequence"),
    "files": (too_many_files, "may not open more files", "ulimit -n"),
}

# These need a GPU, another machine or a crash: the texts that torch gives then
TEXTS = {
    "another device": (RuntimeError("Tensor on device cpu is not on the expected device meta!"), "register_buffer"),
    "out of memory on a GPU": (
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.5 GiB"
        ),
        "trainer.accumulate=2",
    ),
    "device-side assert": (
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might"),
        "-d cpu",
    ),
    "illegal memory": (RuntimeError("CUDA error: an illegal memory access was encountered"), "-d cpu"),
    "a GPU in workers": (RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use"), "no .cuda()"),
    "a pinned GPU tensor": (RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU"), "no .cuda()"),
    "no guard": (RuntimeError("\n        An attempt has been made to start a new process before the"), "__main__"),
    "files of workers": (RuntimeError("Too many open files. Communication with the workers is no"), "ulimit -n"),
    "out of memory on a Mac": (RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB"), "accumulate=2"),
    "memory of NumPy": (MemoryError("Unable to allocate 8.00 PiB for an array with shape (1,)"), "8.00 PiB more"),
    "two devices": (
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        "different devices",
    ),
    "no driver": (RuntimeError("Found no NVIDIA driver on your system. Please check"), "finds none here"),
    "not compiled": (AssertionError("Torch not compiled with CUDA enabled"), "finds none here"),
    "numpy of a GPU's": (
        TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy"),
        "this tensor is on cuda",
    ),
    "a GPU's checkpoint": (
        RuntimeError("Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False. If"),
        "map_location='cpu'",
    ),
    "shared memory": (
        RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode"),
        "--shm-size",
    ),
    "ancdata": (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
    "worker": (RuntimeError("DataLoader worker (pid 123) is killed by signal: Killed. "), "fewer num_workers"),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "-d cpu"),
    "an image of another size, timm": (AssertionError("Input height (64) doesn't match model (224)."), "img_size=64 "),
    "two processes on a GPU": (
        torch.distributed.DistBackendError("NCCL error in: x.cpp:93\nDuplicate GPU detected : rank 1 and rank 0 both"),
        "as many processes as GPUs",
    ),
    "a kernel that is not deterministic": (
        RuntimeError("nll_loss2d_forward_out_cuda_template does not have a deterministic implementation, but you set"),
        "nll_loss2d_forward_out_cuda_template does",
    ),
    "old gpu": (
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        "--torch-backend",
    ),
}


def failure(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except Exception as e:
        return e
    raise AssertionError("it did not fail")


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in")
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_explained(name):
    function, means, tries = FAILURES[name]
    lines = (advice(failure(function)) or "").splitlines()
    assert 2 <= len(lines) <= 3
    assert lines[0].startswith("what it means: ")
    assert means in lines[0]
    assert lines[-1].startswith("what to try: ")
    assert tries in lines[-1]
    assert "{1}" not in "".join(lines)


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_torch_is_explained(name):
    error, part = TEXTS[name]
    assert part in (advice(failure(raises(error))) or "")


def found(error: BaseException) -> Known | None:
    return find(error, [frame for frame, _ in traceback.walk_tb(error.__traceback__)])[0]


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in")
def test_each_entry_is_met():
    """Nothing in the lists that no test provokes."""
    functions = [function for function, *_ in FAILURES.values()] + [raises(error) for error, _ in TEXTS.values()]
    met = [found(failure(function)) for function in functions]
    assert [known.pattern for known in KNOWN if known not in met] == []


UNRELATED = [
    ValueError("invalid literal for int() with base 10: 'x'"),
    KeyError("mat1"),
    RuntimeError("Target 3 is out of bounds."),  # torch raises an IndexError
    IndexError("list index out of range"),
    AttributeError("'NoneType' object has no attribute 'group'"),
    AttributeError("'dict' object has no attribute 'append'"),
    AttributeError("'dict' object has no attribute 'device'"),  # in plain Python, without a layer or a tensor
    AttributeError("'NoneType' object has no attribute 'shape'"),
    AttributeError("module 'torch' has no attribute 'layer'"),
    TypeError("forward() takes 2 positional arguments but 3 were given"),
    OSError(2, "No such file or directory: 'Too many open files'"),
    AssertionError(),
    ZeroDivisionError("division by zero"),
    MemoryError(),
    RuntimeError(""),
    RuntimeError("my own words: CUDA out of memory. Tried to allocate 2.00 GiB"),
]


@pytest.mark.parametrize("error", UNRELATED, ids=repr)
def test_nothing_is_said_of_other_errors(error):
    assert advice(failure(raises(error))) is None
    assert exit_codes.advice(failure(raises(error))) == ""


class Ragged(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X(index + 1)


def test_an_error_of_a_worker():
    """Its own traceback counts, not the one of the process that waits for it."""
    lines = advice(failure(lambda: list(torch.utils.data.DataLoader(Ragged(), 2, num_workers=1))))
    assert "cannot be stacked into one batch: [1] and [2]" in (lines or "")


def test_variables_of_a_file_are_not_shown(tmp_path):
    code = compile("import torch\nx = torch.ones(3)\ny = torch.ones(2, 3) @ torch.ones(2, 3)", "script.py", "exec")
    assert "float32" not in (advice(failure(lambda: exec(code, {}))) or "float32")


def test_the_layer_decides():
    """Outside of a Linear layer, nothing is said of in_features."""
    assert "in_features" not in (advice(failure(lambda: F.linear(X(64, 128), X(10, 256)))) or "")


def test_a_layer_whose_init_failed_is_named():
    lines = advice(failure(tensor_for_channels)) or ""
    assert "line" in lines.splitlines()[1]
    assert "Conv2d" in lines.splitlines()[1]


def test_where_it_happened():
    """The user's line, the layer by its name in the model, and its inputs."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(7, 3)))
    error = failure(lambda: Net(model)(X(5, 4)))
    where = (advice(error) or "").splitlines()[1]
    assert where.endswith(
        "test_advice.py; layer body.1.1 (Linear(in_features=7, out_features=3, bias=True)); there input float32 [5, 8]"
    )
    assert f"line {Net.forward.__code__.co_firstlineno + 1} of " in where


def test_advice_never_fails():
    class Odd(nn.Linear):
        def extra_repr(self):
            raise ValueError("odd")

    class Unprintable(RuntimeError):
        def __str__(self):
            raise ValueError("odd")

    Odd.__name__ = "Linear"
    assert exit_codes.advice(failure(lambda: Odd(3, 4)(X(2, 2)))) == ""
    assert exit_codes.advice(failure(raises(Unprintable()))) == ""


def test_torch_is_not_imported():
    code = "import sys; from utils.exit_codes import advice\n"
    code += "try: open('no such file')\nexcept OSError as e: assert advice(e) == ''\n"
    code += "assert 'ulimit' in advice(OSError(24, 'Too many open files')); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_a_notebook_shows_it_too():
    """What a cell shows of an error that train.run raises is its traceback, with notes."""
    with pytest.raises(RuntimeError) as e, exit_codes.explained():
        Net(nn.Linear(256, 10))(X(64, 128))
    shown = "".join(traceback.format_exception(e.value))
    assert shown.splitlines()[-3].startswith("what it means: this layer expects inputs whose last dimension")
    assert shown == exit_codes.traceback_of(e.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_train_run_explains(tmp_path):
    config = copy.deepcopy(CONFIG)
    config["arch"]["args"]["in_features"] = 10
    config["trainer"]["save_dir"] = str(tmp_path)
    with pytest.raises(RuntimeError) as e:
        train.run(config)
    assert "".join(traceback.format_exception(e.value)).count("what it means: ") == 1


def test_an_error_that_is_not_known_stays_as_it_is():
    with pytest.raises(KeyError) as e, exit_codes.explained():
        raise KeyError("a")
    assert not hasattr(e.value, "__notes__")


def test_the_end_of_a_run(run, tmp_path):
    """train.py prints the whole traceback, then the advice, once; the exit code stays 1."""
    config = copy.deepcopy(CONFIG)
    config["arch"]["args"]["in_features"] = 10
    (tmp_path / "c.json").write_text(json.dumps(config))
    done = run("train.py", "-c", "c.json")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert done.stderr.count("what it means: ") == 1
    assert lines[-5].startswith("RuntimeError: ")
    assert lines[-4] == ""
    assert lines[-3] == "what it means: this layer expects inputs whose last dimension is in_features=10; here it is 64"
    assert lines[-2].endswith(
        "layer layers.0 (Linear(in_features=10, out_features=16, bias=True)); there input float32 [28, 64]"
    )
    assert lines[-1].startswith("what to try: in_features=64; or nn.LazyLinear(16)")
