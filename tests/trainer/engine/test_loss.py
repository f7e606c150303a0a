"""The criterion at its first batch: what does not fit is said before training; several outputs and losses work."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import model.loss
import model.model
import trainer.trainer
from tests.tiny import tiny
from trainer import Trainer
from trainer.engine.loss import Loss
from utils.errors import Stopped, UsageError

__all__ = ["tiny"]
Pair = namedtuple("Pair", ["logits", "aux"])


@dataclass
class Output:
    aux: torch.Tensor
    logits: torch.Tensor


def model_of(monkeypatch, forward, outputs: int = 10, train=lambda net: None):
    """Name a model `Own` whose outputs are forward(logits)."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, outputs)
            train(self)

        def forward(self, x):
            return forward(self.layer(x.flatten(1)))

    monkeypatch.setattr(model.model, "Own", Own, raising=False)
    return "arch=Own"


def loss_of(monkeypatch, function):
    monkeypatch.setattr(model.loss, "own", function, raising=False)
    return "loss=own"


@pytest.mark.parametrize(
    "several",
    [
        lambda y: (y, y.mean()),
        lambda y: {"aux": y[:, :2], "logits": y},
        lambda y: {"out": y, "aux": None},
        lambda y: Pair(y, y.sum()),
        lambda y: Output(aux=y[:, :2], logits=y),
    ],
    ids=["tuple", "dict", "segmentation", "named tuple", "dataclass"],
)
@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "cross_entropy"])
def test_a_model_that_returns_several_outputs(tiny, monkeypatch, several, loss):
    plain = tiny.train(model_of(monkeypatch, lambda y: y), f"loss={loss}", run="plain")
    done = tiny.train(model_of(monkeypatch, several), f"loss={loss}")
    assert all(map(torch.equal, plain.model.parameters(), done.model.parameters()))
    assert tiny.points("valid") == tiny.points("valid", "plain")


def test_a_loss_that_takes_all_outputs_gets_them(tiny, monkeypatch):
    def both(output, target):
        logits, doubled = output
        return F.cross_entropy(logits, target) + 0 * doubled.sum()

    done = tiny.train(model_of(monkeypatch, lambda y: (y, 2 * y)), loss_of(monkeypatch, both), "metrics=[]")
    assert done.step == 12


def test_named_losses_are_summed_and_each_is_logged(tiny, monkeypatch):
    def parts(output, target):
        return {"ce": F.cross_entropy(output, target), "l2": output.square().mean()}

    tiny.train(loss_of(monkeypatch, parts))
    for point in tiny.points("train") + tiny.points("valid"):
        assert point["loss"] == pytest.approx(point["ce"] + point["l2"], rel=1e-6)


def test_an_entry_loss_is_the_sum_of_the_others(tiny, monkeypatch):
    """As a loss that adds up its parts itself returns them, for the log."""

    def summed(output, target):
        part, rest = F.cross_entropy(output, target), output.square().mean()
        return {"loss": part + 0.1 * rest, "part": part.detach(), "rest": rest.item()}

    def plain(output, target):
        return summed(output, target)["loss"]

    monkeypatch.setattr(model.loss, "summed", summed, raising=False)
    monkeypatch.setattr(model.loss, "plain", plain, raising=False)
    done = tiny.train("loss=summed", "trainer.max_steps=4", "trainer.log_steps=4", "trainer.monitor=min val_part")
    assert done.monitor.best == tiny.points("valid")[0]["part"]
    tiny.train("loss=plain", "trainer.max_steps=4", "trainer.log_steps=4", run="plain")
    (one,), (two,) = tiny.points("train"), tiny.points("train", "plain")
    assert one["loss"] == two["loss"]
    assert one["loss"] == pytest.approx(one["part"] + 0.1 * one["rest"])


@pytest.mark.parametrize(
    "loss, needed",
    [
        ("TripletMarginLoss", "anchor, positive, negative"),
        ("GaussianNLLLoss", "input, target, var"),
        ("CTCLoss", "log_probs, targets, input_lengths, target_lengths"),
        ("CosineEmbeddingLoss", "input1, input2, target"),
    ],
)
def test_losses_that_take_more_than_outputs_and_targets(tiny, loss, needed):
    with pytest.raises(UsageError, match=f"^loss: {loss} takes {needed}, and the trainer gives it outputs and"):
        tiny.train(f"loss={loss}")


