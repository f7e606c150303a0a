"""What the data states about itself fills parameters of the model, the loss and the metrics, by name."""

from pathlib import Path

import pytest

from tests.house import house  # noqa: F401
from tests.utils.config.test_names import config, problem, write
from utils.config import ConfigError

MODEL = """
from torch import nn

class Base(nn.Module):
    def __init__(self, num_classes: int, vocab_size: int = 100):
        super().__init__()
        self.got = num_classes, vocab_size

class Words(nn.Module):
    def __init__(self, vocab_size: int): super().__init__()

class Head(Base):
    def __init__(self, width: int = 3, **kwargs): super().__init__(**kwargs)
"""
LOADERS = {
    "an assignment": "def __init__(self, **kwargs):\n        self.facts = {}",
    "a keyword": "def __init__(self, **kwargs): super().__init__(facts={}, **kwargs)",
    "a property": "@property\n    def facts(self): return {}",
    "an attribute": "facts: dict = {}",
    "a helper function": "def __init__(self, **kwargs):\n        def inner(): self.facts.update(a=1)\n        inner()",
}


@pytest.fixture
def project(house: Path) -> Path:  # noqa: F811
    write(house, "model/more.py", MODEL + "def loss(output, target, class_names): return class_names\n")
    return house


def stating(project: Path, body: str) -> str:
    """A data loader whose code states facts; KEY=VALUE that names it."""
    text = f"from data_loader.data_loaders import Letters\nclass Stating(Letters):\n    {body}\n"
    write(project, "data_loader/more.py", text + "class Derived(Stating): ...\n")
    return "data_loader={type: Derived, args: {data_dir: d, batch_size: 4, validation_split: 0.1}}"


def test_facts_fill_parameters(project: Path) -> None:
    made = config("arch=Head", "loss=loss", "metrics=[top_k]")
    made.facts = {"num_classes": 7, "vocab_size": 50, "class_names": ["a", "b"], "k": 2, "unused": 1}
    assert made.build("arch").got == (7, 50)
    made.build("loss")(0, 0).append("c")
    assert made.facts["class_names"] == ["a", "b"]  # parts get copies
    assert made.build("metrics")[0].keywords == {"k": 2}


def test_the_config_wins_over_facts(project: Path) -> None:
    made = config("arch={type: Head, args: {num_classes: 3}}")
    made.facts = {"num_classes": 7}
    assert made.build("arch").got == (3, 100)


def test_other_sections_take_no_facts(project: Path) -> None:
    made = config("callbacks=[EMA]", "arch.args.width=3")
    made.facts = {"decay": "wrong", "width": 4, "classes": 2}
    made.check()
    write(project, "trainer/callbacks/more.py", "class Seen:\n    def __init__(self, decay=1): self.decay = decay\n"
          "    def after_step(self, trainer): ...")  # fmt: skip
    made = config("callbacks=[Seen]")
    made.facts = {"decay": 2}
    assert made.build("callbacks")[0].decay == 1


def test_builders_of_torchvision(project: Path) -> None:
    made = config("arch={type: squeezenet1_1, args: {}}")
    made.facts = {"num_classes": 7}
    made.check()
    assert made.build("arch").classifier[1].out_channels == 7


@pytest.mark.parametrize("body", LOADERS.values(), ids=LOADERS)
def test_missing_arguments_wait_for_the_data(project: Path, body: str) -> None:
    loader = stating(project, body)
    made = config("arch=Head", "loss=loss", loader)
    made.check()
    made.facts = {"num_clases": 7, "vocab_size": 5}
    with pytest.raises(ConfigError) as error:
        made.build("arch")
    assert str(error.value) == (
        "command line: arch=Head: argument 'num_classes' is missing; Head accepts width, num_classes, vocab_size; "
        "the data states only: num_clases, vocab_size"
    )
    made.facts = {"num_classes": 7}
    assert made.build("arch").got == (7, 100)


def test_without_facts_missing_arguments_are_an_error(project: Path) -> None:
    message = "argument 'vocab_size' is missing; Words accepts vocab_size"
    assert problem("arch=Words").endswith(message)
    loader = stating(project, "def __init__(self, **kwargs): super().__init__(**kwargs)")
    assert problem("arch=Words", loader).endswith(message)
    config("arch=Head").check()  # classes may come from a data set that has them
    made = config("arch=Words")
    made.facts = {"vocab_size": 2}  # from a checkpoint
    made.check()


def test_only_model_loss_and_metrics_may_wait(project: Path) -> None:
    loader = stating(project, "facts: dict = {}")
    assert "argument 'lr' is missing" in problem(loader, "optimizer={type: Lion}")


@pytest.mark.parametrize("body", ["def split_validation(self): ...", "def f(self): return dict(valid_dataset=1)"])
def test_a_validation_set_of_its_own_can_be_monitored(project: Path, body: str) -> None:
    loader = stating(project, body).replace("0.1", "0")
    config(loader, "trainer.monitor=min val_loss").check()
