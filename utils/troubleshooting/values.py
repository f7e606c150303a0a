"""Values of the wrong type or out of range."""

from utils.troubleshooting.known import Known

DTYPES = [
    Known(
        r"RuntimeError: (?:mat1 and mat2 must have the same dtype, but got |Input type \(|expected scalar type |"
        r"expected m1 and m2 to have the same dtype, but got: )(?:torch\.)?(?:cuda\.)?[Dd]ouble",
        "these inputs are float64 (NumPy's default), but the weights are float32",
        "array.astype(np.float32) or tensor.float() in the data set's __getitem__",
    ),
    Known(
        r"RuntimeError: mixed dtype \(CPU\): all inputs must share same datatype",
        "inputs and weights have different types; most often, inputs are float64 (NumPy's default)",
        "array.astype(np.float32) or tensor.float() in the data set's __getitem__",
    ),
    Known(
        r"ValueError: RNN input dtype \(torch\.(\w+)\) does not match weight dtype \(torch\.(\w+)\)",
        "these inputs are {1}, but the weights are {2}",
        "tensor.to(torch.{2}) in the data set's __getitem__",
    ),
    Known(
        r"RuntimeError: (?:Input type \((?:unsigned char|torch\.(?:cuda\.)?ByteTensor)\)|"
        r"mat1 and mat2 must have the same dtype, but got Byte|expected scalar type Byte but found)|"
        r"NotImplementedError: \"\w+\" not implemented for 'Byte'",
        "these inputs are uint8 (0..255), as images are stored; layers need floating-point numbers",
        "image.float() / 255, or transforms.ToTensor(), in the data set's __getitem__",
    ),
    Known(
        r"RuntimeError: (?:mat1 and mat2 must have the same dtype, but got |Input type \()(?:torch\.)?"
        r"(Long|Int|long|int|long long)\b",
        "these inputs are integers; layers need floating-point numbers",
        "tensor.float() in the data set's __getitem__; for class or word numbers, an nn.Embedding as first layer",
    ),
    Known(
        r"RuntimeError: mat1 and mat2 must have the same dtype, but got (Half|BFloat16) and|"
        r"RuntimeError: Input type \((c10::Half|c10::BFloat16|struct c10::\w+)\)",
        "16-bit values meet 32-bit weights: a tensor was converted with .half() or .bfloat16()",
        "trainer.precision=bf16 converts where it is safe; leave model and data in float32",
    ),
    Known(
        r"RuntimeError: Expected tensor for argument #1 'indices' to have one of the following scalar types: "
        r"Long, Int; but got torch\.(?:cuda\.)?(\w+)Tensor",
        "an embedding looks up integers, but these are {1} values",
        "tensor.long(); without an embedding if these are measured values: nn.Linear takes them as they are",
    ),
    Known(
        r"(NotImplementedError|RuntimeError): mean\(\): could not infer output dtype\.",
        "the mean of integers is not defined",
        ".float().mean(); of a comparison such as (output == target), too",
    ),
]

NUMBERS = [
    Known(
        r"ValueError: (?:too many|not enough) values to unpack \(expected (\d+)",
        "{1} values were expected on that line, but another number came: of a tensor with another number of "
        "dimensions, or of a layer that returns another number of results",
        "print x.shape before that line; an nn.LSTM returns output, (h, c)",
        layer=".+",
    ),
    Known(
        r"ValueError: (?:too many|not enough) values to unpack \(expected (\d+)",
        "{1} values were expected there, such as `inputs, targets = batch`, but another number came",
        "in your trainer, `def unpack(self, batch):` that returns them: (inputs, targets) for the step of Trainer",
        tensors=False,
    ),
    Known(
        r"AttributeError: 'str' object has no attribute '(?:shape|size|dim|ndim|dtype|device|to|view|reshape|flatten|"
        r"float|long|mean|sum|permute|transpose|unsqueeze|squeeze)'"
        r"|TypeError: .*\bgot \(str,|TypeError: .*'input'.* not str",
        "a string came where a tensor is expected. Of a batch that is a dict, `inputs, targets = batch` takes the keys",
        "in your trainer, `def unpack(self, batch): return batch['image'], batch['label']`, with the keys of your data",
        layer=".+",
        tensors=False,
    ),
    Known(
        r"ValueError: too many dimensions 'str'|TypeError: new\(\): invalid data type 'str'",
        "a tensor cannot hold strings",
        "a number in place of a name: class_names.index(name); texts need a tokenizer",
    ),
    Known(
        r"TypeError: can't convert np\.ndarray of type numpy\.(object_|str_)",
        "this array holds Python objects or strings, most often because a column of a table is not numeric",
        "df.dtypes shows which one; pd.to_numeric(df[name]), or leave it out, before .to_numpy(np.float32)",
    ),
    Known(
        r"ValueError: expected sequence of length (\d+) at dim \d+ \(got (\d+)\)",
        "lists of different lengths, {1} and {2}, do not make one tensor",
        "pad them: torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in lists], batch_first=True)",
    ),
    Known(
        r"TypeError: (?:img should be Tensor Image|.*default_collate: batch must contain tensors.*PIL)",
        "an image is still a PIL image where a tensor is expected",
        "ToTensor() in the transforms, before Normalize",
    ),
    Known(
        r"TypeError: .*default_collate: batch must contain tensors.*NoneType",
        "the data set's __getitem__ returned None",
        "check that each way through it ends with `return`",
    ),
]

INDICES = [
    Known(
        r"IndexError: index out of range in self",
        "an embedding was asked for a row that it does not have",
        "num_embeddings must be larger than the largest index, with padding and unknown words counted; -1 is no index",
    ),
    Known(
        r"RuntimeError: Class values must be smaller than num_classes\.",
        "one_hot got a class number that is not below num_classes",
        "num_classes = largest label + 1; subtract 1 from labels that start at 1",
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
]
