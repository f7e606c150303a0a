"""Values of the wrong type or out of range."""

from utils.troubleshooting.known import Known

MISMATCH = (  # what comes before the type of the inputs
    r"(?:Runtime|Value)Error: (?:mat1 and mat2 must have the same dtype, but got |expected m1 and m2 to have the same "
    r"dtype, but got: |dot : expected both vectors to have same dtype, but found |Input type \(|RNN input dtype \(|"
    r"input must have the type torch\.float32, got type |expected scalar type (?:Float but found )?)"
    r"(?:torch\.)?(?:cuda\.)?"
)
OF_TENSORS = (  # attributes: what is no tensor has none of them
    r"(?:shape|size|dim|ndim|dtype|device|to|cuda|view|reshape|flatten|float|long|mean|sum|permute|transpose|unsqueeze|"
    r"squeeze|detach|backward|requires_grad)'"
)
KEYS = (
    "a string or dict came where a tensor is expected. Of a batch that is a dict, `inputs, targets = batch` takes the "
    "keys",
    "in your trainer, `def unpack(self, batch): return batch['image'], batch['label']`, with the keys of your data; of "
    "a model that returns a dict, the tensor in it",
)

DTYPES = [
    Known(
        rf"{MISMATCH}(?:[Dd]ouble|float64)|TypeError: Cannot convert a MPS Tensor to float64|"
        r"RuntimeError: mixed dtype \(CPU\): all inputs must share same datatype",
        "these inputs are float64 (NumPy's default), but the weights are float32",
        "array.astype(np.float32) or tensor.float() in the data set's __getitem__",
    ),
    Known(
        rf"{MISMATCH}(?:Byte|unsigned char)|NotImplementedError: \"\w+\" not implemented for 'Byte'",
        "these inputs are uint8 (0..255), as images are stored; layers need floating-point numbers",
        "image.float() / 255, or transforms.ToTensor(), in the data set's __getitem__",
    ),
    Known(
        rf"{MISMATCH}(?:[Ll]ong|[Ii]nt|[Bb]ool)",
        "these inputs are integers; layers need floating-point numbers",
        "tensor.float() in the data set's __getitem__; for class or word numbers, an nn.Embedding as first layer",
    ),
    Known(
        rf"{MISMATCH}(?:[Ff]loat.* )?\(?(?:c10::|struct c10::|torch\.)?(?:cuda\.)?(?:Half|BFloat16|b?float16)",
        "16-bit values meet 32-bit weights, or the other way round: one of them was converted with .half() or "
        ".bfloat16()",
        "trainer.precision=bf16 converts where it is safe; leave model and data in float32",
    ),
    Known(
        r"RuntimeError: Expected tensor for argument #1 'indices' to have one of the following scalar types: "
        r"Long, Int; but got torch\.(?:cuda\.)?(\w+)Tensor",
        "an embedding looks up integers, but these are {1} values",
        "tensor.long(); without an embedding if these are measured values: nn.Linear takes them as they are",
    ),
    Known(
        r"(?:NotImplementedError|RuntimeError): (?:mean\(\): could not infer output dtype|\"\w+\" not implemented for "
        r"'(?:Long|Int|Bool)'|linalg\.\w+: Expected a floating point|std and var only support floating point)",
        "the mean of integers is not defined, nor are softmax, norm and the like",
        ".float().mean(); of a comparison such as (output == target), too",
    ),
    Known(
        r"TypeError: Got unsupported ScalarType BFloat16",
        "NumPy has no bfloat16",
        "tensor.float().numpy()",
    ),
]

DEVICES = [
    Known(
        r"RuntimeError: Expected all tensors to be on the same device|"
        r"RuntimeError: Tensor on device \w+(?::\d+)? is not on the expected device|"
        r"RuntimeError: Input type \(torch\.(?:cuda\.)?FloatTensor\) and weight type \(torch\.(?:cuda\.)?FloatTensor\)|"
        r"RuntimeError: indices should be either on cpu or on the same device as the indexed tensor",
        "tensors on different devices meet; model and batches are moved for you, but not tensors that you make or keep",
        "torch.zeros(..., device=x.device); a tensor that a module keeps: self.register_buffer('name', tensor); layers "
        "in nn.ModuleList, not in a plain list",
    ),
    Known(
        r"TypeError: can't convert (\w+)(?::\d+)? device type tensor to numpy",
        "NumPy works in the CPU's memory, but this tensor is on {1}",
        "tensor.detach().cpu().numpy()",
    ),
]

