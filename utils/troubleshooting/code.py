"""Mistakes in a model or a training step, and checkpoints of another model."""

from utils.troubleshooting.known import Known
from utils.troubleshooting.values import OF_TENSORS

GRADIENTS = [
    Known(
        r"RuntimeError: Trying to backward through the graph a second time",
        "backward reached values of an earlier step or pass, whose graph was freed: a state was kept, such as an RNN's "
        "hidden state or a running loss",
        "state.detach() before you keep it; loss.item() or loss.detach() for sums to be logged; two losses of one "
        "graph: add them, and call self.backward once",
    ),
    Known(
        r"RuntimeError: a (?:view of a )?leaf Variable that requires grad is being used in an in-place operation",
        "a parameter was changed in place (+=, x[i] = ..., add_), which autograd cannot follow",
        "with torch.no_grad(): around the change, if it initializes weights; otherwise a new tensor: w = w + 1",
    ),
    Known(
        r"RuntimeError: one of the variables needed for gradient computation has been modified by an inplace operation:"
        r" \[[\w.]+ (\[.*?\])\], which is output \d+ of (\w+)",
        "the backward pass needs a tensor {1}, the output of {2}, that was changed in place (+=, x[i] = ..., "
        "inplace=True), or weights that an optimizer changed before backward",
        "x = x + 1 in place of x += 1, no inplace=True after that operation; all backward passes before "
        "the update that changes their weights. with torch.autograd.set_detect_anomaly(True): around the step names "
        "the line",
    ),
    Known(
        r"RuntimeError: Output \d+ of (\w+?)(?:Backward\d*)? is a view and is being modified inplace",
        "a part that {1} returned was changed in place, which autograd cannot follow for several parts of one tensor",
        "x = x + 1 in place of x += 1; or .clone() before the change",
    ),
    Known(
        r"RuntimeError: grad can be implicitly created only for scalar outputs",
        "backward starts from one number, but this loss has one value per sample or per output",
        "loss.mean(); or self.backward(loss), which takes the mean over samples",
    ),
    Known(
        r"RuntimeError: element \d+ of tensors does not require grad and does not have a grad_fn",
        "the loss does not depend on any weight that is trained: it was computed within no_grad, from .detach(), "
        ".item(), argmax or NumPy values, or all parameters are frozen",
        "compute the loss from the model's outputs by differentiable operations; check requires_grad of the parameters",
    ),
    Known(
        r"AttributeError: '(float|int)' object has no attribute '(?:backward|detach)'",
        "this is a plain number, from which no gradient can be computed: .item() or float() was called before",
        "keep the tensor for backward, and call .item() only on what is printed or logged",
    ),
    Known(
        r"RuntimeError: Can't call numpy\(\) on Tensor that requires grad",
        "NumPy cannot hold what autograd needs",
        "tensor.detach().cpu().numpy(), for what is logged or drawn; not inside of what is to be trained",
    ),
    Known(
        r"RuntimeError: Only Tensors of floating point and complex dtype can require gradients",
        "a parameter was made from integers",
        "floating-point values: torch.tensor([1.0]), or .float()",
    ),
    Known(
        r"RuntimeError: Only Tensors created explicitly by the user \(graph leaves\) support the deepcopy protocol",
        "a module is copied that keeps the result of a layer, such as self.x = self.layer(...)",
        "a local variable in forward; or self.x = x.detach()",
    ),
    Known(
        r"ValueError: can't optimize a non-leaf Tensor|TypeError: cannot assign '\S+' as parameter",
        "a tensor takes the place of a parameter, but only a Parameter is one",
        "nn.Parameter(tensor); or with torch.no_grad(): layer.weight.copy_(tensor)",
    ),
]

