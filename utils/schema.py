"""The fixed part of a config as one documented model: validation, defaults, docs and JSON Schema come from here.

A new key is one line with a Field; whatever reads it is in train.py or trainer/.
"""

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from utils.source import KeyPath, Tree, did_you_mean, nearest, shown


def whole(value: Any) -> Any:
    """1e5 is a float to YAML and a whole number to people."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Ge(1), Le(2**63 - 1), BeforeValidator(whole)]
Natural = Annotated[int, Ge(0), Le(2**63 - 1), BeforeValidator(whole)]
Positive = Annotated[float, Gt(0), Field(allow_inf_nan=False)]
Args = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]  # `args:` and no more


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Part(Model):
    """What to build: a class or function by name, and its arguments. The bare name is short for no arguments."""

    type: str = Field(description="name of a class or function of the project, or of the section's library")
    args: Args = Field({}, description="its arguments by name")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value


class SchedulerPart(Part):
    """A learning-rate schedule."""

    interval: Literal["step", "epoch"] | None = Field(None, description="when it advances; null: what its type wants")


def _shape(value: Any) -> str:
    several = isinstance(value, dict) and value and not value.keys() & {"type", "args"}
    return "(several)" if several and all(isinstance(part, (dict, Part)) for part in value.values()) else "(one)"


# One part, or several by name: {generator: {type: Adam}, critic: {type: Adam}}
Parts = Annotated[Annotated[Part, Tag("(one)")] | Annotated[dict[str, Part], Tag("(several)")], Discriminator(_shape)]
SchedulerParts = Annotated[
    Annotated[SchedulerPart, Tag("(one)")] | Annotated[dict[str, SchedulerPart], Tag("(several)")],
    Discriminator(_shape),
]
PartList = Annotated[list[Part], BeforeValidator(lambda value: [] if value is None else value)]


class TrainerConfig(Model):
    """How long, how often and how the model is trained."""

    type: str = Field("Trainer", description="a class of trainer/")
    args: Args = Field({}, description="the arguments that this class adds to those of BaseTrainer")
    epochs: Count | None = Field(None, description="passes over the training data")
    max_steps: Count | None = Field(None, validate_default=True, description="optimizer steps, in place of epochs")
    save_dir: str = Field("saved/", min_length=1, description="folder of all runs: save_dir/name/run-id")
    save_period: Count = Field(1, description="epochs between two checkpoints")
    save_steps: Count | None = Field(None, description="optimizer steps between two checkpoints")
    valid_period: Count = Field(1, description="epochs between two validations")
    valid_steps: Count | None = Field(None, description="optimizer steps between two validations")
    keep_last: Count = Field(3, description="checkpoints to keep, besides the best")
    verbosity: Literal[0, 1, 2] = Field(2, description="console: 0 warnings, 1 epochs, 2 everything")
    monitor: str = Field("off", description="what the best model is chosen by: min NAME, max NAME or off")
    early_stop: Count | None = Field(None, description="stop after so many validations without a better `monitor`")
    tensorboard: bool = Field(True, description="write TensorBoard event files")
    log_steps: Count = Field(50, description="optimizer steps between two log points")
    accumulate: Count = Field(1, description="micro-batches that a batch is cut into; saves memory, not time")
    clip_grad_norm: Positive | None = Field(None, description="largest norm of all gradients together")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="number format of the forward pass")
    compile: bool | Literal["model", "step"] = Field(
        False, description="torch.compile for the model, or for the step: model, loss and metrics in one"
    )
    channels_last: bool | None = Field(None, description="memory format of convolutions; null: where it is faster")
    fast_cpu: bool = Field(True, description="keep freed memory, take numbers below 1e-38 as zero")
    tf32: bool = Field(True, description="on NVIDIA GPUs: products of fp32 numbers from their first 10 bits, faster")
    cudnn_benchmark: bool = Field(
        False, description="on NVIDIA GPUs: the fastest convolutions by trial, perhaps others after a resume"
    )
    deterministic: bool = Field(False, description="on GPUs: only kernels that give the same bits each time; slower")
    limit_batches: Count | None = Field(None, description="steps of an epoch and batches of a validation at most")
    timeout: Count = Field(600, description="seconds without progress that end a run of several processes")
    skip_bad_samples: Natural = Field(0, description="samples that may fail to load before the run stops")
    sync_batchnorm: bool = Field(False, description="batch norm over the samples of all processes, not of each")
    exact_ranks: bool = Field(
        False,
        description="the same bits on any number of processes; accumulate counts the micro-batches of all of them",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="what each of several processes holds: the whole model, or a part of it"
    )
    shard: list[str] | None = Field(
        None, description="with fsdp: classes of the blocks that are put together one at a time; null: found by size"
    )

    @field_validator("max_steps")
    @classmethod
    def _some_end(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and info.data.get("epochs", "wrong") is None:
            raise ValueError("neither `epochs` nor `max_steps` was given; give one, for example epochs: 10")
        return value

    @field_validator("monitor")
    @classmethod
    def _monitor(cls, value: str) -> str:
        if value != "off" and (len(value.split()) != 2 or value.split()[0] not in ("min", "max")):
            raise ValueError(
                f"{shown(value)} was given; `min NAME`, `max NAME` or `off` is accepted, as in min val_loss"
            )
        return value

    @field_validator("early_stop", "exact_ranks", "parallel", "shard")
    @classmethod
    def _goes_with_the_keys_above(cls, value: Any, info: ValidationInfo) -> Any:
        key, given = info.field_name, info.data
        if key == "early_stop" and value is not None and given.get("monitor") == "off":
            raise ValueError("without `monitor` there is nothing to stop by; give one, as in monitor: min val_loss")
        if key == "exact_ranks" and value and (given.get("skip_bad_samples") or given.get("sync_batchnorm")):
            raise ValueError("true does not go with skip_bad_samples or sync_batchnorm; leave one of them out")
        against = [name for name in ("exact_ranks", "skip_bad_samples", "channels_last") if given.get(name)]
        against += ["precision: fp16"] if given.get("precision") == "fp16" else []
        if key == "parallel" and value == "fsdp" and against:
            raise ValueError(f"fsdp does not go with {' or '.join(against)}; leave one of them out, or give ddp")
        if key == "shard" and value is not None and given.get("parallel") == "ddp":
            raise ValueError("with ddp nothing is cut into blocks; give parallel: fsdp, or leave it out")
        return value


class RunConfig(Model):
    """A training run."""

    name: str = Field(description="the run's folder in save_dir")
    n_gpu: Natural | Literal["auto"] = Field(1, description="GPUs to use; 0: the CPU, auto: all")
    seed: Natural = Field(1, description="all randomness is a function of it")
    arch: Part = Field(description="the model, from model/model.py or torchvision.models")
    data_loader: Part = Field(description="the data, from data_loader/data_loaders.py")
    optimizer: Parts = Field(description="from torch.optim; several as {submodule: part}")
    loss: Part = Field(description="from model/loss.py or torch.nn")
    metrics: PartList = Field([], description="from model/metric.py or torchmetrics")
    lr_scheduler: SchedulerParts | None = Field(None, description="from torch.optim.lr_scheduler")
    callbacks: PartList = Field([], description="from trainer/callbacks.py, run in this order")
    init_from: str | None = Field(None, min_length=1, description="a checkpoint whose weights the run starts from")
    trainer: TrainerConfig = Field(description="how long, how often and how to train")

    @field_validator("name")
    @classmethod
    def _inside_save_dir(cls, value: str) -> str:
        if not value.strip() or value in (".", "..") or any(c in "/\\" or not c.isprintable() for c in value):
            raise ValueError(f"{shown(value)} was given; the name of a folder is accepted, without / and \\")
        return value

    @field_validator("metrics")
    @classmethod
    def _distinct(cls, value: list[Part]) -> list[Part]:
        names = [part.type for part in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"{', '.join(twice)} more than once; a metric is known by its name, so each may stand once"
            )
        return value

    @field_validator("lr_scheduler")
    @classmethod
    def _of_an_optimizer(cls, value: Any, info: ValidationInfo) -> Any:
        optimizers = info.data.get("optimizer")
        if isinstance(value, dict) and isinstance(optimizers, Part):
            raise ValueError("several schedules for one optimizer; give one part")
        if isinstance(value, dict) and isinstance(optimizers, dict) and value.keys() - optimizers.keys():
            unknown = ", ".join(sorted(value.keys() - optimizers.keys()))
            raise ValueError(f"no optimizer is called {unknown}; the optimizers are {', '.join(optimizers)}")
        return value


# -- errors for people ------------------------------------------------------------------------------------------------


def describe(annotation: Any, metadata: tuple = ()) -> str:
    """What a value of this type looks like in a config."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(inner[0], inner[1:])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in inner if not (member is int and float in inner))
    if origin is Literal:
        return ", ".join(map(str, inner[:-1])) + (" or " if inner[1:] else "") + str(inner[-1])
    bounds = [f" of at least {m.ge}" for m in metadata if isinstance(m, Ge)]
    bounds += [f" above {m.gt}" for m in metadata if isinstance(m, Gt)]
    if origin in (list, tuple) and inner:
        fixed = origin is tuple and ... not in inner
        return f"a list of {len(inner)} values" if fixed else f"a list, each entry {describe(inner[0])}"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}
    plain |= {list: "a list", tuple: "a list", dict: "a mapping"}
    parts = {Part: "NAME or {type: NAME, args: {...}}", TrainerConfig: "a mapping"}
    return (plain | parts | {SchedulerPart: parts[Part]}).get(origin or annotation, "another type") + "".join(bounds)


