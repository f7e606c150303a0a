"""Your optimizers and learning-rate schedules. A config may also name those of torch.optim."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from logger.console import log
from utils.errors import UsageError
from utils.patterns import matches, select


class WarmupCosineLR(LRScheduler):
    """Linear warm-up to the optimizer's lr, then half a cosine down to `min_lr`, over `total_steps`.

    warmup: steps, or as a float below 1 a fraction of `total_steps`.
    Cosine: Loshchilov and Hutter, SGDR, 2017; warm-up: Goyal et al., Accurate, Large Minibatch SGD, 2017.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: int | float = 0.05,
        min_lr: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if total_steps < 1 or min_lr < 0 or not 0 <= warmup < (1 if isinstance(warmup, float) else math.inf):
            raise UsageError(
                f"lr_scheduler: WarmupCosineLR: total_steps is {total_steps}, warmup {warmup} and min_lr {min_lr}; "
                f"give 1 or more, steps or a fraction from 0 to below 1, and 0 or more"
            )
        self.total_steps, self.min_lr = total_steps, min_lr
        self.warmup_steps = int(total_steps * warmup) if isinstance(warmup, float) else warmup
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        step = self.last_epoch
        if step < self.warmup_steps:
            return [lr * (step + 1) / (self.warmup_steps + 1) for lr in self.base_lrs]
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return [self.min_lr + (lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * done)) for lr in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        if self._step_count < 2 or epoch is not None or isinstance(self.base_lrs[0], Tensor):
            super().step(epoch)  # it checks the order of the first calls
            return
        self._step_count += 1
        self.last_epoch += 1
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    _get_closed_form_lr = get_lr  # torch's name for it, where a schedule needs no history


class MuonAdamW(Optimizer):
    """Muon for the matrices of hidden layers, AdamW for all else: embeddings, heads, convolutions, biases, norms.

    adamw: patterns of the names of matrices that AdamW has too; null: the usual names of embeddings and heads. One lr
    and one weight_decay serve both, as Muon's steps are scaled to the size of AdamW's (arXiv:2502.16982).
    """

    USUAL = ("*embed*", "*emb", "*wte", "*wpe", "*tokens*", "*positions*", "*head*", "*classifier*", "*fc", "*output")

    def __init__(
        self,
        named_parameters: Sequence[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        adamw: list[str] | None = None,
    ) -> None:
        """named_parameters: pairs (name, parameter), or groups of such pairs with options of their own."""
        groups = list(named_parameters)
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        names = [name for group in groups for name, _ in group["params"]]
        if adamw is None:
            others = [name for name in names if matches(name, self.USUAL)]
        else:
            others = select(adamw, names, "optimizer.args.adamw")
        muon, rest = list[dict[str, Any]](), list[dict[str, Any]]()
        for group in groups:
            for part, is_for_muon in ((muon, True), (rest, False)):
                own = [p for n, p in group["params"] if (p.dim() == 2 and n not in others) == is_for_muon]
                if own:
                    part.append({**group, "params": own})
        matrices = [n for group in groups for n, p in group["params"] if p.dim() == 2 and n in others]
        sizes = [sum(len(group["params"]) for group in part) for part in (muon, rest)]
        log.info(
            f"MuonAdamW: Muon trains {sizes[0]} matrices; AdamW {sizes[1]} other parameters, of which matrices: "
            f"{', '.join(matrices) or 'none'}"
        )
        options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        super().__init__([*muon, *rest], options)
        n = len(muon)
        self._inner: list[tuple[Optimizer, slice]] = []  # which of the groups each of the two trains
        if muon:
            inner = Muon(self.param_groups[:n], momentum=momentum, adjust_lr_fn="match_rms_adamw", **options)
            self._inner.append((inner, slice(0, n)))
        if rest:
            self._inner.append((AdamW(self.param_groups[n:], betas=betas, eps=eps, **options), slice(n, None)))
        self._share()

    def _share(self) -> None:
        """Let both work on the groups and the state of this optimizer, which schedules and checkpoints see."""
        for inner, groups in self._inner:
            inner.param_groups, inner.state = self.param_groups[groups], self.state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(dict(state_dict))
        self._share()

    def step(self, closure: Any = None) -> Any:
        for inner, _ in self._inner:
            inner.step()


def AdamWScheduleFree(
    params: Iterable[Any],
    lr: float = 2.5e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
) -> Optimizer:
    """AdamW that needs no learning-rate schedule, of the library schedulefree; with the callback ScheduleFree."""
    from schedulefree import AdamWScheduleFree as Wrapped  # type: ignore[import-untyped]

    return Wrapped(params, lr=lr, betas=betas, weight_decay=weight_decay, warmup_steps=warmup_steps)


def SGDScheduleFree(
    params: Iterable[Any], lr: float = 1.0, momentum: float = 0.9, weight_decay: float = 0.0, warmup_steps: int = 0
) -> Optimizer:
    """SGD that needs no learning-rate schedule, of the library schedulefree; with the callback ScheduleFree."""
    from schedulefree import SGDScheduleFree as Wrapped

    return Wrapped(params, lr=lr, momentum=momentum, weight_decay=weight_decay, warmup_steps=warmup_steps)


_NEEDS = {"schedulefree": "schedulefree"}  # library -> extra in pyproject.toml
AdamWScheduleFree.libraries = _NEEDS  # type: ignore[attr-defined]
SGDScheduleFree.libraries = _NEEDS  # type: ignore[attr-defined]