MODELS = [
    Known(
        r"AttributeError: cannot assign (\w+) before Module\.__init__\(\) call|"
        r"AttributeError: '\w+' object has no attribute '_(?:\w+_hooks|modules|parameters|buffers)'",
        "a module's __init__ does not set up nn.Module first",
        "super().__init__() as the first line of __init__",
    ),
    Known(
        r"TypeError: (\S+) is not a Module subclass",
        "a Sequential takes layers, one after the other, but {1} is none",
        "nn.Sequential(*layers) for a list; nn.ReLU(), with its brackets, in place of nn.ReLU or F.relu",
    ),
    Known(
        r"TypeError: \w+\(\): argument '\w+' (?:\(position \d+\) must be tuple of ints|failed to unpack the).*float|"
        r"TypeError: empty\(\) received an invalid combination of arguments - got \(tuple, dtype",  # torch 2.11
        "a size is a floating-point number: / makes one of two integers, too",
        "// in place of /, such as channels // 2",
    ),
    Known(
        r"TypeError: (\w+)\.forward\(\) (?:missing|takes) ",
        "{1} is called with another number of arguments than its forward has",
        "nn.MultiheadAttention takes (x, x, x); the trainer calls model(inputs): give forward one argument, or "
        "override train_step, eval_step and predict_step in your trainer",
    ),
    Known(
        r"RecursionError: maximum recursion depth exceeded",
        "a function calls itself without an end, or a module is a part of itself",
        "self.layer(x), not self(x), within forward; a module must not keep the one that holds it",
    ),
    Known(
        r'NotImplementedError: Module \[(ModuleList|ModuleDict)\] is missing the required "forward" function',
        "a {1} only holds layers; it cannot be called",
        "for layer in self.layers: x = layer(x); or nn.Sequential, which calls them one after the other",
    ),
    Known(
        r'NotImplementedError: Module \[(\w+)\] is missing the required "forward" function',
        "{1} has no method forward",
        "check the spelling of `forward` and its indentation: it must be inside the class, beside __init__",
    ),
    Known(
        rf"AttributeError: '(NoneType|tuple|list|numpy\.ndarray)' object has no attribute '{OF_TENSORS}",
        "a {1} came where a tensor is expected. A forward without `return` gives None, nn.LSTM, nn.GRU and "
        "nn.MultiheadAttention give a tuple",
        "return the result of forward; output, state = self.lstm(x); "
        "torch.as_tensor(x) of an array; torch.stack(x) of a list of tensors",
        at=".+",
    ),
    Known(
        r"TypeError: (?:\w+\(\): argument '\w+' \(position \d+\) must be Tensor, not NoneType|"
        r"\w+\(\) received an invalid combination of arguments - got \(NoneType, |unsupported operand type\(s\) for "
        r".*'NoneType' and 'Tensor'|.*'Tensor' and 'NoneType')",
        "None came where a tensor was expected: most often, a forward without `return`, or a file that was not read",
        "check that every forward, transform and loss on the way returns its result; cv2.imread returns None where "
        "there is no image",
    ),
    Known(
        r"TypeError: \w+\(\): argument 'target' \(position \d+\) must be Tensor, not (tuple|list)",
        "the targets are a {1}: of strings, or of tensors that were not stacked into one",
        "in the data set's __getitem__, return a number in place of a name: class_names.index(name)",
    ),
    Known(
        r"TypeError: (?:\w+\(\): argument '\w+' \(position \d+\) must be Tensor, not tuple|"
        r"\w+\(\) received an invalid combination of arguments - got \(tuple, |can only concatenate tuple|"
        r"unsupported operand type\(s\) for \S+ 'Tensor' and 'tuple')",
        "a tuple came where a tensor was expected: nn.LSTM, nn.GRU and nn.MultiheadAttention return (output, more)",
        "output, state = self.lstm(x); then pass on output. An LSTM's state is (h, c), a GRU's is h",
    ),
    Known(
        r"TypeError: (?:\w+\(\): argument '\w+' \(position \d+\) must be Tensor, not (numpy\.ndarray|ndarray|list)|"
        r"\w+\(\) received an invalid combination of arguments - got \((?:numpy\.ndarray|list), )",
        "an array or list came where a tensor was expected",
        "torch.as_tensor(x, dtype=torch.float32) in the data set's __getitem__; torch.stack(x) for a list of tensors",
    ),
    Known(
        r"TypeError: \w+\(\): argument '\w+' \(position \d+\) must be Tensor, not (\w+)",
        "a {1} came where a tensor was expected",
        "of a model that returns an object, the tensor in it: outputs.logits; a layer is made before it is called: "
        "nn.ReLU()(x)",
    ),
    Known(
        r"ValueError: Expected more than 1 (?:value per channel|spatial element) when training, got input size "
        r"(?:torch\.Size\()?(\[.*?\])",
        "this layer cannot normalize a single value per channel: the input is {1}",
        "a batch of 2 or more samples per micro-batch and rank (batch_size, trainer.accumulate); or GroupNorm, "
        "LayerNorm",
    ),
    Known(
        r"ValueError: optimizer got an empty parameter list",
        "the model has no parameters that are registered",
        "nn.ModuleList([...]) in place of a plain list of layers; assign layers to self in __init__, not in forward",
    ),
    Known(
        r"RuntimeError: Boolean value of Tensor with more than one value is ambiguous",
        "`if`, `and`, `or` and `not` need one value, but this tensor has several",
        "(a == b).all() or .any(); & and | between conditions per value. A loss or layer is made before it is called: "
        "MSELoss()(x, y)",
    ),
    Known(
        r"RuntimeError: a Tensor with (\d+) elements cannot be converted to Scalar|"
        r"ValueError: only one element tensors|TypeError: unsupported format string passed to Tensor\.__format__",
        ".item(), float() and f'{x:.3f}' need one value, but this tensor has several",
        ".mean().item(), .tolist() for all of them, or index one: x[0].item(). torch.stack(list), not "
        "torch.tensor(list), for a list of tensors",
    ),
]