def _model(path: KeyPath) -> type[BaseModel]:
    """The model whose keys stand under `path`."""
    if not path:
        return RunConfig
    models: dict[Any, type[BaseModel]] = {"trainer": TrainerConfig, "lr_scheduler": SchedulerPart}
    return models.get(path[0], Part)


def _keys(path: KeyPath) -> list[str]:
    return [*_model(path).model_fields, *(() if path else ("base",))]


def _accepted(path: KeyPath) -> str:
    field = _model(path[:-1]).model_fields.get(str(path[-1]))
    if field is None:  # an entry of `metrics`, or one optimizer of several
        return f"{describe(Part)} is accepted"
    return f"{describe(field.annotation, tuple(field.metadata))} is accepted ({field.description})"


def problems(error: ValidationError, tree: Tree) -> list[str]:
    """A line for each thing that is wrong with the fixed part: place, what was given, what is accepted."""
    errors = [(_given(e["loc"], tree), e) for e in error.errors(include_url=False)]
    meant: dict[KeyPath, str | None] = {}  # unknown key -> the key that it probably stands for
    for path, e in errors:
        if e["type"] == "extra_forbidden":
            meant[path] = nearest(str(path[-1]), _keys(path[:-1]))
    repaired = {(*path[:-1], key) for path, key in meant.items() if key}
    lines = []
    for path, e in errors:
        key, place = str(e["loc"][-1]), tree.place(path)
        if path in meant:
            lines.append(f"{place}: unknown key{did_you_mean(meant[path])} accepted: {', '.join(_keys(path[:-1]))}")
        elif e["type"] == "missing":
            if (*path, key) not in repaired:  # or else its misspelling has been told
                lines.append(f"{place}: `{key}` is missing; {_accepted((*path, key))}")
        elif e["type"] == "value_error":
            if path[-1:] == (key,) or not any(p[:-1] == path for p in repaired):
                lines.append(f"{place}: {e['ctx']['error']}")
        else:
            lines.append(f"{place}: {shown(e['input'])} was given; {_accepted(path)}")
    return list(dict.fromkeys(lines))  # a union complains once for each of its members


