"""What outputs are taken for, and the probabilities that they become."""

import pytest
import torch
from torch import Tensor

from trainer.engine.evaluation.kinds import average, kind_of, probabilities
from utils.errors import UsageError

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])


@pytest.mark.parametrize(
    "loss, outputs, name, why",
    [
        ("cross_entropy", LOGITS, "logits", "loss: cross_entropy"),
        ("nll_loss", LOGITS.log_softmax(1), "log-probabilities", "loss: nll_loss"),  # the LeNet of the 2020 template
        ("nll_loss", LOGITS, "logits", "takes log-probabilities, which these are not"),
        ("cross_entropy", LOGITS.softmax(1), "probabilities", "adds up to 1, though loss: cross_entropy takes logits"),
        ("my_loss", LOGITS.softmax(1), "probabilities", "each row adds up to 1"),
        ("my_loss", LOGITS.log_softmax(1), "log-probabilities", "as e to its power"),
        ("my_loss", LOGITS, "logits", "one for each of 3 classes"),
        ("my_loss", LOGITS[:, 0], "values", "there are no classes"),
        ("BCEWithLogitsLoss", LOGITS, "logits per label", "loss: BCEWithLogitsLoss"),
        ("BCELoss", LOGITS.sigmoid(), "probabilities per label", "loss: BCELoss"),
        ("MSELoss", LOGITS, "values", "loss: MSELoss"),
    ],
)
def test_kind(loss: str, outputs: Tensor, name: str, why: str) -> None:
    kind = kind_of(loss, outputs, 3 if outputs.dim() == 2 else None)
    assert kind.name == name
    assert why in kind.why
    expected = {"logits": LOGITS.softmax(1), "log-probabilities": LOGITS.softmax(1), "probabilities": LOGITS.softmax(1)}
    expected |= {"logits per label": LOGITS.sigmoid(), "probabilities per label": LOGITS.sigmoid(), "values": outputs}
    torch.testing.assert_close(probabilities(kind.name, outputs), expected[name].double(), atol=1e-6, rtol=0)


def test_each_pixel() -> None:
    """Pixels are many: float32."""
    logits = LOGITS[:, :, None, None].expand(2, 3, 4, 5)
    assert kind_of("cross_entropy", logits, 3).name == "logits"
    assert kind_of("my_loss", logits, 3).name == "logits"
    assert kind_of("my_loss", logits, None).name == "values"
    found = probabilities("logits", logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, :, 1, 2], LOGITS.softmax(1))
    sure = torch.ones(1, 1, 2, 2)
    assert average("logits per label", [sure, sure / 2], [0.5, 0.5], True).max() < 1
    with pytest.raises(UsageError, match=r"outputs of the model are \[2, 3, 4\] for a batch of 2; predictions are one"):
        kind_of("cross_entropy", torch.zeros(2, 3, 4), 3)


def test_a_device_without_float64() -> None:
    """MPS has none."""
    logits = LOGITS.to("meta")
    assert probabilities("logits", logits).dtype == torch.float32
    assert probabilities("logits", LOGITS).dtype == torch.float64


def test_average() -> None:
    one, two = LOGITS.double().softmax(1), LOGITS.flip(1).double().softmax(1)
    torch.testing.assert_close(average("logits", [one, two], [0.75, 0.25], False), 0.75 * one + 0.25 * two)
    of_logits = average("logits", [one, two], [0.75, 0.25], True)
    torch.testing.assert_close(of_logits, (0.75 * LOGITS + 0.25 * LOGITS.flip(1)).double().softmax(1))
    alone = average("logits per label", [LOGITS.double().sigmoid(), torch.full_like(one, 0.5)], [0.5, 0.5], True)
    torch.testing.assert_close(alone, (LOGITS.double() / 2).sigmoid())
    torch.testing.assert_close(average("values", [one, two], [0.5, 0.5], True), (one + two) / 2)
