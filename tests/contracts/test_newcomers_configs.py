"""What newcomers write by mistake: one line that names the file, the line and what to write, before any work.

Unlike in test_bad_configs.py, the parts are the real ones, so some mistakes are found only when the parts are built.
"""

from pathlib import Path

import pytest

import train
from utils.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
GOOD = """name: digits
arch: ConvNet
data_loader:
  type: DigitsDataLoader
  args: {batch_size: 64, validation_split: 0.2}
loss: cross_entropy
metrics: [accuracy]
optimizer:
  type: AdamW
  args: {lr: 0.003}
trainer: {epochs: 1, limit_batches: 2, monitor: max val_accuracy}
"""
FREEZE = "callbacks: [{type: Freeze, args: {freeze: "
HAS = "the model has features, classifier, with parameters such as"

# line added to GOOD, as line 12 -> how the message begins
LINES = {
    "logger: tensorbord": "x.yaml:12: logger: unknown name 'tensorbord' (did you mean 'TensorBoard'?)",
    "logger: true": "x.yaml:12: logger: got true, expected a list, each entry NAME or {type: NAME, args: {...}} or",
    "logger: {wandb: {project: birds}}": 'x.yaml:12: logger: got {"wandb": {"project": "birds"}}, expected '
    "{type: wandb, args: {...}}",
    "logger: {type: csv, args: {file: x}}": "x.yaml:12: logger.args.file: unknown argument 'file'; CSV accepts no",
    "logger: [csv, CSV]": "x.yaml:12: logger: csv is listed twice",
    "loggers: [csv]": "x.yaml:12: loggers: unknown key 'loggers' (did you mean 'logger'?)",
    "callbacks: EMA": 'x.yaml:12: callbacks: got "EMA", expected a list, each entry NAME or',
    "callbacks: [{EMA: {decay: 0.9}}]": 'x.yaml:12: callbacks.0: got {"EMA": {"decay": 0.9}}, expected {type: EMA, ',
    "callbacks: [{type: EMA, decay: 0.9}]": "x.yaml:12: callbacks.0.decay: unknown key 'decay'; arguments go under "
    "args:\naccepted keys of callbacks.0: type, args",
    "callbacks: [{type: EMA, args: {decy: 0.9}}]": "x.yaml:12: callbacks.0.args.decy: unknown argument 'decy' (did you",
    "callbacks: [Freeze]": "x.yaml:12: callbacks.0: argument 'freeze' is missing; Freeze accepts freeze, but_not",
    FREEZE + "head.*}}]": f"x.yaml:12: callbacks: Freeze: freeze: 'head.*' matches no parameter; {HAS}",
    FREEZE + "[feature.*]}}]": "x.yaml:12: callbacks: Freeze: freeze: 'feature.*' matches no parameter (did you mean "
    f"'features'?); {HAS}",
    FREEZE + "['*'], but_not: [fc]}}]": f"x.yaml:12: callbacks: Freeze: but_not: 'fc' matches no parameter; {HAS}",
    FREEZE + "['*'], until_epoch: 1, until_step: 2}}]": "x.yaml:12: callbacks: Freeze: until_epoch is 1 and",
    "valid_data_loader: [DigitsDataLoader]": 'x.yaml:12: valid_data_loader: got ["DigitsDataLoader"], expected NAME or',
    "valid_data_loader: {'a b': DigitsDataLoader}": "x.yaml:12: valid_data_loader: 'a b' cannot be in the log's names",
    "valid_data_loader: {clean: DigitDataLoader}": "x.yaml:12: valid_data_loader.clean: unknown name 'DigitDataLoader'"
    " (did you mean 'DigitsDataLoader'?)",
    "valid_data_loader: DigitsDataLoader": "x.yaml:12: valid_data_loader: the data loader has a validation set of its",
}
OF_THE_OPTIMIZER = {  # as above, indented
    "groups: {match: classifier.*, lr: 0.1}": 'x.yaml:11: optimizer.groups: got {"match": "classifier.*", "lr": 0.1}, '
    "expected a list, each entry {match: PATTERN, OPTION: VALUE, ...}",
    "groups: [{match: [], lr: 0.1}]": "x.yaml:11: optimizer.groups.0.match: got [], expected a string or a list",
    "groups: [{params: classifier.*, lr: 0.1}]": "x.yaml:11: optimizer.groups.0: 'match' is missing; expected a string",
    "groups: [{match: classifier.*, weight_decy: 0}]": "x.yaml:11: optimizer.groups.0.weight_decy: unknown argument "
    "'weight_decy' (did you mean 'weight_decay'?)",
    "groups: [{match: ^classifier, lr: 1}]": "x.yaml:11: optimizer.groups.0.match: '^classifier' matches no parameter "
    f"(did you mean 'classifier'?); {HAS}",
    "layer_decay: 2": "x.yaml:11: optimizer.layer_decay: got 2, expected a number above 0, up to 1 or null",
    "no_decay: [bias]": 'x.yaml:11: optimizer.no_decay: got ["bias"], expected true or false',
    "lr: 0.1": "x.yaml:11: optimizer.lr: unknown key 'lr'; arguments go under args:",
}
KEYS = {  # KEY=VALUE -> how the message goes on after it
    "lr=0.1": "unknown key 'lr' (did you mean 'optimizer.args.lr'?); keys of your own go under custom:",
    "epochs=3": "unknown key 'epochs' (did you mean 'trainer.epochs'?)",
    "batch_size=3": "unknown key 'batch_size' (did you mean 'data_loader.args.batch_size'?)",
    "trainer.lr=0.1": "unknown key 'lr' (did you mean 'optimizer.args.lr'?)",
    "trainer.keep_best=0": "got 0, expected a positive integer (best checkpoints to keep by `monitor`",
    "trainer={epochs: 1, keep_best: 3}": "keep_best needs a monitor, for example monitor: min val_loss",
    "trainer.max_time=8:30:00": 'got "8:30:00", expected a positive number or null (time budget: seconds',
    "trainer.max_time=1d": 'got "1d", expected a positive number or null (time budget: seconds',
    "optimizer.type=torch.optim.Adam": "unknown name 'torch.optim.Adam' (did you mean 'Adam'?); trainer/ has",
    "arch=torchvision.models.resnet18": "unknown name 'torchvision.models.resnet18' (did you mean 'resnet18'?); model/",
    "data_loader.args.transforms=RandomAffine": 'got "RandomAffine", expected a list, each entry NAME or {type: NAME',
    "data_loader.args.transforms=[RandomAfine]": "data_loader.args.transforms.0: unknown name 'RandomAfine' (did you "
    "mean 'RandomAffine'?)",
    "data_loader.args.transforms=[{RandomAffine: {rotate: 5}}]": 'got [{"RandomAffine": {"rotate": 5}}], unknown key '
    "'RandomAffine'; expected NAME or {type: NAME, args: {...}}",
    "data_loader.args.transforms=[{type: CenterCrop, args: {size: 0}}]": "data_loader.args.transforms.0: CenterCrop: ",
    "data_loader.args.weights=[1, 2]": "weights has 2 entries, but there are 10 classes",
    "data_loader.args.weights={zero: 2}": "weights has 'zero', which is not a class; the classes are 0, 1, 2",
    "data_loader.args.folds=5": "fold is missing; give both",
    "data_loader.args.fold=1/5": 'got "1/5", expected an integer or null',
    "data_loader.args.stratify=clas": "stratify is clas, but",
    "data_loader.args.batch_size=0": "batch_size is 0; give 1 or more",
    "trainer.accumulate=100": "data_loader: a step of 63 samples cannot be cut",
    "optimizer.args.lr=-1": "optimizer: AdamW: Invalid learning rate: -1",
}