def test_a_loss_per_sample_is_averaged(tiny):
    mean = tiny.train("loss=CrossEntropyLoss", run="mean")
    each = tiny.train("loss={type: CrossEntropyLoss, args: {reduction: none}}")
    for a, b in zip(mean.model.parameters(), each.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert tiny.points("valid")[-1]["loss"] == pytest.approx(tiny.points("valid", "mean")[-1]["loss"], rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_sum_over_samples_does_not_depend_on_micro_batches(tiny, accumulate):
    mean = tiny.train("loss=CrossEntropyLoss", "optimizer.args.lr=0.1", "trainer.limit_batches=null", run="mean")
    total = "loss={type: CrossEntropyLoss, args: {reduction: sum}}"
    done = tiny.train(
        total, f"optimizer.args.lr={0.1 / 28}", f"trainer.accumulate={accumulate}", "trainer.limit_batches=null"
    )
    for a, b in zip(mean.model.parameters(), done.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert tiny.points("valid")[-1]["loss"] == pytest.approx(tiny.points("valid", "mean")[-1]["loss"], rel=1e-4)


def test_shapes_that_would_be_broadcast(tiny, monkeypatch):
    def mse(output, target):
        return F.mse_loss(output, target.float())

    with pytest.raises(UsageError, match=r"outputs are \[28, 1\], the targets \[28\], which would be broadcast"):
        tiny.train(model_of(monkeypatch, lambda y: y, outputs=1), loss_of(monkeypatch, mse), "metrics=[]")


@pytest.mark.parametrize("loss", ["PoissonNLLLoss", "HingeEmbeddingLoss", "SoftMarginLoss"])
def test_losses_that_torch_broadcasts_without_a_warning(tiny, monkeypatch, loss):
    one = model_of(monkeypatch, lambda y: y, outputs=1)
    with pytest.raises(UsageError, match=r"outputs are \[28, 1\], the targets \[28\], which would be broadcast"):
        tiny.train(one, f"loss={loss}", "metrics=[]")


def test_too_few_classes(tiny, monkeypatch):
    message = (
        "the model has 5 outputs, but the data has a label of 9: at least 10 classes; set arch.args.num_classes=10"
    )
    with pytest.raises(UsageError, match=message):
        tiny.train(model_of(monkeypatch, lambda y: y, outputs=5))


def test_more_classes_than_the_data_has(tiny, monkeypatch):
    tiny.train(model_of(monkeypatch, lambda y: y, outputs=1000))
    assert "the model has 1000 outputs, the data 10 classes; arch.args.num_classes=10" in tiny.log()


# -- what is trained


@pytest.mark.parametrize(
    "last, loss, words",
    [
        (lambda y: y.softmax(1), "cross_entropy", "look like probabilities, but it applies softmax itself"),
        (lambda y: y.softmax(1), "CrossEntropyLoss", "look like probabilities, but it applies softmax itself"),
        (lambda y: y, "nll_loss", "are no log-probabilities, which it expects"),
        (lambda y: y.log_softmax(1), "cross_entropy", None),  # which changes nothing
        (lambda y: y.log_softmax(1), "nll_loss", None),
        (lambda y: y, "cross_entropy", None),
        (lambda y: y.relu(), "cross_entropy", None),
    ],
)
def test_a_last_layer_that_does_not_fit_the_loss(tiny, monkeypatch, last, loss, words):
    tiny.train(model_of(monkeypatch, last), f"loss={loss}", "trainer.epochs=null", "trainer.max_steps=2")
    warned = [line for line in tiny.log().splitlines() if "the model's outputs" in line]
    assert len(warned) == (1 if words else 0)
    assert not words or f"loss {loss}: the model's outputs {words}; " in warned[0]


def test_the_parameters_of_a_criterion_are_trained_and_saved(tiny, monkeypatch):
    class Center(nn.Module):
        def __init__(self):
            super().__init__()
            self.centers = nn.Parameter(torch.zeros(10, 10))

        def forward(self, output, target):
            return F.cross_entropy(output, target) + (output - self.centers[target]).square().mean()

    monkeypatch.setattr(model.loss, "Center", Center, raising=False)
    whole = tiny.train("loss=Center", "trainer.clip_grad_norm=1.0", run="whole")
    assert whole.criterion.centers.abs().sum() > 0
    tiny.train("loss=Center", "trainer.clip_grad_norm=1.0", "trainer.epochs=1")
    resumed = tiny.train("loss=Center", "trainer.clip_grad_norm=1.0")
    assert torch.equal(resumed.criterion.centers, whole.criterion.centers)
    several = ["arch={type: ConvNet, args: {widths: [4]}}", "optimizer={features: Adam, classifier: Adam}"]
    with pytest.raises(
        UsageError, match="has parameters of its own, which none of the optimizers features, classifier"
    ):
        tiny.build("loss=Center", *several)


def test_several_optimizers_with_the_default_trainer_each_step_once(tiny):
    one = tiny.train("arch={type: ConvNet, args: {widths: [4], depth: 1}}", run="one")
    sgd = "{type: SGD, args: {lr: 0.1}}"
    several = f"optimizer={{features: {sgd}, classifier: {sgd}}}"
    two = tiny.train("arch={type: ConvNet, args: {widths: [4], depth: 1}}", several)
    assert all(map(torch.equal, one.model.parameters(), two.model.parameters()))


def test_parameters_without_a_gradient_are_named_once(tiny, monkeypatch):
    def unused(net):
        net.never = nn.Linear(2, 2)

    tiny.train(model_of(monkeypatch, lambda y: y, train=unused), "trainer.epochs=3")
    message = "2 parameters are not trained: had no gradient in this epoch: never.weight, never.bias\n"
    assert tiny.log().count(message) == 1


def test_a_step_that_never_updates_is_reported(tiny, monkeypatch):
    import trainer.trainer as own

    class Forgetful(own.Trainer):
        def train_step(self, batches):
            for inputs, targets in self.micro_batches(batches):
                self.backward(self.criterion(self.model(inputs), targets))

    monkeypatch.setattr(own, "Forgetful", Forgetful, raising=False)
    tiny.train("trainer.type=Forgetful", "trainer.epochs=2")
    assert tiny.log().count("train_step did not call self.update(self.optimizer) in this epoch") == 1


def test_a_part_that_a_callback_unfreezes_is_trained(tiny, monkeypatch):
    import trainer.callbacks.ema

    class Unfreeze:
        def after_epoch(self, trainer, values):
            trainer.model.layer.requires_grad_(True)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10).requires_grad_(False)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.layer(x.flatten(1)) * self.scale

    monkeypatch.setattr(model.model, "Own", Own, raising=False)
    monkeypatch.setattr(trainer.callbacks.ema, "Unfreeze", Unfreeze, raising=False)
    frozen = tiny.train("arch=Own", "trainer.epochs=1", run="frozen")
    start = tiny.build("arch=Own", run="start")
    assert torch.equal(frozen.model.layer.weight, start.model.layer.weight)
    done = tiny.train("arch=Own", "callbacks=[Unfreeze]", "trainer.epochs=2")
    assert not torch.equal(done.model.layer.weight, start.model.layer.weight)


@pytest.mark.parametrize("steps", [6, 60])
def test_fp16_that_skips_every_update_stops(tiny, monkeypatch, steps):
    def spoiled(y):
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * float("nan"))
        return y

    with pytest.raises(Stopped, match=r"precision: fp16: the last \d+ updates were all skipped"):
        tiny.train(model_of(monkeypatch, spoiled), "trainer.precision=fp16", f"trainer.max_steps={steps}")


def test_fp16_that_finds_its_scale_does_not(tiny):
    assert tiny.train("trainer.precision=fp16", "trainer.max_steps=8", "trainer.log_steps=1").step == 8


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [("LBFGS", "LBFGS evaluates the model several times per step"), ("Muon", "Muon is for matrices only")],
)
def test_optimizers_that_need_another_loop(tiny, optimizer, message):
    with pytest.raises(UsageError, match=message):
        tiny.build(f"optimizer={{type: {optimizer}}}")


