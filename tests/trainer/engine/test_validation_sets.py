"""Several validation sets by name: each is evaluated, logged and monitored under its name."""

import json
from typing import Any

import pytest
import torch
import yaml

import data_loader.data_loaders
import train
from data_loader import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader, read_digits
from data_loader.engine.images.in_memory import ImageTensors
from tests.tiny import CONFIG, Tiny, tiny
from utils.config import ConfigError, load
from utils.errors import Stopped, UsageError

__all__ = ["tiny"]
TWO = "valid_data_loader={clean: DigitsDataLoader, noisy: {type: NoisyDigitsDataLoader, args: {batch_size: 100}}}"


class NoisyDigitsDataLoader(BaseDataLoader):
    """The digits with noise. names: those of its validation sets, if it has some."""

    def __init__(self, batch_size: int = 30, training: bool = True, names: list[str] | None = None, **kwargs: Any):
        images, labels = read_digits(training)
        noise = torch.randint(0, 9, images.shape, generator=torch.Generator().manual_seed(0))
        sets = [ImageTensors(i, labels, (0.3,), (0.4,), 16) for i in (images, (images + noise).to(torch.uint8))]
        if names is not None:
            kwargs["valid_dataset"] = dict(zip(names, sets, strict=True))
        super().__init__(sets[1], batch_size, **kwargs)
        self.facts = {"num_classes": 10}


class RenamedDigitsDataLoader(DigitsDataLoader):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.facts["class_names"] = [*"0123456798"]


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (NoisyDigitsDataLoader, RenamedDigitsDataLoader):
        monkeypatch.setattr(data_loader.data_loaders, part.__name__, part, raising=False)


def by_hand(trainer: Any, loader: BaseDataLoader) -> dict[str, float]:
    """Loss and accuracy of the model as it is now."""
    inputs, targets = (torch.cat(parts) for parts in zip(*loader, strict=True))
    with torch.no_grad():
        outputs = trainer.model.eval()(inputs)
    loss = torch.nn.functional.cross_entropy(outputs.double(), targets).item()
    return {"loss": loss, "accuracy": (outputs.argmax(1) == targets).double().mean().item()}


