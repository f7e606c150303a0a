"""More ranks change speed, not the result: weights, gradients, values, the samples of each step."""

import os
import signal

import numpy as np
import pytest
import torch

from tests.trainer.parallel.ranks import on_ranks, trained, trained_as_on_gpus
from trainer.parallel import buffers
from utils.errors import UsageError
from utils.signals import TIME_UP

# Without batch norm, whose statistics are those of each micro-batch
MLP = ["arch={type: MLP, args: {in_features: 64, hidden: [16]}}"]
AS_ON_GPUS = pytest.param(trained_as_on_gpus, marks=pytest.mark.slow)
BOTH = pytest.mark.parametrize("function", [trained, AS_ON_GPUS])


def same(a, b, atol) -> bool:
    return a.keys() == b.keys() and all(np.allclose(a[k], b[k], rtol=0, atol=atol) for k in a)


def results(world, *args, function=trained):
    """What rank 0 has, after all ranks were found to have the same weights."""
    found = on_ranks(world, function, *args)
    assert all(isinstance(r, dict) for r in found), "\n".join(str(r) for r in found if not isinstance(r, dict))
    for other in found[1:]:
        assert same(other["weights"], found[0]["weights"], 0), "the ranks' weights differ"
    return found[0]


def assert_same_run(a, b):
    assert same(a["weights"], b["weights"], 1e-6)
    assert [p[:2] for p in a["points"]] == [p[:2] for p in b["points"]]
    for (split, step, mine), (_, _, other) in zip(a["points"], b["points"], strict=True):
        for name, value in mine.items():
            exact = split == "valid" and name == "accuracy"  # a count
            assert abs(value - other[name]) <= (0 if exact else 1e-6), (split, step, name)


@pytest.fixture(scope="module")
def one_rank():
    return results(1, [*MLP, "trainer.valid_steps=3"])


@pytest.mark.parametrize("world, accumulate", [(2, 1), (4, 1), (2, 3)])
@pytest.mark.parametrize("function", [trained, trained_as_on_gpus])
def test_weights_and_values(one_rank, world, accumulate, function):
    """50 samples a step or 49, unequal on the ranks; so are the 97 of the validation."""
    keys = [*MLP, "trainer.valid_steps=3", f"trainer.accumulate={accumulate}"]
    assert_same_run(one_rank, results(world, keys, function=function))


@BOTH
def test_batch_norm(function):
    """Its statistics are those of a rank's samples, as of a micro-batch's; the running ones are averaged."""
    two = results(2, ["callbacks=[EMA]"], function=function)
    halves = results(1, ["callbacks=[EMA]", "trainer.accumulate=2"])
    learnt = [name for name in two["weights"] if "running" not in name and "num" not in name]
    assert all(np.allclose(two["weights"][name], halves["weights"][name], rtol=0, atol=1e-5) for name in learnt)


def test_validation_smaller_than_the_ranks():
    few = [*MLP, "data_loader.args.validation_split=3", "trainer.valid_steps=3"]
    assert_same_run(results(1, few), results(4, few))


@pytest.mark.parametrize("arch", ["Unused", "Tied"])
@BOTH
def test_unused_and_tied_parameters_and_buffers(arch, function):
    model = [f"arch={arch}", "optimizer.args.weight_decay=0.1"]
    one, two = (results(world, model, function=function) for world in (1, 2))
    one["weights"].pop("seen", 0), two["weights"].pop("seen", 0)  # a buffer: that of rank 0
    assert same(one["weights"], two["weights"], 1e-6)


def test_parameter_that_is_used_no_more():
    """A DistributedDataParallel would wait for it: that is reported."""
    sometimes = ["arch={type: Unused, args: {sometimes: true}}"]
    assert_same_run(results(1, sometimes), results(2, sometimes))
    assert on_ranks(2, trained_as_on_gpus, sometimes) == [3, 3]


