"""Sampling and splits from the config through train.py and test.py."""

import json
from typing import Any

import pytest

import train
from tests.test_test import test_py
from tests.tiny import CONFIG, Tiny, tiny
from utils.config import ConfigError, load
from utils.errors import UsageError

__all__ = ["test_py", "tiny"]
FOLD = "data_loader.args={batch_size: 28, fold: 2, folds: 5, stratify: true, balanced: true}"
MIXTURE = (
    "data_loader={type: MixtureDataLoader, args: {batch_size: 28, weights: {plain: 3, turned: 1}, loaders: {"
    "plain: {type: DigitsDataLoader, args: {validation_split: 100}}, "
    "turned: {type: DigitsDataLoader, args: {transforms: [{type: RandomAffine, args: {rotate: 90}}]}}}}}"
)


@pytest.mark.parametrize(
    "keys, report, n, validated, tested",
    [
        ([FOLD], "each epoch draws 1,200 samples by weight, so some several times: 0 120 (has 1", 1200, "loss", 297),
        (
            ["data_loader.args.weights={'7': 3.0}"],
            "6 113 (has 135), 7 344 (has 137), 8 111 (has 133)",
            1400,
            "loss",
            297,
        ),
        ([MIXTURE], ": plain 2,175 (has 1,400), turned 725 (has 1,500)", 2900, "plain_loss", 594),
    ],
)
def test_train_and_test(
    tiny: Tiny, test_py: Any, capsys: pytest.CaptureFixture[str], keys: list[str], report: str, n: int, validated: str,
    tested: int,
) -> None:  # fmt: skip
    trainer = tiny.train(*keys, f"trainer.monitor=min val_{validated}")
    assert report in tiny.log()
    assert tiny.log().count("draws") == 1
    assert trainer.data_loader.sampler.n == n
    assert trainer.monitor.best == min(point[validated] for point in tiny.points("valid"))
    test_py.main(["-r", str(tiny.folder / "run")])
    assert f"on {tested} test samples" in capsys.readouterr().out
    assert len(tiny.points("test")) == 1


@pytest.mark.parametrize("key", [FOLD, "data_loader.args.weights=[1,1,1,1,1,1,1,1,1,2]", MIXTURE])
def test_check(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    (tiny.folder / "c.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tiny.folder)
    assert train.main(["-c", "c.json", "--check", key]) == 0


def test_folds_of_all_numbers_validate_every_sample_once(tiny: Tiny) -> None:
    seen: list[int] = []
    for fold in range(3):
        built = tiny.build(
            f"data_loader.args={{batch_size: 28, fold: {fold}, folds: 3}}", f"seed={fold}", "trainer.limit_batches=null"
        )
        seen += [int(i) for batch in built.valid_data_loader.iter_epoch() for i in batch.indices]
        assert built.valid_data_loader.facts is built.data_loader.facts
    assert sorted(seen) == list(range(1500))


@pytest.mark.parametrize(
    "keys, message",
    [
        (
            ["data_loader.args.folds=5", "data_loader.args.fold=1"],
            "folds is 5 and validation_split is 100, but both say",
        ),
        ([FOLD.replace("fold: 2", "fold: 5")], "fold is 5; the 5 folds are numbered 0 to 4"),
        (["data_loader.args.weights=[1, 2]"], "weights has 2 entries, but there are 10 classes, with labels 0 to 9"),
        (["data_loader.args.weights={seven: 2}"], "weights has 'seven', which is not a class; the classes are 0, 1, 2"),
        (["data_loader.args.group=writer"], "group is writer, but ImageTensors has no column or attribute of this"),
    ],
)
def test_what_does_not_fit_ends_before_the_run(tiny: Tiny, keys: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        tiny.build(*keys)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "key, message",
    [
        ("data_loader.args.balance=true", "unknown argument 'balance' (did you mean 'balanced'?)"),
        (MIXTURE.replace("rotate", "rotat"), "unknown argument 'rotat' (did you mean 'rotate'?)"),
        (MIXTURE.replace("turned: {type: Digits", "turned: {type: Digit"), "(did you mean 'DigitsDataLoader'?)"),
        (MIXTURE.replace("batch_size", "validation_split: 0.1, batch_size"), "unknown argument 'validation_split'"),
    ],
)
def test_typos_are_found_by_the_config_check(key: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load([CONFIG], [key]).check()
    assert message in str(error.value)
