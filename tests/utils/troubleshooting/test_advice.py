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
        "permute(0, 3, 1, 2)",
    ),
    "no channels": (net(nn.Conv2d(1, 8, 3), 8, 28, 28), "channels is missing", "x.unsqueeze(1)"),
    "a shortcut": (net(lambda x: x + X(1, 16, 4, 4), 1, 8, 4, 4), "one has 8 and the other 16", "1x1 convolution"),
    "softmax": (net(nn.Softmax(dim=2), 4, 10), "no dimension 2: it must be in [-2, 1]", "dim=1"),
    "three means": (lambda: X(1, 8, 8).sub_(X(3, 1, 1)), "three means for grayscale", "Normalize((0.5,), (0.5,))"),
    "dimensions": (
        net(nn.Conv2d(1, 8, 3), 4, 8),
        "conv2d expects 4D input: [batch, channels, ...]; here it is [4, 8]",
        "unsqueeze",
    ),
    "batch norm": (net(nn.BatchNorm2d(3), 4, 8, 2, 2), "made for 3 channels, but its input has 8", "num_features=8"),
    "batch norm dimensions": (net(nn.BatchNorm2d(3), 4, 3), "expects 4D input, but got 2D", "BatchNorm1d for [B, C]"),
    "layer norm": (
        net(nn.LayerNorm(64), 4, 128),
        "last dimension of 64, but its input is [4, 128]",
        "normalized_shape",
    ),
    "lstm": (
        net(nn.LSTM(10, 20), 4, 3, 20),
        "expects 10 features per time step, but its input has 20",
        "batch_first=True",
    ),
    "kernel": (
        net(nn.Conv2d(1, 1, 5), 1, 1, 3, 3),
        "only 3 x 3 pixels are left, fewer than the kernel of 5 x 5",
        "padding",
    ),
    "pooling": (net(nn.MaxPool2d(2), 1, 1, 1, 1), "channels x height x width = 1x1x1", "fewer poolings"),
    "cat": (net(lambda x: torch.cat([x, x[..., :7]], 1), 1, 2, 8), "one is 8 and 7", "skip.shape[-2:]"),
    "view": (net(lambda x: x.transpose(1, 2).view(4, 30), 4, 5, 6), "view never copies", ".reshape(...)"),
    "view of another size": (
        net(lambda x: x.view(-1, 960), 8, 5, 4),
        "[-1, 960] needs another number of values than the 160",
        "flatten(1)",
    ),
    # of a loss
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
        "inputs are float64, but the weights are float32",
        "to(torch.float32)",
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
    # of a training step
    "backward twice": (backward_twice, "whose graph was freed", "state.detach()"),
    "leaf in place": (leaf_in_place, "a parameter was changed in place", "torch.no_grad()"),
    "needed in place": (needed_in_place, "needs a tensor [3], the output of Exp", "x = x + 1"),
    "no scalar": (lambda: X(3, requires_grad=True).exp().backward(), "starts from one number", "loss.mean()"),
    "integer parameter": (lambda: nn.Parameter(LABELS), "made from integers", "floating-point"),
    "no gradient": (lambda: X(3).sum().backward(), "does not depend on any weight", "requires_grad"),
    "item before backward": (item_first, "a plain number", "keep the tensor"),
    "numpy of a gradient": (lambda: X(3, requires_grad=True).numpy(), "NumPy cannot hold", "detach().cpu().numpy()"),
    # of a model
    "no super().__init__()": (NoSuper, "before nn.Module is set up", "super().__init__()"),
    "no return": (lambda: Net(nn.Linear(2, 2))(NoReturn()(X(2))), "a forward without `return`", "returns its result"),
    "no return, loss": (loss(F.cross_entropy, None, LABELS), "a forward without `return`", "returns its result"),
    "no return, conv": (lambda: nn.Conv2d(1, 1, 1)(None), "None came", "returns its result"),
    "lstm's tuple": (lambda: nn.Linear(20, 2)(nn.LSTM(10, 20)(X(4, 3, 10))), "a tuple came", "output, state = "),
    "an array": (lambda: nn.Linear(2, 2)(np.zeros((1, 2))), "an array or list came", "torch.as_tensor"),
    "no forward": (lambda: Misspelled()(X(1)), "Misspelled has no method forward", "spelling"),
    "module list": (lambda: nn.ModuleList([nn.Linear(2, 2)])(X(2)), "a ModuleList only holds layers", "nn.Sequential"),
    "one sample": (net(nn.BatchNorm1d(3), 1, 3), "the input is [1, 3]", "GroupNorm"),
    "plain list": (lambda: torch.optim.SGD([], lr=1.0), "no parameters that are registered", "nn.ModuleList"),
    "if": (lambda: bool(X(3)), "this tensor has several", ".all()"),
    "item": (lambda: X(3).item(), "this tensor has 3", ".mean().item()"),
    # of checkpoints
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
        "no 2.00 GiB free",
    ),
    "device-side assert": (
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might"),
        "-d cpu",
    ),
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


def test_the_end_of_a_run(run, tmp_path):
    """train.py prints the whole traceback, then the advice; the exit code stays 1."""
    config = copy.deepcopy(CONFIG)
    config["arch"]["args"]["in_features"] = 10
    (tmp_path / "c.json").write_text(json.dumps(config))
    done = run("train.py", "-c", "c.json")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-5].startswith("RuntimeError: ")
    assert lines[-4] == ""
    assert lines[-3] == "what it means: this layer expects inputs whose last dimension is in_features=10; here it is 64"
    assert lines[-2].endswith(
        "layer layers.0 (Linear(in_features=10, out_features=16, bias=True)); there input float32 [28, 64]"
    )
    assert lines[-1].startswith("what to try: in_features=64; or nn.LazyLinear(16)")