def overlapped_steps(keys):
    """The steps whose gradients travel in the backward pass."""
    steps = []

    def note(trainer):
        average = trainer.parallel.average

        def noted(parameters):
            steps.append(trainer.parallel._in_backward)
            average(parameters)

        trainer.parallel.average = noted

    found = trained_as_on_gpus(keys, None, note)
    return found | {"overlapped": [i for i, in_backward in enumerate(steps, 1) if in_backward]}


def test_gradients_travel_in_the_backward_pass_while_layers_are_frozen():
    """All but the first step, and the first after layers were unfrozen."""
    keys = [*MLP, "callbacks=[{type: Freeze, args: {freeze: ['layers.0'], until_step: 4}}]"]
    two = results(2, keys, function=overlapped_steps)
    assert two["overlapped"] == [2, 3, 4, 6, 7, 8]
    assert_same_run(results(1, keys), two)


@pytest.mark.parametrize("keys", [[], ["trainer.exact_ranks=true", "trainer.accumulate=2"]])
def test_weights_drawn_from_elsewhere_than_the_seed(keys):
    """All ranks take rank 0's; `results` looks at that."""
    results(2, ["arch=Unseeded", *keys])


def test_two_optimizers():
    sgd = "{type: SGD, args: {lr: 0.1}}"
    gan = ["arch=TinyGAN", "loss=BCEWithLogitsLoss", "metrics=[]", "trainer.type=GANTrainer"]
    gan += [f"optimizer={{generator: {sgd}, discriminator: {sgd}}}"]
    assert_same_run(results(1, gan), results(2, gan))


@pytest.mark.parametrize("trainer", ["SAMTrainer", "PenaltyTrainer", "SeveralLossesTrainer"])
@BOTH
def test_steps_that_users_write(trainer, function):
    """The global gradient before the step, a gradient of a gradient, two backward passes in one micro-batch."""
    keys = [*MLP, f"trainer.type={trainer}"]
    assert_same_run(results(1, keys), results(2, keys, function=function))


def test_samples_that_cannot_be_read():
    """A rank whose samples of a step are all bad takes part with none."""
    skip = [*MLP, "data_loader.args={batch_size: 4}", "trainer.skip_bad_samples=9", "trainer.max_steps=4"]
    one, two, four = (results(world, skip, None, spoil) for world in (1, 2, 4))
    assert_same_run(one, two)
    assert_same_run(one, four)


def spoil(trainer):
    class Spoilt(torch.utils.data.Dataset):
        def __init__(self, whole, bad):
            self.whole, self.bad = whole, bad

        def __len__(self):
            return len(self.whole)

        def __getitem__(self, index):
            if index in self.bad:
                raise OSError("unreadable")
            return self.whole[index]

    loader = trainer.data_loader
    bad = {*loader.indices(0)[1::4].tolist(), *loader.indices(1)[:2].tolist(), *loader.indices(2)[::2].tolist()}
    loader.dataset = Spoilt(loader.eval_dataset, bad)


@pytest.mark.parametrize("after", [1, 4])
def test_resume_on_other_ranks(one_rank, tmp_path, after):
    """A run on 2 ranks, ended in the middle of an epoch by a signal to one, goes on with another number of them."""
    interrupted = results(2, [*MLP, "trainer.valid_steps=3"], tmp_path, signal_rank_1)
    assert interrupted["step"] == 3  # a signal in a validation ends it; the resume makes up for it
    assert interrupted["signal"] == signal.SIGTERM
    resumed = results(after, [*MLP, "trainer.valid_steps=3"], tmp_path)
    assert resumed["step"] == 8
    assert same(one_rank["weights"], resumed["weights"], 1e-6)


def test_a_time_budget_that_one_rank_has_used_up_ends_all(one_rank, tmp_path):
    ended = results(2, [*MLP, "trainer.max_time=9h"], tmp_path, time_up_on_rank_1)
    assert (ended["step"], ended["signal"]) == (4, TIME_UP)
    resumed = results(2, [*MLP, "trainer.max_time=null"], tmp_path)
    assert same(one_rank["weights"], resumed["weights"], 1e-6)