def test_each_set_is_evaluated_under_its_name(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    one = "data_loader.args.validation_split=0"
    trainer = tiny.train(one, TWO, "trainer.monitor=min val_noisy_loss", "trainer.limit_batches=null")
    point = tiny.points("valid")[-1]
    assert list(point) == ["step", "epoch", "split", "clean_loss", "clean_accuracy", "noisy_loss", "noisy_accuracy"]
    for name, made in (("clean", DigitsDataLoader), ("noisy", NoisyDigitsDataLoader)):
        expected = by_hand(trainer, made(batch_size=100, training=False, shuffle=False))
        assert point[f"{name}_loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert point[f"{name}_accuracy"] == pytest.approx(expected["accuracy"], abs=1e-7)
    losses = [p["noisy_loss"] for p in tiny.points("valid")]
    assert trainer.monitor.best == min(losses)
    assert "val_clean_loss" in capsys.readouterr().out
    assert {"loss", "val_clean_accuracy", "val_noisy_loss"} < trainer.values.keys()


def test_beside_what_is_held_out(tiny: Tiny) -> None:
    """val_loss is of the samples of validation_split, as ever; others have names."""
    plain, more = tiny.train(run="plain"), tiny.train(TWO, "trainer.monitor=min val_loss", run="more")
    for alone, beside in zip(tiny.points("valid", "plain"), tiny.points("valid", "more"), strict=True):
        assert beside.items() > alone.items()
        assert len(beside) == len(alone) + 4
    assert plain.valid_data_loader.sampler.n == more.valid_data_loader[""].sampler.n == 100


def test_a_single_set_has_no_name(tiny: Tiny) -> None:
    keys = ["valid_data_loader=DigitsDataLoader", "data_loader.args.validation_split=0", "trainer.monitor=min val_loss"]
    trainer = tiny.train(*keys)
    assert trainer.valid_data_loader.sampler.n == 297  # the test digits: training=False
    trainer = tiny.build(*keys[1:], "valid_data_loader={type: DigitsDataLoader, args: {training: true}}")
    assert trainer.valid_data_loader.sampler.n == 1500


def test_from_python(tiny: Tiny) -> None:
    loader = "data_loader={type: NoisyDigitsDataLoader, args: {names: [plain, dirty]}}"
    trainer = tiny.train(loader, "trainer.monitor=max val_plain_accuracy")
    assert list(trainer.valid_data_loader) == ["plain", "dirty"]
    assert tiny.points("valid")[-1].keys() > {"plain_loss", "dirty_loss"}
    assert trainer.monitor.best == max(p["plain_accuracy"] for p in tiny.points("valid"))


def test_check_and_limits(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny.folder / "c.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tiny.folder)
    assert train.main(["-c", "c.json", "--check", TWO, "trainer.monitor=min val_noisy_loss"]) == 0
    built = tiny.build(TWO, "trainer.limit_batches=2")
    assert {loader.steps_per_epoch for loader in built.valid_data_loader.values()} == {2}


@pytest.mark.parametrize("number", [1, 7, 8])
def test_a_validation_that_a_signal_cut_short_is_done_again(tiny: Tiny, number: int) -> None:
    """In the first set, and in the last one: a resume does the whole validation, once."""
    keys = (TWO, "trainer.monitor=min val_noisy_loss", "data_loader.args.validation_split=0")
    tiny.train(*keys, run="whole")
    built = tiny.build(*keys)
    asked, calls = built.asked_to_stop, [0]

    def asked_to_stop() -> bool:
        calls[0] += not built.model.training  # asked after each batch: 5 of the first set, 3 of the second
        if calls[0] == number:
            built.signal.number = 15
        return bool(asked())

    built.asked_to_stop = asked_to_stop
    from trainer.checkpoint import resume
    from utils.errors import Interrupted

    with pytest.raises(Interrupted):
        resume.start(built) and built.train()
    built.run.close()
    assert tiny.points("valid") == []
    tiny.train(*keys)
    assert tiny.points("valid") == tiny.points("valid", "whole")
    mine, whole = (tiny.load("model_best.pth", run)["model"] for run in ("run", "whole"))
    assert all(torch.equal(mine[name], whole[name]) for name in whole)


# --- what is refused


def config(*keys: str) -> Any:
    return load([yaml.safe_load(json.dumps(CONFIG))], keys)


def test_a_typo_in_a_set_or_in_the_monitor_is_found_before_the_run() -> None:
    with pytest.raises(ConfigError) as error:
        config(TWO.replace("batch_size", "batchsize"), "trainer.monitor=min val_nosy_loss").check()
    text = str(error.value)
    assert "unknown argument 'batchsize' (did you mean 'batch_size'?)" in text
    assert "the run never produces 'val_nosy_loss' (did you mean 'val_noisy_loss'?)" in text
    with pytest.raises(ConfigError, match=r"unknown name 'DigitDataLoader' \(did you mean 'DigitsDataLoader'\?\)"):
        config("valid_data_loader=DigitDataLoader").check()
    with pytest.raises(ConfigError, match="'a b' cannot be in the log's names"):
        config("valid_data_loader={a b: DigitsDataLoader}")
    config(TWO, "trainer.monitor=min valid/noisy_loss").check()


def test_two_sets_of_one_name(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="valid_data_loader: the data loader has a validation set of its own already"):
        tiny.build("valid_data_loader=DigitsDataLoader")
    loader = "data_loader={type: NoisyDigitsDataLoader, args: {names: [clean, dirty]}}"
    with pytest.raises(UsageError, match=r"valid_data_loader.clean: the data loader has one of this name already"):
        tiny.build(loader, TWO)
    with pytest.raises(Stopped, match="two validation sets log the same name, val_a_loss; give one of them another"):
        tiny.train(TWO.replace("clean", "a"), "metrics=[{type: accuracy, name: a_loss}]")


def test_other_classes_are_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"valid_data_loader.x: its classes are .* 9, 8, but those of the data loader"):
        tiny.build("valid_data_loader={x: RenamedDigitsDataLoader}")


def test_a_run_without_validation_has_none(tiny: Tiny) -> None:
    assert tiny.build("data_loader.args.validation_split=0").valid_data_loader is None