def test_a_trainer_of_ones_own_may_call_the_optimizer_with_a_closure(tiny, monkeypatch):
    class Closures(Trainer):
        pass

    monkeypatch.setattr(trainer.trainer, "Closures", Closures, raising=False)
    assert type(tiny.build("optimizer=LBFGS", "trainer.type=Closures").optimizer).__name__ == "LBFGS"


def test_binary_losses_that_do_not_fit(tiny):
    one = "arch={type: MLP, args: {in_features: 64, num_classes: 1}}"
    with pytest.raises(UsageError, match=r"outputs are \[28, 1\], the targets \[28\].*outputs.squeeze\(1\)"):
        tiny.train(one, "loss=BCEWithLogitsLoss", "metrics=[]")
    with pytest.raises(UsageError, match=r"outputs are \[28, 10\], the targets \[28\].*for class labels give"):
        tiny.train("loss=BCEWithLogitsLoss")
    mixed = "data_loader.args.batch_transforms=[MixUp]"
    with pytest.raises(UsageError, match=r"BCEWithLogitsLoss takes the probabilities .* not the labels of a val"):
        tiny.train("loss=BCEWithLogitsLoss", mixed)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("{type: CrossEntropyLoss, args: {weight: [1, 2]}}", "CrossEntropyLoss has 2 class weights, .* 10 outputs"),
        (
            "{type: CrossEntropyLoss, args: {label_smoothing: 2}}",
            r"failed for outputs \[28, 10\] float32, .* 0.0 and 1.0",
        ),
        ("{type: MultiMarginLoss, args: {weight: [1, 2]}}", r"weight \[2\] float32: inconsistent weight size"),
        ("{type: CrossEntropyLoss, args: {reduction: men}}", "men is not a valid value for reduction"),
    ],
)
def test_arguments_that_do_not_fit_are_reported(tiny, loss, message):
    with pytest.raises(UsageError, match=f"(?s)loss: .*{message}"):
        tiny.train(f"loss={loss}", "metrics=[]")