def _given(loc: KeyPath, tree: Tree) -> KeyPath:
    """The part of pydantic's location that is in the config: without a key that is missing and the tags of unions."""
    path: KeyPath = ()
    for key in loc:
        path = (*path, key) if (*path, key) in tree.where else path
    return path


def json_schema(names: dict[str, list[str]]) -> dict[str, Any]:
    """The JSON Schema that editors complete with; `names` are the project's own by section, others are welcome."""
    schema = RunConfig.model_json_schema()
    properties = schema["properties"]
    files = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    properties["base"] = files | {"description": "files that this one is merged over, relative to it"}
    for model in (schema, *schema["$defs"].values()):
        model.pop("required", None)  # any file may hold a part of a config
    for section, own in names.items():
        known: dict[str, Any] = {"anyOf": [{"enum": own}, {"type": "string"}]}
        if section == "trainer":
            schema["$defs"]["TrainerConfig"]["properties"]["type"] |= known
            continue
        field = properties[section]
        forms = {key: field.pop(key) for key in ("$ref", "anyOf", "oneOf", "items") if key in field}
        text = json.dumps(forms).replace('"oneOf"', '"anyOf"')
        for model in ("Part", "SchedulerPart"):
            ref = {"$ref": f"#/$defs/{model}"}
            part = {"anyOf": [*known["anyOf"], {"allOf": [ref, {"properties": {"type": known}}]}]}
            text = text.replace(json.dumps(ref), json.dumps(part))
        field |= json.loads(text)
    return schema
