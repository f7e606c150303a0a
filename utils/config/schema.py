"""The fixed part of a config as one documented model: the source of validation, defaults, docs and the JSON Schema.

To add a key, add one line with a Field here; the code that reads it is in train.py or trainer/.
"""

import re
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from utils.config.files import nearest, shown
from utils.config.values import expanded, seconds, whole
from utils.run_folder import NOT_A_NAME, is_folder_name

Count = Annotated[int, Ge(1), Le(2**63 - 1), BeforeValidator(whole)]
Natural = Annotated[int, Ge(0), Le(2**63 - 1), BeforeValidator(whole)]
Positive = Annotated[float, Gt(0), Field(allow_inf_nan=False)]
FilePath = Annotated[str, Field(min_length=1), AfterValidator(expanded)]
# `args:` with nothing after it
Args = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Sparse(Model):
    """A part of the config of which only the keys that are set are written; `args` always."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {n: v for n, v in dump(self).items() if n == "args" or n not in fields or v != fields[n].default}


class Part(Model):
    """What to build: the name of a class or function, and its arguments. The name alone means no arguments."""

    type: str = Field(description="name of a class or function of the project, or of the section's library")
    args: Args = Field({}, description="its arguments by name")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) == 1:
            name, args = next(iter(value.items()))
            if isinstance(args, dict | None) and not nearest(name, cls.model_fields):
                raise ValueError(f"got {shown(value)}, expected {{type: {name}, args: {{...}}}}")
        return {"type": value} if isinstance(value, str) else value


class SchedulerPart(Part):
    """A learning-rate schedule."""

    interval: Literal["step", "epoch"] | None = Field(None, description="when it advances; null: what its type expects")


class Group(Sparse):
    """Parameters whose names match, and options of the optimizer for them: lr, weight_decay, ..."""

    model_config = ConfigDict(extra="allow", strict=True)
    match: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="patterns of parameter names, such as head.* or *.bias"
    )
    name: str | None = Field(None, pattern=r"^[\w.-]+$", description="in the log: lr_NAME; null: from the pattern")

    @property
    def label(self) -> str:
        pattern = self.match if isinstance(self.match, str) else "_".join(self.match)
        return self.name or re.sub(r"[^\w-]+", "_", pattern).strip("_") or "group"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class OptimizerPart(Part, Sparse):
    """An optimizer."""

    groups: list[Group] = Field([], description="options for some of the parameters; the first that matches counts")
    no_decay: bool = Field(False, description="no weight decay for biases and norms")
    layer_decay: Annotated[float, Gt(0), Le(1)] | None = Field(
        None, description="learning-rate factor from each layer to the one before it"
    )

    @field_validator("groups")
    @classmethod
    def _distinct(cls, value: list[Group]) -> list[Group]:
        names = [group.label for group in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several groups are called {', '.join(twice)} in the log; give each its own, name: NAME")
        return value


class MetricPart(Part, Sparse):
    """A metric."""

    name: str | None = Field(None, pattern=r"^\S+$", description="what the log and `monitor` call it; null: its type")

    @property
    def label(self) -> str:
        return self.name or self.type

    @model_validator(mode="after")
    def _not_taken(self) -> "MetricPart":
        if self.label in TAKEN or self.label.startswith("val_"):
            raise ValueError(
                f"a metric cannot be called {self.label}, as the log has that; give it another, name: NAME"
            )
        return self


TAKEN = ("loss", "lr", "step", "epoch", "split", "weight", "samples_per_s")  # names in the log


def _shape(value: Any) -> str:
    """Whether it is one part, or several by name: {generator: Adam, critic: {type: Adam, args: {lr: 1e-3}}}."""
    words = ("type", "args", "interval")
    if not isinstance(value, dict) or not value or any(nearest(key, words) for key in value):
        return "(one)"
    return "(several)" if all(isinstance(part, (str, dict, Part)) for part in value.values()) else "(one)"


Parts = Annotated[Annotated[Part, Tag("(one)")] | Annotated[dict[str, Part], Tag("(several)")], Discriminator(_shape)]
OptimizerParts = Annotated[
    Annotated[OptimizerPart, Tag("(one)")] | Annotated[dict[str, OptimizerPart], Tag("(several)")],
    Discriminator(_shape),
]
SchedulerParts = Annotated[
    Annotated[SchedulerPart, Tag("(one)")] | Annotated[dict[str, SchedulerPart], Tag("(several)")],
    Discriminator(_shape),
]
NONE_IS_EMPTY = BeforeValidator(lambda value: [] if value is None else value)
ONE_IS_A_LIST = BeforeValidator(lambda value: [value] if isinstance(value, str | dict) else value)


class TrainerConfig(Model):
    """How long, how often and how to train."""

    type: str = Field("Trainer", description="a class of trainer/")
    args: Args = Field({}, description="the arguments that this class adds to those of BaseTrainer")
    epochs: Count | None = Field(None, description="passes over the training data")
    max_steps: Count | None = Field(None, validate_default=True, description="optimizer steps, instead of epochs")
    max_time: Annotated[Positive, BeforeValidator(seconds)] | None = Field(
        None, description="time budget: seconds, 90m or 8.5h; then the run saves and ends with exit code 4"
    )
    save_dir: FilePath = Field("saved/", description="folder of all runs: save_dir/name/run-id")
    save_period: Count = Field(1, description="epochs between checkpoints")
    save_steps: Count | None = Field(None, description="optimizer steps between checkpoints")
    valid_period: Count = Field(1, description="epochs between validations")
    valid_steps: Count | None = Field(None, description="optimizer steps between validations")
    keep_last: Count = Field(3, description="checkpoints to keep, besides the best")
    keep_best: Count = Field(
        1, description="best checkpoints to keep by `monitor`; several are called model_best_step<N>.pth"
    )
    verbosity: Literal[0, 1, 2] = Field(2, description="console output: 0 warnings, 1 epochs, 2 everything")
    monitor: str = Field("off", description="how to choose the best model: min NAME, max NAME or off")
    early_stop: Natural | None = Field(
        None, description="stop after this many validations without a better `monitor`; 0 or null: off"
    )
    tensorboard: bool = Field(True, description="write TensorBoard event files, where there is no key `logger`")
    log_steps: Count = Field(50, description="optimizer steps between log points")
    accumulate: Count = Field(1, description="micro-batches per batch; saves memory, not time")
    clip_grad_norm: Positive | None = Field(None, description="maximum global gradient norm")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="number format of the forward pass")
    compile: bool = Field(False, description="compile the model with torch.compile")
    channels_last: bool | None = Field(None, description="memory format of convolutions; null: where it is faster")
    fast_cpu: bool = Field(True, description="on the CPU: flush denormals to zero and keep freed memory")
    tf32: bool = Field(True, description="on NVIDIA GPUs: use TF32 for float32 matrix multiplications")
    cudnn_benchmark: bool = Field(
        False, description="on NVIDIA GPUs: time convolution algorithms and use the fastest; no two runs are then alike"
    )
    deterministic: bool = Field(
        False, description="on GPUs: use only deterministic algorithms, not just for convolutions; slower"
    )
    limit_batches: Count | None = Field(None, description="maximum steps per epoch and batches per validation")
    timeout: Count = Field(
        600, description="seconds without progress after which a run on several processes is stopped"
    )
    skip_bad_samples: Natural = Field(0, description="samples that may fail to load before the run stops")
    sync_batchnorm: bool = Field(False, description="on GPUs: synchronize batch norm statistics across ranks")
    exact_ranks: bool = Field(
        False, description="the same bits on any number of ranks; accumulate counts the micro-batches of all ranks"
    )
    parallel: Literal["ddp", "fsdp"] = Field("ddp", description="ddp replicates the model; fsdp shards it")
    shard: list[str] | None = Field(
        None, description="with fsdp: classes of the blocks that are gathered one at a time; null: found by size"
    )

    @field_validator("compile", mode="before")
    @classmethod
    def _was_a_word(cls, value: Any) -> Any:
        return True if value == "model" else value

    @field_validator("max_steps")
    @classmethod
    def _some_end(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and info.data.get("epochs", "wrong") is None:
            raise ValueError("'epochs' or 'max_steps' is missing; give one, for example epochs: 10")
        return value

    @field_validator("monitor")
    @classmethod
    def _monitor(cls, value: str) -> str:
        if value != "off" and (len(value.split()) != 2 or value.split()[0] not in ("min", "max")):
            raise ValueError(f"got {shown(value)}, expected min NAME, max NAME or off, for example min val_loss")
        return value

    @field_validator("early_stop", "exact_ranks", "parallel", "shard")
    @classmethod
    def _goes_with_the_keys_above(cls, value: Any, info: ValidationInfo) -> Any:
        key, given = info.field_name, info.data
        if key == "early_stop" and value == 0:
            return None
        if key == "early_stop" and value is not None and given.get("monitor") == "off":
            raise ValueError("early stopping needs a monitor, for example monitor: min val_loss")
        if key == "exact_ranks" and value and (given.get("skip_bad_samples") or given.get("sync_batchnorm")):
            raise ValueError("cannot be combined with skip_bad_samples or sync_batchnorm; remove one of them")
        against = [name for name in ("exact_ranks", "skip_bad_samples", "channels_last") if given.get(name)]
        against += ["precision: fp16"] if given.get("precision") == "fp16" else []
        if key == "parallel" and value == "fsdp" and against:
            raise ValueError(f"fsdp cannot be combined with {' or '.join(against)}; remove one of them, or use ddp")
        if key == "shard" and value is not None and given.get("parallel") == "ddp":
            raise ValueError("ddp does not shard the model; add parallel: fsdp, or remove shard")
        return value


class RunConfig(Model):
    """A training run."""

    name: str = Field(description="the run's folder in save_dir")
    n_gpu: Natural | Literal["auto"] = Field(1, description="GPUs to use; 0: the CPU, auto: all")
    seed: Natural = Field(1, description="determines all randomness of the run")
    arch: Part = Field(description="the model, from model/ or torchvision.models")
    data_loader: Part = Field(description="the data, from data_loader/")
    valid_data_loader: Parts | None = Field(
        None, description="validation data, from data_loader/; several as {name: part}"
    )
    optimizer: OptimizerParts = Field(description="from trainer/ or torch.optim; several as {submodule: part}")
    loss: Part = Field(description="from model/ or torch.nn")
    metrics: Annotated[list[MetricPart], NONE_IS_EMPTY] = Field([], description="from model/ or torchmetrics")
    lr_scheduler: SchedulerParts | None = Field(None, description="from trainer/ or torch.optim.lr_scheduler")
    callbacks: Annotated[list[Part], NONE_IS_EMPTY] = Field(
        [], description="from trainer/callbacks/ or trainer/, run in this order"
    )
    logger: Annotated[list[Part], ONE_IS_A_LIST] | None = Field(
        None, description="writers of logger/, such as [tensorboard, wandb]; null: TensorBoard, if trainer.tensorboard"
    )
    init_from: FilePath | None = Field(None, description="a checkpoint whose weights the run starts from")
    trainer: TrainerConfig = Field(description="how long, how often and how to train")
    custom: Args = Field({}, description="keys of your own, in code config.custom")

    @field_validator("name")
    @classmethod
    def _inside_save_dir(cls, value: str) -> str:
        if not is_folder_name(value):
            raise ValueError(f"got {shown(value)}, {NOT_A_NAME}")
        return value

    @field_validator("valid_data_loader")
    @classmethod
    def _names_in_the_log(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if not name.replace("-", "_").isidentifier():
                raise ValueError(f"'{name}' cannot be in the log's names (val_NAME_loss); give letters, digits, _ or -")
        return value

    @field_validator("metrics")
    @classmethod
    def _distinct(cls, value: list[MetricPart]) -> list[MetricPart]:
        names = [part.label for part in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"duplicate metric {', '.join(twice)}; give one of the two another, name: NAME")
        return value

    @field_validator("logger")
    @classmethod
    def _each_once(cls, value: list[Part] | None) -> list[Part] | None:
        types = [part.type.lower() for part in value or ()]
        if twice := sorted({name for name in types if types.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is listed twice; each writer shows the whole run, so name it once")
        return value

    @field_validator("lr_scheduler")
    @classmethod
    def _of_an_optimizer(cls, value: Any, info: ValidationInfo) -> Any:
        optimizers = info.data.get("optimizer")
        if isinstance(value, dict) and isinstance(optimizers, Part):
            raise ValueError("got several schedules for one optimizer, expected one")
        if isinstance(value, Part) and isinstance(optimizers, dict):
            example = ", ".join(f"{name}: {value.type}" for name in optimizers)
            raise ValueError(
                f"got one schedule for several optimizers; give each its own, such as {{{example}}}, or null"
            )
        if isinstance(value, dict) and isinstance(optimizers, dict) and value.keys() - optimizers.keys():
            unknown = ", ".join(sorted(value.keys() - optimizers.keys()))
            raise ValueError(f"no optimizer {unknown}; the optimizers are {', '.join(optimizers)}")
        return value