def test_a_loss_that_is_no_tensor_is_reported(tiny, monkeypatch):
    with pytest.raises(UsageError, match="loss: it is a tuple; return a tensor, or a dict of tensors to add up"):
        tiny.train(loss_of(monkeypatch, lambda output, target: (F.cross_entropy(output, target), 1)))


def test_a_loss_of_three_parts():
    a, b, c = torch.eye(3)
    loss = nn.TripletMarginLoss()
    assert Loss(loss, torch.device("cpu"))(a, b, c) == loss(a, b, c)
    assert Loss(loss, torch.device("cpu"))(a, positive=b, negative=c) == loss(a, b, c)


def test_no_trainable_parameter(tiny, monkeypatch):
    with pytest.raises(UsageError, match="arch: Own has no trainable parameter"):
        tiny.build(model_of(monkeypatch, lambda y: y, train=lambda net: net.requires_grad_(False)))


def test_lazy_layers(tiny, monkeypatch):
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(10))

        def forward(self, x):
            return self.layers(x)

    monkeypatch.setattr(model.model, "Lazy", Lazy, raising=False)
    whole = tiny.train("arch=Lazy", run="whole")
    assert whole.model.layers[2].num_batches_tracked == 12 + 1  # the first batch, too
    tiny.train("arch=Lazy", "trainer.epochs=1")
    assert all(map(torch.equal, tiny.train("arch=Lazy").model.parameters(), whole.model.parameters()))


# -- defaults that are faster never break a model


class Bag(nn.Module):
    def __init__(self, sparse: bool = True):
        super().__init__()
        self.table = nn.EmbeddingBag(17, 10, sparse=sparse, mode="sum")

    def forward(self, x):
        return self.table(x.flatten(1).mul(2.6).add(2.2).round().clamp(0, 16).long())


@pytest.mark.parametrize("clip", ["null", "0.5"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_sparse_gradients_train_as_dense_ones(tiny, monkeypatch, clip, accumulate):
    monkeypatch.setattr(model.model, "Bag", Bag, raising=False)
    options = [f"trainer.clip_grad_norm={clip}", f"trainer.accumulate={accumulate}", "optimizer.args.lr=0.01"]
    dense = tiny.train("arch={type: Bag, args: {sparse: false}}", *options, run="dense")
    sparse = tiny.train("arch=Bag", *options)
    torch.testing.assert_close(sparse.model.table.weight, dense.model.table.weight, rtol=1e-4, atol=1e-4)


def test_sparse_adam(tiny, monkeypatch):
    monkeypatch.setattr(model.model, "Bag", Bag, raising=False)
    start = tiny.build("arch=Bag", run="start").model.table.weight
    done = tiny.train("arch=Bag", "optimizer={type: SparseAdam, args: {lr: 0.01}}", "trainer.max_steps=3")
    assert (done.model.table.weight - start).abs().max().item() == pytest.approx(0.03, rel=0.1)  # 0.01 a step


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 10, dtype=torch.complex64) * 0.1)

    def forward(self, x):
        return (x.flatten(1).to(torch.complex64) @ self.weight).abs()


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD"])
def test_complex_parameters(tiny, monkeypatch, optimizer):
    monkeypatch.setattr(model.model, "Complex", Complex, raising=False)
    options = ["arch=Complex", f"optimizer={{type: {optimizer}, args: {{lr: 0.01}}}}", "callbacks=[EMA]"]
    options += ["trainer.clip_grad_norm=1.0"]
    whole = tiny.train(*options, run="whole")
    tiny.train(*options, "trainer.epochs=1")
    assert torch.equal(tiny.train(*options).model.weight, whole.model.weight)
