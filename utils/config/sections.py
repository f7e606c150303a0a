"""The sections of a config that name parts: where each looks names up, and what counts as a part of it."""

from dataclasses import dataclass, replace

from utils.config.data_sets import LOADER
from utils.config.values import MODULE

TRAINER = "trainer.engine.base_trainer.BaseTrainer"
HOOKS = ("before_training", "after_step", "during_eval", "after_eval_batch", "after_epoch")
TARGETS = ("target", "targets", "label", "labels", "y", "y_true")
IMAGES = ("image", "images", "img", "picture", "x", "sample")


@dataclass(frozen=True)
class Section:
    rooms: tuple[str, ...]  # the project's folders, searched first
    home: str  # the file that is meant for it
    libraries: tuple[str, ...]  # searched next
    expected: str  # in errors: what a part of this section is
    base: str | None = None  # full name of the class that its classes derive from, or
    methods: tuple[str, ...] = ()  # the methods that its classes have, all of them
    hooks: tuple[str, ...] = ()  # the methods that its classes have, at least one of them
    first: str | None = None  # the parameter that the code gives first
    called: bool = False  # a function is not called to build the part: it is the part, called with (output, target)
    filled: tuple[str, ...] = ()  # parameters that the code gives if the config does not
    any_class: bool = False  # does each class that the project defines there count?
    any_case: bool = False  # are upper and lower case the same in its names?
    callables: bool = False  # do classes whose objects can be called count, and such objects themselves?


# Its first module has only some of the names
DOMAINS = ("classification", "clustering", "detection", "image", "regression", "segmentation", "text")
TORCHMETRICS = ("torchmetrics", *(f"torchmetrics.{domain}" for domain in DOMAINS))

SECTIONS = {
    "arch": Section(
        ("model",), "model/model.py", ("torchvision.models",),
        "a class derived from torch.nn.Module, or a function that builds one", MODULE,
    ),
    "data_loader": Section(
        ("data_loader",), "data_loader/data_loaders.py", (),
        "a class derived from BaseDataLoader or torch.utils.data.Dataset, or a function that builds one", LOADER,
    ),
    "optimizer": Section(
        ("trainer",), "trainer/optim.py", ("torch.optim",),
        "a class derived from torch.optim.Optimizer, or a function of (params, ...) that builds one",
        "torch.optim.optimizer.Optimizer", first="params",
    ),
    "loss": Section(
        ("model",), "model/loss.py", ("torch.nn",),
        "a function of (output, target), or a class derived from torch.nn.Module whose forward takes them",
        MODULE, called=True,
    ),
    "metrics": Section(
        ("model",), "model/metric.py", TORCHMETRICS,
        "a function of (output, target), or a class with update, compute and reset",
        methods=("update", "compute", "reset"), called=True,
    ),
    "lr_scheduler": Section(
        ("trainer",), "trainer/optim.py", ("torch.optim.lr_scheduler",),
        "a class derived from LRScheduler, or a function of (optimizer, ...) that builds one",
        "torch.optim.lr_scheduler.LRScheduler", first="optimizer", filled=("total_steps", "T_max"),
    ),
    "callbacks": Section(
        ("trainer/callbacks", "trainer"), "trainer/callbacks/", (),
        f"a class with {', '.join(HOOKS[:-1])} or {HOOKS[-1]}", hooks=HOOKS,
    ),
    "logger": Section(
        ("logger",), "logger/writer.py", (), "a class derived from logger.writer.Writer", "logger.writer.Writer",
        any_case=True,
    ),
    "trainer": Section(
        ("trainer",), "trainer/trainer.py", (),
        "a class derived from BaseTrainer", TRAINER,
    ),
}  # fmt: skip
SECTIONS["valid_data_loader"] = SECTIONS["data_loader"]
IN_ARGUMENTS = {  # the same of parts in the arguments of these; of optimizers and schedules, they are of the same kind
    f"{section} argument": replace(
        SECTIONS[section], libraries=(*libraries, "torch.nn"), base=MODULE, methods=(), hooks=(), any_class=True,
        expected=f"a class of {SECTIONS[section].rooms[0]}/, or one derived from torch.nn.Module",
    )
    for section, libraries in {
        "arch": ("torchvision.models",), "data_loader": ("torchvision.transforms.v2",),
        "valid_data_loader": ("torchvision.transforms.v2",), "loss": (),
        "metrics": TORCHMETRICS, "callbacks": (), "trainer": (),
    }.items()
}  # fmt: skip
TRANSFORMS = {  # parts that a data loader wants to call
    "transforms": Section(
        ("data_loader",), "data_loader/transforms.py", ("torchvision.transforms.v2",),
        "a class whose objects are called with an image, a function of (image, ...), or one that builds such an object",
        MODULE, callables=True,
    )
}  # fmt: skip
KINDS = SECTIONS | IN_ARGUMENTS | TRANSFORMS
FACTS_OF_DATASETS = ("num_classes", "class_names")  # stated for each data set that has `classes`
FROM_FACTS = ("arch", "loss", "metrics")  # sections whose missing arguments the facts of the data fill
