"""Shapes that do not fit: of layers, and of outputs and targets in a loss."""

from utils.troubleshooting.known import Known

SHAPES = [
    Known(
        r"AssertionError: (?:Wrong image \w+! Expected (\d+) but got (\d+)|"
        r"Input \w+ \((\d+)\) doesn't match model \((\d+)\))",
        "this vision transformer is made for images of {1}{4} pixels, but these have {2}{3}",
        "images of that size (data_loader.args.size={1}{4}, if it has this argument), or a model for yours: "
        "arch.args.img_size={2}{3} (timm) or arch.args.image_size={2}{3} (torchvision)",
    ),
    Known(
        r"RuntimeError: (?:\w+: )?mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x(\d+)\)",
        "this layer expects inputs whose last dimension is in_features={2}; here it is {1}",
        "in_features={1}; or nn.LazyLinear({3}), which takes the size from the first batch. After convolutions, "
        "flatten first: x.flatten(1)",
        at="Linear .*",
    ),
    Known(
        r"RuntimeError: (?:\w+: )?mat1 and mat2 shapes cannot be multiplied \((\w+) and (\w+)\)|"
        r"RuntimeError: size mismatch, got input \(\d+\), mat \((\w+)\), vec \((\w+)\)",
        "matrix product of {1}{3} and {2}{4}: the second size of the left one must equal the first size of the right "
        "one",
        "print both shapes before that line; .T or .transpose(-2, -1) swaps the two sizes of a matrix",
    ),
    Known(
        r"RuntimeError: Expected size for first two dimensions of batch2 tensor to be: (\[.*?\]) but got: (\[.*?\])",
        "product of batches of matrices: the right one must begin with {1}, but it begins with {2}",
        "print both shapes before that line; .transpose(-2, -1) swaps the sizes of each matrix",
    ),
    Known(
        r"RuntimeError: Given \w+=\d+, weight of size \[\d+, (\d+),[ \d,]+\], expected input(\[[ \d,]+, \1\]) to",
        "a convolution expects [batch, channels, ...], but these {2} have their {1} channels last",
        "x.movedim(-1, 1) for a batch; for one sample in the data set, image.movedim(-1, 0)",
    ),
    Known(
        r"RuntimeError: Given \w+=\d+, weight of size .*, expected input\[1, (\d+),",
        "a convolution takes these inputs, which have one dimension less than a batch, for one sample of {1} channels; "
        "the dimension of the channels is missing",
        "x.unsqueeze(1): it makes grayscale images [B, H, W] to [B, 1, H, W], and sequences [B, T] to [B, 1, T]",
        at=r"\w*Conv\w*1d \[\d+, \d+\]|\w*Conv\w*2d (\[\d+(, \d+){2}\])|\w*Conv\w*3d (\[\d+(, \d+){3}\])",
    ),
    Known(
        r"RuntimeError: Given \w+=\d+, weight of size .*to have (\d+) channels, but got (\d+) channels",
        "this convolution is made for {1} channels, but its input has {2} (1 is grayscale, 3 is RGB)",
        "in_channels={2} for this layer, or for the model: arch.args.in_channels={2}, if it has this argument",
    ),
    Known(
        r"RuntimeError: (?:\w+: )?(?:Expected|non-empty) \w+ (?:\(unbatched\) )?or (\w+) \(batch(?:ed| mode)\)|"
        r"NotImplementedError: Got \w+ input, but \w+ mode needs (\w+) input",
        "{1}{2} input is expected: [batch, channels, ...]",
        "x.unsqueeze(1) adds a dimension of one channel, x.flatten(0, 1) makes one of the first two; a view or reshape "
        "before this layer may have removed one",
    ),
    Known(
        r"RuntimeError: running_mean should contain (\d+) elements not (\d+)",
        "this batch norm is made for {2} channels, but its input has {1}",
        "num_features={1}: the number of channels of the layer before it",
    ),
    Known(
        r"RuntimeError: Expected weight to be a vector of size equal to the number of channels in input, but got "
        r"weight of shape \[(\d+)\] and input of shape (\[.*?\])|"
        r"RuntimeError: Mismatch of parameter numbers and input channel size\. Found parameter numbers = (\d+) and "
        r"channel size = (\d+)",
        "this layer is made for {1}{3} channels, but its input has another number: {2}{4}",
        "the number of channels of the layer before it",
    ),
    Known(
        r"ValueError: expected (\w+) input \(got (\w+) input\)",
        "this layer expects {1} input, but got {2}",
        "the class for this number of dimensions: BatchNorm1d for [B, C], BatchNorm2d for images [B, C, H, W]",
        at=r"(Lazy)?(Batch|Instance)Norm\dd .*",
    ),
    Known(
        r"RuntimeError: Given normalized_shape=\[(.+)\], expected input with shape .*, but got input of size ?(\[.+\])",
        "this layer norm is made for last dimensions of {1}, but its input is {2}",
        "the size of the last dimension as normalized_shape. For images [B, C, H, W], use GroupNorm or BatchNorm2d",
    ),
    Known(
        r"RuntimeError: input\.size\(-1\) must be equal to input_size\. Expected (\d+), got (\d+)",
        "this layer expects {1} features per time step, but its input has {2}",
        "input_size={2}; or, if the dimensions are in another order, batch_first=True with inputs [batch, time, "
        "features]",
    ),
    Known(
        r"ValueError: (\w+): Expected input to be 2D or 3D, got (\w+)",
        "{1} expects [batch, time, features], but its input is {2}",
        "x.flatten(2) makes features of all dimensions from the third on",
    ),
    Known(
        r"RuntimeError: Expected hidden\S* size \((.+?)\), got (\[.*\])",
        "the initial state must be [layers x directions, batch, hidden_size], here [{1}], but it is {2}",
        "the batch of this input in torch.zeros(...), not a fixed one: x.shape[0] with batch_first=True, else "
        "x.shape[1]. Without a state given, it starts from zeros",
    ),
    Known(
        r"AssertionError: was expecting embedding dimension of (\d+), but got (\d+)",
        "this attention is made for embed_dim={1}, but its input has {2} features",
        "a linear layer before it: nn.Linear({2}, {1}); or embed_dim={2} (d_model of a TransformerEncoderLayer)",
    ),
    Known(
        r"RuntimeError: Calculated padded input size per channel: \((.+?)\)\. Kernel size: .* Kernel size can't|"
        r"RuntimeError: Given input size: \((.+?)\)\. Calculated output size: .*Output size is too small",
        "after the layers before it, too few pixels are left for the kernel: {1}{2}",
        "larger images, fewer poolings or strides before this layer, or padding",
    ),
    Known(
        r"RuntimeError: Sizes of tensors must match except in dimension (\d+)\. Expected size (\d+) but got size (\d+)",
        "torch.cat along dimension {1}: all other dimensions must be equal, but here one is {2} and {3}",
        "in a U-Net, an odd size was halved: use images whose sides are multiples of 2^(number of poolings), or resize "
        "one to the other: F.interpolate(x, size=skip.shape[-2:])",
    ),
    Known(
        r"RuntimeError: Tensors must have same number of dimensions: got (\d+) and (\d+)",
        "torch.cat of tensors with {1} and {2} dimensions",
        "x.flatten(1) makes features [B, N] of images; x.unsqueeze(1) adds a dimension",
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
        "print both shapes before that line. In a loss, outputs and targets must agree; in a residual block, a 1x1 "
        "convolution on the shortcut gives it the same channels and stride",
    ),
    Known(
        r"RuntimeError: The expanded size of the tensor .*Target sizes: (\[.*?\])\.  Tensor sizes: (\[.*?\])",
        "a tensor {2} does not fit into {1}: only dimensions of size 1 are stretched",
        "print both shapes before that line; x.shape[0] in place of a fixed batch size, as the last batch may be "
        "smaller",
    ),
    Known(
        r"IndexError: Dimension out of range \(expected to be in range of (\[.*\]), but got (-?\d+)\)",
        "there is no dimension {2}: it must be in {1}, so the tensor has fewer dimensions than expected",
        "dim=1 for the classes of outputs [B, C], dim=-1 for the last dimension",
    ),
    Known(
        r"IndexError: (?:too many indices for tensor of dimension|invalid index of a 0-dim tensor)|"
        r"TypeError: (?:iteration over|len\(\) of) a 0-d tensor",
        "this tensor has fewer dimensions than that line expects; a sum or mean is one number, without any",
        "print x.shape before that line; x.unsqueeze(0) adds a dimension, .item() gives the number",
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
        r"RuntimeError: Expected floating point type for target with class probabilities, got",
        "these outputs have no dimension of classes: cross-entropy expects [B, classes]",
        "a last layer with an output for each class, and no squeeze; for two classes and one output: "
        "BCEWithLogitsLoss and targets.float()",
        at=r".*\[\d+\]",
    ),
    Known(
        r"RuntimeError: 0D or 1D target tensor expected, multi-target not supported|"
        r"RuntimeError: Expected floating point type for target with class probabilities, got",
        "cross-entropy of outputs [B, classes] expects class numbers [B], but these targets have another dimension",
        "targets.squeeze(1) for [B, 1]; targets.argmax(1) for one-hot; targets.float() if they are probabilities, of "
        "as many classes as the outputs",
    ),
    Known(
        r"RuntimeError: Expected target size \[(.*?)\], got \[(.*?)\]",
        "the classes must be the second dimension of the outputs, [B, classes, time]: targets were expected as [{1}], "
        "but they are [{2}]",
        "outputs.transpose(1, 2) for [B, time, classes]; or outputs.flatten(0, 1) and targets.flatten()",
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
        r"IndexError: Target (-\d+|255) is out of bounds\.",
        "a label is {1}; class numbers go from 0 to the number of classes - 1",
        "loss.args.ignore_index={1} if it marks what to ignore; (mask > 0).long() for masks of 0 and 255; otherwise "
        "look for unknown labels in the data",
    ),
    Known(
        r"IndexError: Target (\d+) is out of bounds\.",
        "a label is {1}, but the model has {1} outputs or fewer; class numbers start at 0",
        "as many outputs as there are classes (arch.args.num_classes); or subtract 1 from labels that start at 1; for "
        "two classes and one output, BCEWithLogitsLoss",
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
        "floating-point results do not fit into integers: most often, a loss that expects floating-point targets",
        "targets.float(); for class numbers, use cross_entropy. x = x / 2 in place of x /= 2",
    ),
    Known(
        r"RuntimeError: all elements of (?:input|target) should be between 0 and 1",
        "BCELoss expects probabilities, but these values are outside 0..1: logits, NaN, or labels such as 2 or -1",
        "BCEWithLogitsLoss, which takes what the last linear layer returns, and no sigmoid; targets between 0 and 1",
    ),
    Known(
        r"RuntimeError: (?:Expected )?(input|target)_lengths (?:to have value at most (\d+), but got value (\d+)|must "
        r"be of size batch_size)",
        "CTCLoss expects log-probabilities [time, batch, classes] and lengths [batch], each at most the time; here, "
        "{1}_lengths do not fit",
        "outputs.log_softmax(2).transpose(0, 1) for [batch, time, classes]; lengths after the strides of the model",
    ),
]
