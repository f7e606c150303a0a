"""What a data set states about itself: facts for the parameters of the same name in model, loss and metrics, and values
for each of its samples, such as labels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from utils.errors import UsageError


def class_facts(class_names: Sequence[str]) -> dict[str, Any]:
    """num_classes and class_names; class_counts are counted from the labels (count_classes)."""
    return {"num_classes": len(class_names), "class_names": list(class_names)}


def facts_of(dataset: Any) -> dict[str, Any]:
    """The classes of a data set that lists them in `classes`, as torchvision's do; otherwise nothing."""
    classes = getattr(dataset, "classes", None)
    return class_facts([str(name) for name in classes]) if isinstance(classes, list) else {}


def name_of(loader: Any, index: int) -> str:
    """What a sample is called: `names` of unlabeled data or of the data set, its file, or else its number."""
    dataset = loader.dataset
    names = loader.unlabeled.names if loader.unlabeled is not None else getattr(dataset, "names", ())
    if hasattr(names, "__len__") and len(names) == len(dataset):  # else they are those of classes
        return str(names[index])
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and isinstance(samples[index], tuple) and isinstance(samples[index][0], str):
        return samples[index][0]
    return str(index)


def count_classes(loader: Any) -> None:
    """State the class_counts of a loader's training samples, without those held out, where labels are known."""
    n = loader.facts.get("num_classes")
    labels = _labels_of(loader) if isinstance(n, int) else None
    if n and labels is not None and labels.dtype.kind in "iub":
        taken = labels[loader.samples(np.arange(len(loader.samples)))].astype(np.int64)
        if taken.min() >= 0 and taken.max() < n:
            loader.facts = {**loader.facts, "class_counts": np.bincount(taken, minlength=n).tolist()}


def labels_of(loader: Any) -> np.ndarray:
    """The label of each sample of a loader's data set, [N].

    They are `labels` or `targets` of the loader or its data set, the second of its `tensors`, or the second of each of
    its `samples`, or of each sample of a list; those of a Subset or ConcatDataset come from what it is made of. Raises
    UsageError without any.
    """
    labels = _labels_of(loader)
    if labels is None:
        raise UsageError(
            f"data_loader: the {len(loader.dataset)} samples of a {type(loader.dataset).__name__} have no single label "
            f"each that is known, but balanced, stratify and weights by class need one; give the data set (or the "
            f"loader, before super().__init__) an attribute `labels`, a list, array or tensor with one label per sample"
        )
    return labels


def column_of(loader: Any, name: str, option: str) -> np.ndarray:
    """What the data set lists for each sample, [N]: column(name) if it has that method, else its attribute `name`, or
    the loader's. Raises UsageError if there is none."""
    dataset = loader.dataset

    def find(dataset: Any) -> np.ndarray | None:
        if callable(getattr(dataset, "column", None)):
            try:
                return _listed(dataset.column(name), len(dataset))
            except (KeyError, AttributeError):
                return None
        return _listed(getattr(dataset, name, None), len(dataset))

    found = _listed(vars(loader).get(name), len(dataset))
    found = _per_sample(dataset, find) if found is None else found
    if found is None:
        raise UsageError(
            f"data_loader: {option} is {name}, but {type(dataset).__name__} has no column or attribute of this name "
            f"with one value for each of its {len(dataset)} samples; give it one, or a method column(name)"
        )
    return found


def _labels_of(loader: Any) -> np.ndarray | None:
    labels = _listed(vars(loader).get("labels"), len(loader.dataset))
    return _per_sample(loader.dataset, _labels) if labels is None else labels


def _labels(dataset: Any) -> np.ndarray | None:
    tensors, samples = getattr(dataset, "tensors", ()), getattr(dataset, "samples", dataset)
    second = tensors[1] if isinstance(tensors, (list, tuple)) and len(tensors) > 1 else None
    is_pairs = isinstance(samples, list) and samples and all(isinstance(s, tuple) and len(s) == 2 for s in samples)
    if is_pairs and getattr(samples[0][1], "shape", ()) in ((), (1,)) and getattr(dataset, "samples_have_labels", True):
        second = [label for _, label in samples]
    for values in (getattr(dataset, "labels", None), getattr(dataset, "targets", None), second):
        if (labels := _listed(values, len(dataset))) is not None:
            return labels
    return None


def _per_sample(dataset: Any, find: Callable[[Any], np.ndarray | None]) -> np.ndarray | None:
    """What `find` finds in a data set, or in what it is made of."""
    found = find(dataset)
    whole = getattr(dataset, "dataset", None)
    if found is None and whole is not None:  # of a Subset, or one that only transforms the samples
        inner = _per_sample(whole, find)
        if isinstance(dataset, Subset):
            return None if inner is None else inner[np.asarray(dataset.indices)]
        return None if inner is None or len(inner) != len(dataset) else inner
    if found is None and isinstance(dataset, ConcatDataset):
        parts = [part for part in (_per_sample(inner, find) for inner in dataset.datasets) if part is not None]
        return np.concatenate(parts) if len(parts) == len(dataset.datasets) else None
    return found


def _listed(values: Any, n: int) -> np.ndarray | None:
    """Numbers or strings, also [n, 1] or a column of pandas, as an array [n]; None if the values are anything else."""
    if isinstance(values, Tensor):
        values = values.cpu().numpy()
    is_list = isinstance(values, (list, tuple, range)) or hasattr(values, "__array__")
    if not is_list or not hasattr(values, "__len__") or len(values) != n:
        return None
    try:
        array = np.asarray(values)
    except ValueError:  # of several lengths
        return None
    if array.shape == (n, 1):
        array = array[:, 0]
    if array.dtype == object and all(isinstance(value, str) for value in values):
        array = array.astype(str)
    return array if array.ndim == 1 and array.dtype != object else None
