"""What is wrong with the options of a data loader, before anything is read."""

from collections.abc import Mapping
from typing import Any

from data_loader.engine.splits import length
from utils.errors import UsageError


def by_name(datasets: Any) -> dict[str, Any]:
    """Several data sets by their names, {"": data set} of one, {} of None."""
    if isinstance(datasets, Mapping) and all(isinstance(name, str) for name in datasets):
        return dict(datasets)
    return {} if datasets is None else {"": datasets}


def check_options(loader: Any, validation_split: float | int, folds: int | None) -> None:
    for option, least in {"batch_size": 1, "num_workers": 0, "prefetch": 1, "bucket": 0}.items():
        if getattr(loader, option) < least:
            raise UsageError(f"data_loader: {option} is {getattr(loader, option)}; give {least} or more")
    for name, dataset in by_name(loader.valid_dataset).items():
        of_its_own = f"valid_dataset {name}".rstrip()
        if validation_split or folds:
            option = f"folds is {folds}" if folds else f"validation_split is {validation_split}"
            raise UsageError(
                f"data_loader: {option}, but the loader has a validation set of its own ({of_its_own}); "
                f"set {option.split()[0]} to {'null' if folds else 0}"
            )
        if not length(dataset, of_its_own):
            raise UsageError(f"data_loader: {of_its_own} has no samples; leave it out, or check its path")
    if loader.resident:
        _check_resident(loader)
    if length(loader.dataset, "dataset") != length(loader.eval_dataset, "eval_dataset"):
        raise ValueError(
            f"eval_dataset has {len(loader.eval_dataset)} samples; it must have the {len(loader.dataset)} samples of "
            f"dataset, in the same order (a different validation set is valid_dataset)"
        )


def _check_resident(loader: Any) -> None:
    if loader.num_workers:
        raise UsageError(
            f"data_loader: resident is true and num_workers is {loader.num_workers}, but workers cannot read data on "
            f"a device; leave out one of the two"
        )
    for dataset in (loader.dataset, loader.eval_dataset, *by_name(loader.valid_dataset).values()):
        if not hasattr(dataset, "to"):
            raise UsageError(
                f"data_loader: a {type(dataset).__name__} cannot be resident, because it has no `to(device)`; "
                f"leave out resident, or use a data set in memory such as ImageTensors of data_loader/vision.py"
            )


def check_batch_size(loader: Any) -> None:
    if loader.batch_size > len(loader.samples):
        held_out = len(loader._validation)
        why = f" ({len(loader.dataset)} minus {held_out} for validation)" if held_out else ""
        raise UsageError(
            f"data_loader: batch_size {loader.batch_size} is more than the {len(loader.samples)} samples of the data "
            f"set{why}; give {len(loader.samples)} or less"
        )
