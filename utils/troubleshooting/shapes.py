"""Shapes that do not fit: of layers, and of outputs and targets in a loss."""

from utils.troubleshooting.known import Known

SHAPES = [
    Known(
        r"RuntimeError: (?:\w+: )?mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x(\d+)\)",
        "this layer expects inputs whose last dimension is in_features={2}; here it is {1}",
        "in_features={1}; or nn.LazyLinear({3}), which takes the size from the first batch. After convolutions, "
        "flatten first: x.flatten(1)",
        layer="Linear",
    ),
    Known(
        r"RuntimeError: (?:\w+: )?mat1 and mat2 shapes cannot be multiplied \((\w+) and (\w+)\)",
        "matrix product of {1} and {2}: the second size of the left one must equal the first size of the right one",
        "print both shapes before that line; .T or .transpose(-2, -1) swaps the two sizes of a matrix",
    ),
    Known(
        r"RuntimeError: Given groups=\d+, weight of size \[\d+, (\d+),[ \d,]+\], expected input(\[[ \d,]+, \1\]) to",
        "a convolution expects [batch, channels, height, width], but these {2} have their {1} channels last",
        "x.permute(0, 3, 1, 2) for a batch; for one image in the data set, image.permute(2, 0, 1)",
    ),
    Known(
        r"RuntimeError: Given groups=\d+, weight of size \[\d+, (\d+), \d+, \d+\], expected input\[1, (\d+), \d+, "
        r"\d+\]",
        "these inputs have three dimensions, which a convolution takes for one image of {2} channels; the dimension of "
        "the channels is missing",
        "x.unsqueeze(1) for grayscale images [B, H, W]: it makes them [B, 1, H, W]",
        shape=r"\[\d+, \d+, \d+\]",
    ),
    Known(
        r"RuntimeError: Given groups=\d+, weight of size \[\d+, (\d+),.*to have \d+ channels, but got (\d+) channels",
        "this convolution is made for {1} channels, but its input has {2} (1 is grayscale, 3 is RGB)",
        "in_channels={2} for this layer, or for the model: arch.args.in_channels={2}, if it has this argument",
    ),
    Known(
        r"RuntimeError: Expected (\w+) \(unbatched\) or (\w+) \(batched\) input to (\w+), but got input of size: (.*)",
        "{3} expects {2} input: [batch, channels, ...]; here it is {4}",
        "x.unsqueeze(1) adds a dimension of one channel; a view or reshape before this layer may have removed one",
    ),
    Known(
        r"RuntimeError: running_mean should contain (\d+) elements not (\d+)",
        "this batch norm is made for {2} channels, but its input has {1}",
        "num_features={1}: the number of channels of the layer before it",
    ),
    Known(
        r"ValueError: expected (\w+) input \(got (\w+) input\)",
        "this layer expects {1} input, but got {2}",
        "the class for this number of dimensions: BatchNorm1d for [B, C], BatchNorm2d for images [B, C, H, W]",
        layer=r"(Lazy)?(Batch|Instance)Norm\dd",
    ),
    Known(
        r"RuntimeError: Given normalized_shape=\[(.+)\], expected input with shape .*, but got input of size ?(\[.+\])",
        "this layer norm is made for a last dimension of {1}, but its input is {2}",
        "the size of the last dimension as normalized_shape. For images [B, C, H, W], use GroupNorm or BatchNorm2d",
    ),
    Known(
        r"RuntimeError: input\.size\(-1\) must be equal to input_size\. Expected (\d+), got (\d+)",
        "this layer expects {1} features per time step, but its input has {2}",
        "input_size={2}; or, if the dimensions are in another order, batch_first=True with inputs [batch, time, "
        "features]",
    ),
    Known(
        r"RuntimeError: Calculated padded input size per channel: \((.+?)\)\. Kernel size: \((.+?)\)\. Kernel size "
        r"can't",
        "after the layers before it, only {1} pixels are left, fewer than the kernel of {2}",
        "larger images, fewer poolings or strides before this layer, or padding",
    ),
    Known(
        r"RuntimeError: Given input size: \((.+?)\)\. Calculated output size: .*Output size is too small",
        "after the layers before it, the image is too small for this pooling: channels x height x width = {1}",
        "larger images, or fewer poolings or strides before this layer",
    ),
    Known(
        r"RuntimeError: Sizes of tensors must match except in dimension (\d+)\. Expected size (\d+) but got size (\d+)",
        "torch.cat along dimension {1}: all other dimensions must be equal, but here one is {2} and {3}",
        "in a U-Net, an odd size was halved: use images whose sides are multiples of 2^(number of poolings), or resize "
        "one to the other: F.interpolate(x, size=skip.shape[-2:])",
    ),
    Known(
        r"RuntimeError: shape '(\[.+\])' is invalid for input of size (\d+)",
        "{1} needs another number of values than the {2} that the tensor has",
        "x.flatten(1) keeps the batch and flattens the rest, whatever its size; the layer after it must expect "
        "that size",
    ),
    Known(
        r"RuntimeError: The size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\) at non-singleton "
        r"dimension (\d+)",
        "two tensors are combined value by value, but one has {1} and the other {2} in dimension {3}",
        "print both shapes before that line. In a residual block, a 1x1 convolution on the shortcut gives it the same "
        "channels and stride",
    ),
    Known(
        r"IndexError: Dimension out of range \(expected to be in range of (\[.*\]), but got (-?\d+)\)",
        "there is no dimension {2}: it must be in {1}, so the tensor has fewer dimensions than expected",
        "dim=1 for the classes of outputs [B, C], dim=-1 for the last dimension",
    ),
    Known(
        r"RuntimeError: output with shape (\[.*?\]) doesn't match the broadcast shape (\[.*?\])",
        "a result of shape {2} does not fit into the {1} that is changed in place; most often, Normalize with three "
        "means for grayscale images",
        "as many means and stds as channels: Normalize((0.5,), (0.5,)) for grayscale; or convert images to RGB",
    ),
    Known(
        r"RuntimeError: view size is not compatible with input tensor's size and stride",
        "after transpose, permute or expand (and in channels_last format) the values are in another order in memory, "
        "and view never copies",
        ".reshape(...) in place of .view(...); it copies where it must",
    ),
]