CHECKPOINTS = [
    Known(
        r"RuntimeError: Error\(s\) in loading state_dict for (\w+):.*Unexpected key\(s\) in state_dict: "
        r"\"(module|_orig_mod)\.",
        "these weights were saved from a model inside DataParallel or torch.compile: each name begins with `{2}.`",
        "init_from=FILE in the config removes it; by hand: {k.removeprefix('{2}.'): v for k, v in state.items()}",
    ),
    Known(
        r"RuntimeError: Error\(s\) in loading state_dict for (\w+):.*?size mismatch for ([\w.]+): copying a param with "
        r"shape torch\.Size\((\[.*?\])\) from checkpoint, the shape in current model is torch\.Size\((\[.*?\])\)",
        "`{2}` is {3} in the file, but {4} in this model: it was built with other arguments",
        "the arguments that the file was made with (in its `config`), or init_from=FILE, which leaves out what "
        "does not fit, such as a new classifier",
    ),
    Known(
        r"RuntimeError: Error\(s\) in loading state_dict for (\w+):",
        "the names in the file are not those of this {1}: other layers, or the file holds more than the weights",
        "init_from=FILE in the config reads common formats and lists what did not fit; look with: "
        "torch.load(FILE, weights_only=True).keys()",
    ),
    Known(
        r"TypeError: Expected state_dict to be dict-like, got",
        "load_state_dict takes a dict of tensors, neither a file's name nor a model",
        "model.load_state_dict(torch.load(FILE, weights_only=True)); or init_from=FILE in the config",
    ),
    Known(
        r"ValueError: loaded state dict (?:has|contains)",
        "this optimizer's state was saved with other parameters: another model, other groups or other frozen layers",
        "the config that the file was made with; or load only the weights: init_from=FILE",
    ),
    Known(
        r"RuntimeError: PytorchStreamReader failed|EOFError: (?:Ran out of input)?$|"
        r"UnpicklingError: .*(?:invalid load key|Unsupported operand)",
        "this file is no complete checkpoint: its download was interrupted, or it is a web page or a Git LFS pointer",
        "look at its size and first line; fetch it again (git lfs pull)",
    ),
    Known(
        r"UnpicklingError: Weights only load failed",
        "this file holds Python objects besides tensors, and loading them could run any code",
        "save model.state_dict() instead of the model; weights_only=False only for files that you trust",
    ),
    Known(
        r"RuntimeError: Attempting to deserialize object on a CUDA device but torch\.cuda\.is_available\(\) is False",
        "these tensors were saved on a GPU, and here is none",
        "torch.load(path, map_location='cpu')",
    ),
]
