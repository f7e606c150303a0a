"""What train.py and test.py prepare before and between the parts: processes, device, loaders, model, a summary."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from logger import console
from logger.console import log
from trainer.checkpoint import files, init_from
from trainer.engine import batches
from trainer.engine.optim.schedules import by_name
from trainer.engine.speed import backends, compilation
from trainer.engine.step import Step
from trainer.engine.summary.model_table import class_name
from trainer.parallel import strategy
from utils.config import names
from utils.errors import UsageError
from utils.process import group, launch
from utils.run_folder import Run
from utils.seed import mix, seed_all
from utils.tensors import count_parameters, each_tensor

LAZY_KEY = -4
INIT_KEY = -1  # what initializes the weights is drawn apart from what steps draw


@contextmanager
def processes(verbosity: int = 2, timeout: float = 600) -> Iterator[None]:
    """Join the other processes of the run, where a launcher started several, and start the console."""
    main = not launch.joined() or os.environ["RANK"] == "0"
    # The console first: it has to show why joining failed
    with console.started(verbosity, main), group.process_group(timeout, log.error), backends.restored():
        yield


def device(config: Any, devices: str | None) -> torch.device:
    """The device of this process; warns where it is not what was asked for."""
    chosen, warning = launch.device(config.run.n_gpu, devices)
    if warning:
        log.warning(warning)
    backends.choose(config.run.trainer, chosen)
    compilation.check(config.run.trainer.compile, chosen)
    return chosen


def loaders(config: Any, device: torch.device, data_loader: Any, valid_data_loader: Any = None) -> None:
    """Hand the loaders what the run decides: seed, device, ranks, micro-batches."""
    options = config.run.trainer
    common = {
        "seed": config.run.seed,
        "rank": group.rank(),
        "world_size": group.world_size(),
        "limit": options.limit_batches,
        "skip_bad_samples": options.skip_bad_samples,
        "device": device,
    }
    data_loader.configure(**common, accumulate=strategy(options).accumulate(options))
    data_loader.check_shards()
    if data_loader.num_workers and getattr(data_loader.dataset, "in_memory", False):
        log.info(
            f"data_loader.args.num_workers is {data_loader.num_workers}, but the data is in memory: sending a batch "
            f"from a worker takes longer than making it. 0 is faster, unless the augmentation is expensive"
        )
    if weighting := data_loader.weighting:
        log.info(weighting.report)
    for loader in by_name(valid_data_loader).values():
        loader.configure(**common)


def validation(config: Any, data_loader: Any) -> Any:
    """The validation loader, or several: what the data loader holds out, and `valid_data_loader` of the config."""
    found = by_name(data_loader.split_validation())
    for name, part in by_name(config.run.valid_data_loader).items():
        at = f"valid_data_loader.{name}" if name else "valid_data_loader"
        if name in found:
            raise UsageError(
                f"{at}: the data loader has {'one of this name' if name else 'a validation set of its own'} already "
                f"(validation_split, folds or valid_dataset); remove one, or name this one: "
                f"valid_data_loader: {{NAME: {{type: {part.type}, ...}}}}"
            )
        found[name] = all_in_order(config, "valid_data_loader", part, data_loader.facts)
        classes, others = (loader.facts.get("class_names") for loader in (data_loader, found[name]))
        if classes and others and list(classes) != list(others):
            raise UsageError(
                f"{at}: its classes are {', '.join(map(str, others))}, but those of the data loader are "
                f"{', '.join(map(str, classes))}; they must be the same, in the same order"
            )
    return found.get("", found) if found.keys() == {""} else found or None


def all_in_order(config: Any, section: str, part: Any, facts: dict[str, Any], **more: Any) -> Any:
    """A loader of all evaluation data of a part, built with training=False unless a validation set says otherwise.

    facts: those of the training data, for a loader that has a parameter of this name: class names, vocabulary, means.
    In training it gets none, and learns them from the training part. more: arguments for the loader.
    """
    plain = {"shuffle": False, "validation_split": 0.0}
    if section == "data_loader" or "training" not in part.args:
        plain["training"] = False
    given: dict[str, Any] = {name: value for name, value in plain.items() if config.accepts(section, part, name)}
    parameters = names.accepted(section, config.resolve(section, part)).parameters
    if "facts" in parameters:
        given["facts"] = facts
    whole = {
        "fold": (int | None, None),
        "folds": (int | None, None),
        "group": (str | None, None),
        "stratify": (bool | str, False),
    }
    for name, (annotation, value) in whole.items():  # BaseDataLoader's own: a loader may mean something else by them
        if name in parameters and parameters[name].annotation == annotation:
            given[name] = value
    return config.build_part(section, part, **given, **more).for_testing()


def model(config: Any, device: torch.device, data_loader: Any, run: Run | None = None) -> nn.Module:
    """The model on its device. Its weights are a function of the seed, come from `init_from`, or from its library.

    Lazy layers get their shapes from the first batch of the loader. run: None where a checkpoint is loaded
    later. Then, and where the run has a checkpoint already, no file of weights is read: it may have been deleted.
    """
    options, several = config.run.trainer, config.run.optimizer
    seed_all(mix(config.run.seed, INIT_KEY))
    built = config.build("arch")
    batches.spread_inputs(built)
    if any(is_lazy(p) for p in built.parameters()):
        _initialize_lazy(built, data_loader, config.resolve("trainer", config.run.trainer))
    if _channels_last(options, built, device):
        built = built.to(memory_format=torch.channels_last)
    begun = run is not None and run.exists and files.checkpoints(run.checkpoints)
    path, lines = config.run.init_from, list[str]()
    if path is not None and not begun:
        lines = init_from.load(built, Path(path))
    elif run is not None and not begun:
        lines = init_from.load_published(config)
    for line in lines:
        log.info(line)
    roots = list(several) if isinstance(several, dict) else []
    return strategy(options).prepare(built, options, roots, device).to(device)


def _initialize_lazy(model: nn.Module, data_loader: Any, trainer: Any) -> None:
    """Let lazy layers see one batch. Its values do not matter, so that the weights still follow from the seed alone."""
    stream = data_loader.iter_steps(0)
    batch = next(stream).data
    stream.close()
    if trainer.takes_pairs and trainer.unpack is Step.unpack:
        model.eval()  # there may be no targets
        inputs, _ = batches.pair(batch, model)
        model.train()
    else:
        inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
    seed_all(LAZY_KEY)  # reading the batch has drawn
    try:
        with torch.no_grad():
            model.cpu()(each_tensor(Tensor.cpu, inputs))
    except Exception as e:
        raise UsageError(
            f"arch: {type(model).__name__} has lazy layers, and calling it with the first batch did not find their "
            f"shapes: {type(e).__name__}: {e}. Give the layers their sizes"
        ) from e


def _channels_last(options: Any, model: nn.Module, device: torch.device) -> bool:
    """As `trainer.channels_last` says, else where convolutions are faster so: on the CPU, and in 16 bits on a GPU."""
    if not strategy(options).channels_last:
        return False
    if options.channels_last is not None:
        return bool(options.channels_last)
    faster = device.type == "cpu" or (device.type == "cuda" and options.precision != "fp32")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if device.type == "cpu" and any(_crashes_in_channels_last(module) for module in convolutions):
        return False
    return faster and bool(convolutions)


def _crashes_in_channels_last(conv: nn.Conv2d) -> bool:
    """Does torch (2.15, on CPUs with AVX-512) write beyond its memory in the backward pass? It does for 1 x 1 filters
    with a stride over few channels, such as a shortcut of a narrow ResNet."""
    pointwise = max(conv.kernel_size) == 1 and max(conv.stride) > 1
    return pointwise and conv.groups == 1 and conv.in_channels < 8


def summary(model: nn.Module) -> str:
    """The number of its parameters; the table of its layers comes with the first step (model_table.py)."""
    total = count_parameters(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = "" if trained == total else f", {trained:,} of them trained"
    return f"{class_name(model)}: {total:,} parameters{frozen}"