def said(folder: Path, text: str, *words: str) -> str:
    """What train.py says of this config; it must leave nothing behind."""
    (folder / "x.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        train.main(["-c", "x.yaml", *words])
    assert error.value.exit_code == 2
    assert [path.name for path in folder.iterdir()] == ["x.yaml"]
    return str(error.value)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", LINES)
def test_line(line: str, tmp_path: Path) -> None:
    assert said(tmp_path, f"{GOOD}{line}\n").startswith(LINES[line])


@pytest.mark.parametrize("line", OF_THE_OPTIMIZER)
def test_line_of_the_optimizer(line: str, tmp_path: Path) -> None:
    text = GOOD.replace("trainer:", f"  {line}\ntrainer:")
    assert said(tmp_path, text).startswith(OF_THE_OPTIMIZER[line])


OF_TORCHVISION = ("arch=torchvision", "data_loader.args.transforms=[")  # importing it takes seconds


@pytest.mark.parametrize(
    "word", [pytest.param(w, marks=pytest.mark.slow) if w.startswith(OF_TORCHVISION) else w for w in KEYS]
)
def test_key(word: str, tmp_path: Path) -> None:
    message = said(tmp_path, GOOD, word)
    places = (f"command line: {word}", "x.yaml:")  # of the key, or of the section that it is in
    assert message.startswith(places)
    assert KEYS[word] in message
    assert len(message.splitlines()) == 1 + message.count("\naccepted keys")


def test_a_writer_that_cannot_start_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from logger.csv import CSV

    def fail(*_: object) -> None:
        raise ValueError("no such project")

    monkeypatch.setattr(CSV, "open", fail)
    message = said(tmp_path, f"{GOOD}logger: csv\n")
    assert message.startswith("x.yaml:12: logger: CSV could not start: no such project")


def test_good(tmp_path: Path) -> None:
    """The config that the cases change trains."""
    (tmp_path / "x.yaml").write_text(GOOD)
    assert train.main(["-c", "x.yaml"]) == 0
