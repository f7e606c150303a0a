"""The metrics of this project: functions (output, target) -> a value for each sample [B], averaged over all samples.

Under torch.no_grad(), and on the device: `.item()` here would make every step wait for it.
"""

from torch import Tensor


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Is the class of the highest score [B, classes] the right one?"""
    return output.argmax(dim=1) == target


def top_k_acc(output: Tensor, target: Tensor, k: int = 3) -> Tensor:
    """Is the right class among the `k` of the highest scores [B, classes]?"""
    if k > output.shape[1]:
        raise ValueError(f"top_k_acc: k = {k}, but the model gives {output.shape[1]} classes; set k to that or less")
    return (output.topk(k, dim=1).indices == target[:, None]).any(dim=1)