LOSSES = [
    Known(
        r"ValueError: Expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)",
        "the model returned {1} rows for {2} targets",
        "a view(-1, N) with a wrong N changes the batch size: use x.flatten(1). The last step of an LSTM with "
        "batch_first=True is x[:, -1]. For one label per word or pixel, the loss expects outputs [B, classes, ...]",
    ),
    Known(
        r"RuntimeError: 0D or 1D target tensor expected, multi-target not supported|"
        r"RuntimeError: Expected floating point type for target with class probabilities, got",
        "cross-entropy of outputs [B, classes] expects class numbers [B], but these targets have another dimension",
        "targets.squeeze(1) for [B, 1]; targets.argmax(1) for one-hot; targets.float() if they are probabilities",
    ),
    Known(
        r"RuntimeError: only batches of spatial targets supported \(\w+ tensors\) but got targets of dimension: (\d+)",
        "the model returned one prediction per pixel [B, classes, H, W], but the targets have {1} dimensions: one "
        "label per image, or one dimension too many",
        "for one label per image, pool and flatten at the end of the model: x.mean(dim=(2, 3)); masks must be [B, "
        "H, W]",
    ),
    Known(
        r"RuntimeError: size mismatch \(got input: (\[.*\]) ?, target: (\[.*\])",
        "outputs {1} and targets {2} differ in height, width or length",
        "resize the outputs: F.interpolate(outputs, size=targets.shape[-2:]), or crop and resize masks as the images",
    ),
    Known(
        r"ValueError: (?:Using a t|T)arget size \(torch\.Size\((\[.*?\])\)\) (?:must be the same as|that is different "
        r"to the) input size \(torch\.Size\((\[.*?\])\)\)",
        "this loss compares value by value, but outputs are {2} and targets {1}",
        "outputs.squeeze(1) at the end of the model for [B, 1] against [B]; one-hot targets for several classes",
    ),
    Known(
        r"IndexError: Target (-\d+) is out of bounds\.",
        "a label is {1}; class numbers go from 0 to the number of classes - 1",
        "loss.args.ignore_index={1} if it marks what to ignore; otherwise look for unknown labels in the data",
    ),
    Known(
        r"IndexError: Target (\d+) is out of bounds\.",
        "a label is {1}, but the model has {1} outputs or fewer; class numbers start at 0",
        "as many outputs as there are classes (arch.args.num_classes); or subtract 1 from labels that start at 1",
    ),
    Known(
        r"RuntimeError: (?:expected target dtype to be Long or Byte, but got|expected scalar type Long but found) "
        r"(\w+)",
        "cross-entropy expects class numbers as int64 (long), but the targets are {1}",
        "targets.long(); for a number to be predicted rather than a class, use MSELoss or L1Loss",
    ),
    Known(
        r"RuntimeError: (?:result type Float can't be cast to the desired output type Long|Found dtype Long but "
        r"expected)",
        "this loss expects floating-point targets, but they are integers",
        "targets.float(); for class numbers, use cross_entropy",
    ),
    Known(
        r"RuntimeError: all elements of (?:input|target) should be between 0 and 1",
        "BCELoss expects probabilities, but these values are outside 0..1: logits, or NaN",
        "BCEWithLogitsLoss, which takes what the last linear layer returns, and no sigmoid",
    ),
]