NUMBERS = [
    Known(
        r"ValueError: (?:too many|not enough) values to unpack \(expected (\d+)",
        "{1} values were expected on that line, but another number came: of a tensor with another number of "
        "dimensions, or of a layer that returns another number of results",
        "print x.shape before that line; an nn.LSTM returns output, (h, c)",
        at=r"\w.*",
    ),
    Known(
        r"ValueError: (?:too many|not enough) values to unpack \(expected (\d+)",
        "{1} values were expected there, such as `inputs, targets = batch`, but another number came",
        "in your trainer, `def unpack(self, batch):` that returns them: (inputs, targets) for the step of Trainer",
    ),
    Known(
        r"TypeError: .*\bgot \((?:str|dict),|TypeError: .*'input'.* not (?:str|dict)\b",
        *KEYS,
    ),
    Known(
        rf"AttributeError: '(?:str|dict)' object has no attribute '{OF_TENSORS}",
        *KEYS,
        at=".+",  # not in plain Python
    ),
    Known(
        r"ValueError: too many dimensions 'str'|TypeError: new\(\): invalid data type 'str'|"
        r"RuntimeError: Could not infer dtype of NoneType",
        "a tensor cannot hold strings or None",
        "a number in place of a name: class_names.index(name); texts need a tokenizer; for a missing value, "
        "float('nan') or -1",
    ),
    Known(
        r"TypeError: can't convert np\.ndarray of type numpy\.(object_|str_)|"
        r"TypeError: default_collate: .*found (?:object|<?U\d+)$",
        "this array holds Python objects or strings, most often because a column of a table is not numeric",
        "df.dtypes shows which one; pd.to_numeric(df[name]), or leave it out, before .to_numpy(np.float32)",
    ),
    Known(
        r"ValueError: expected sequence of length (\d+) at dim \d+ \(got (\d+)\)",
        "lists of different lengths, {1} and {2}, do not make one tensor",
        "pad them: torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in lists], batch_first=True)",
    ),
    Known(
        r"ValueError: At least one stride in the given numpy array is negative",
        "this array was flipped without a copy, by [::-1] or np.flip",
        "np.ascontiguousarray(array) before it becomes a tensor",
    ),
    Known(
        r"TypeError: (?:img should be Tensor Image|.*default_collate: batch must contain tensors.*PIL|"
        r".*\bgot \(Image,|.*must be Tensor, not Image)",
        "an image is still a PIL image where a tensor is expected",
        "ToTensor() in the transforms, before Normalize",
    ),
    Known(
        r"TypeError: .*default_collate: batch must contain tensors.*NoneType",
        "the data set's __getitem__ returned None",
        "check that each way through it ends with `return`",
    ),
    Known(
        r"TypeError: .*default_collate: batch must contain tensors.*found (?:<class ')?([\w.]+)",
        "a batch cannot be made of {1} objects, which the data set's __getitem__ returned",
        "return a number or a tensor; or a collate_fn that puts samples together",
    ),
    Known(
        r"RuntimeError: each element in list of batch should be of equal size",
        "samples are lists of different lengths, which do not make one batch",
        "torch.tensor(list) in __getitem__, and a collate_fn that pads: torch.nn.utils.rnn.pad_sequence",
    ),
    Known(
        r"RuntimeError: stack expects each tensor to be equal size, but got (\[.*?\]) at entry \d+ and (\[.*?\]) at",
        "samples of different sizes cannot be stacked into one batch: {1} and {2}",
        "resize or crop images to one size; pad sequences in a collate_fn (torch.nn.utils.rnn.pad_sequence)",
    ),
]

INDICES = [
    Known(
        r"IndexError: index out of range in self",
        "an embedding was asked for a row that it does not have",
        "num_embeddings must be larger than the largest index, with padding and unknown words counted; -1 is no index",
    ),
    Known(
        r"RuntimeError: Class values must be",
        "one_hot got a class number that is not below num_classes, or negative",
        "num_classes = largest label + 1; subtract 1 from labels that start at 1",
    ),
    Known(
        r"(?:IndexError|RuntimeError): index (-?\d+) is out of bounds for dimension (\d+) with size (\d+)",
        "index {1} was asked of dimension {2}, which has size {3}: indices start at 0",
        "print the shape and the largest index before that line; labels that start at 1 are one too large",
    ),
    Known(
        r"IndexError: The shape of the mask (\[.*?\]) at index \d+ does not match the shape of the indexed tensor "
        r"(\[.*?\])",
        "a mask {1} selects from a tensor {2}: their first sizes must be equal",
        "make the mask from the tensor that it selects from, such as targets != -1 for targets and outputs [B, C]",
    ),
    Known(
        r"IndexError: tensors used as indices must be|RuntimeError: gather\(\): Expected dtype|"
        r"RuntimeError: one_hot is only applicable|TypeError: only integer tensors of a single element",
        "an index must be an integer, but this tensor holds floating-point numbers or several values",
        "indices.long()",
    ),
]

NOT_FINITE = [
    Known(
        r"ValueError: Expected parameter \w+ .* of distribution .* to satisfy the constraint .*found invalid values:"
        r".*nan|RuntimeError: probability tensor contains either `inf`, `nan` or element < 0|"
        r"RuntimeError: Function '\w+' returned nan values",
        "there is NaN in what the model computes: its weights or inputs are not finite any more",
        "a lower --lr, trainer.clip_grad_norm=1, and no log(0), sqrt(0) or division by 0 (add 1e-8)",
    ),
    Known(
        r"ValueError: Expected parameter (\w+) .* of distribution (\w+)\(.* to satisfy the constraint (\w+)",
        "{1} of {2} has values that are not allowed: {3}",
        "F.softplus(x) or x.exp() makes what a layer returns positive, such as a standard deviation",
    ),
]
