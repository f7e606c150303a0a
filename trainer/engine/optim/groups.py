"""Parameter groups of an optimizer: by pattern, without weight decay, by layer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from logger.console import log
from utils.errors import UsageError
from utils.patterns import select

Named = Sequence[tuple[str, nn.Parameter]]
FACTOR = "lr_factor"  # of a layer; only until the optimizer is built


def has_groups(part: Any) -> bool:
    """Does the config ask for more than one group?"""
    return bool(part.groups or part.no_decay or part.layer_decay)


def split(part: Any, options: Sequence[Mapping[str, Any]], named: Named, model: nn.Module, key: str) -> list[Any]:
    """The parameter groups of a part of the config, of pairs (name, parameter); the unmatched ones come first.

    options: of each group of the config. key: the part's place in the config, for errors. A parameter belongs to the
    first group that matches its name.
    """
    names = [name for name, _ in named]
    shared = _other_names(named, model)
    group_of: dict[str, int] = {}
    for i, group in enumerate(part.groups):
        found = [shared.get(name, name) for name in select(group.match, [*names, *shared], f"{key}.groups.{i}.match")]
        own = [name for name in found if name not in group_of]
        if not own:
            raise UsageError(
                f"{key}.groups.{i}.match: earlier groups have all that {group.match} matches ({', '.join(found[:3])}); "
                f"the first group that matches a parameter has it, so put the narrower pattern first"
            )
        group_of |= dict.fromkeys(own, i)
    plain = _without_decay(named, model) if part.no_decay else set()
    layers = _layers(names) if part.layer_decay else dict.fromkeys(names, 0)
    last = max(layers.values(), default=0)
    groups: dict[tuple[int, int, bool], dict[str, Any]] = {}
    for name, p in named:
        i, layer = group_of.get(name, -1), layers[name]
        place = (i, layer, name in plain)
        if place not in groups:
            words = [part.groups[i].label] if i >= 0 else []
            words += [f"layer{layer}"] if layer != last else []
            groups[place] = {"params": [], "name": "_".join(words), **(options[i] if i >= 0 else {})}
            if name in plain:
                groups[place]["weight_decay"] = 0.0
            if part.layer_decay:
                groups[place][FACTOR] = part.layer_decay ** (last - layer)
        groups[place]["params"].append((name, p))
    return [groups[place] for place in sorted(groups, key=lambda place: (place[0], -place[1], place[2]))]


def finish(optimizer: Any, part: Any, options: Sequence[Mapping[str, Any]], key: str) -> None:
    """Scale the learning rates of layers; check that the optimizer has all options per group, and say what there is."""
    for i, given in enumerate(options):
        for name, value in given.items():
            if name in ("lr", "weight_decay") and value < 0:  # which torch checks of all together only
                raise UsageError(f"{key}.groups.{i}.{name}: got {value:g}, expected 0 or more")
            if name not in optimizer.defaults:
                raise UsageError(
                    f"{key}.groups.{i}.{name}: {part.type} has no {name} per group; it has "
                    f"{', '.join(optimizer.defaults)}"
                )
    if part.layer_decay and "lr" not in optimizer.defaults:
        raise UsageError(f"{key}.layer_decay: {part.type} has no lr; remove layer_decay")
    if part.no_decay and "weight_decay" not in optimizer.defaults:
        raise UsageError(f"{key}.no_decay: {part.type} has no weight_decay; remove no_decay")
    for group in optimizer.param_groups:
        if FACTOR in group:
            group["lr"] = group["lr"] * group.pop(FACTOR)
        shown = [f", {name} {float(group[name]):.3g}" for name in ("lr", "weight_decay") if name in group]
        size = sum(p.numel() for p in group["params"])
        log.info(f"{part.type} {group['name'] or 'rest'}: {size:,} parameters{''.join(shown)}")


def _other_names(named: Named, model: nn.Module) -> dict[str, str]:
    """{another name: name} of the weights that several modules share."""
    name_of = {p: name for name, p in named}
    every = list(model.named_parameters(remove_duplicate=False))
    prefix = named[0][0].removesuffix(every[0][0]) if every else ""  # of a submodule
    others = {prefix + name: name_of[p] for name, p in every}
    return {other: name for other, name in others.items() if other != name}


def _without_decay(named: Named, model: nn.Module) -> set[str]:
    """Biases and scales, which have at most one dimension; all of norms; and what the model itself names (timm)."""
    norms = {p for m in model.modules() if _is_norm(m) for p in m.parameters(recurse=False)}
    own = getattr(model, "no_weight_decay", None)
    names = set(own()) if callable(own) else set()  # relative to the model, which may be a submodule
    stated = {p for name, p in model.named_parameters() if name in names}
    return {name for name, p in named if p.dim() <= 1 or p in norms or p in stated}


def _is_norm(module: nn.Module) -> bool:
    """By the names of its classes, so that your own LayerNorm2d counts."""
    return any(re.search(r"norm(\dd)?$", c.__name__.lower()) for c in type(module).__mro__)


def _layers(names: Sequence[str]) -> dict[str, int]:
    """The number of each parameter's layer, in the order of the model; neighbors without a number (stem, head) are one.

    Where no module has a number, each module with parameters is a layer.
    """
    prefixes = [_layer(name.split(".")[:-1]) for name in names]
    if not any(prefixes):
        prefixes = [name.rpartition(".")[0] for name in names]
    numbers: dict[str, int] = {}
    layers: dict[str, int] = {}
    count = 0
    for i, (name, prefix) in enumerate(zip(names, prefixes, strict=True)):
        if prefix not in numbers or (prefix == "" and prefixes[i - 1] != ""):
            numbers[prefix] = count
            count += 1
        layers[name] = numbers[prefix]
    return layers


def _layer(modules: Sequence[str]) -> str:
    """The layer that these nested modules are in: all up to the first number (`blocks.0`, `encoder_layer_3`), or up to
    a stage or block with a number in its name (`inception4a`, `layer1.0`)."""
    for i, module in enumerate(modules):
        inner = modules[i + 1 :]
        if re.fullmatch(r"(\w+_)?\d+", module):
            return ".".join(modules[: i + 1])
        if re.search(r"\d", module) and inner:
            is_block = inner[0].isdigit() and len(inner) > 1
            return ".".join(modules[: i + 1 + is_block])
    return ""