def time_up_on_rank_1(trainer):
    step = trainer.train_step

    def train_step(batches):
        if trainer.rank == 1 and trainer.step == 2:
            trainer.signal._deadline = 0
        step(batches)

    trainer.train_step = train_step


@pytest.mark.slow
def test_resume_is_bit_exact_on_four_ranks(tmp_path):
    """Their gradients are added up in the same order in the first step of a process as in all others."""
    keys = ["trainer.max_steps=9", "trainer.save_steps=2", "optimizer={type: AdamW, args: {lr: 0.01}}"]
    calm = results(4, keys)
    assert -signal.SIGKILL in on_ranks(4, trained, keys, tmp_path, kill_rank_1)
    resumed = results(4, keys, tmp_path)
    assert "from step 4" in (tmp_path / "run/log.txt").read_text()
    assert same(calm["weights"], resumed["weights"], 0)


def kill_rank_1(trainer):
    step = trainer.train_step

    def train_step(batches):
        if trainer.step == 5:
            trainer.saving.wait()
            if trainer.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        step(batches)

    trainer.train_step = train_step


def signal_rank_1(trainer):
    step = trainer.train_step

    def train_step(batches):
        if trainer.rank == 1 and trainer.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        step(batches)

    trainer.train_step = train_step


@pytest.mark.parametrize(
    "change",
    [
        pytest.param([], marks=pytest.mark.slow),
        ["trainer.clip_grad_norm=0.5", "optimizer={type: AdamW, args: {lr: 0.01}}"],
    ],
)
def test_exact_ranks(change):
    """The same bits on 1, 2 and 4 ranks, with batch norm, dropout and augmentation."""
    exact = ["trainer.exact_ranks=true", "trainer.accumulate=4", "arch.args.dropout=0.3"]
    one, *others = (results(world, exact + change) for world in (1, 2, 4))
    for other in others:
        assert same(one["weights"], other["weights"], 0)
        assert_same_run(one, other)


def test_exact_ranks_of_a_gan():
    sgd = "{type: SGD, args: {lr: 0.1}}"
    gan = ["arch=TinyGAN", "loss=BCEWithLogitsLoss", "metrics=[]", "trainer.type=GANTrainer"]
    gan += [f"optimizer={{generator: {sgd}, discriminator: {sgd}}}", "trainer.exact_ranks=true", "trainer.accumulate=4"]
    assert same(results(1, gan)["weights"], results(4, gan)["weights"], 0)


def test_sync_batchnorm_needs_a_gpu(monkeypatch):
    model, cpu = torch.nn.Sequential(torch.nn.BatchNorm1d(3)), torch.device("cpu")
    assert buffers.sync_batchnorm(model, cpu) is model  # one rank
    monkeypatch.setattr(buffers, "world_size", lambda: 2)
    [norm] = buffers.sync_batchnorm(model, torch.device("cuda")).children()
    assert isinstance(norm, torch.nn.SyncBatchNorm)
    with pytest.raises(UsageError, match=r"sync_batchnorm: true was given, but .* not on cpu; leave it out, or use"):
        buffers.sync_batchnorm(model, cpu)


@pytest.mark.parametrize(
    "keys",
    [
        ["arch=Bag", "optimizer={type: SGD, args: {lr: 0.1}}", "trainer.clip_grad_norm=0.5"],
        [*MLP, "loss=Center"],
        ["arch=Unfreezing", "callbacks=[Unfreeze]"],
    ],
    ids=["sparse gradients", "a criterion with parameters", "a layer that is unfrozen"],
)
@BOTH
def test_parameters_of_all_kinds(keys, function):
    """Also those that DistributedDataParallel does not know."""
    if function is trained_as_on_gpus and "arch=Bag" in keys:
        pytest.skip("DistributedDataParallel does not average sparse gradients over gloo with clipping")
    one, two = results(1, keys), results(2, keys, function=function)
    if "arch=Bag" in keys:  # torch adds the entries of a sparse gradient one by one, and rounds after each
        assert same(one["weights"], two["weights"], 1e-4)
    else:
        assert_same_run(one, two)
