"""Export a run: build its model, write the file, read it back, and compare the two on real samples."""

import copy
import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logger.console import log
from trainer.engine import setup
from trainer.engine.evaluation.kinds import kind_of
from trainer.engine.outputs import main_output
from trainer.export import exported, formats
from trainer.export.formats import Format
from trainer.export.module import Pixels, Predicting, leaves, without_bags
from trainer.inference import members
from trainer.inference.journal import writing
from trainer.inference.members import Member, Source
from utils.errors import Stopped, UsageError
from utils.run_folder import CHECKPOINTS
from utils.tensors import each_tensor

CPU = torch.device("cpu")
TOLERANCE = {False: 1e-4, True: 1e-2}  # by --half; relative to the largest output, or 1
BATCHES = 3  # of real samples that are compared
SIZES = (1, 2, 7)  # samples of a batch that are compared too


@dataclass
class Options:
    format: Format = "onnx"
    half: bool = False
    with_preprocessing: bool = False
    out: Path | None = None
    tolerance: float | None = None
    data: Sequence[str] = ()


@dataclass
class Report:
    path: Path
    difference: float  # the largest, relative to the largest output, or 1
    size: int  # bytes


def export(source: Source, options: Options) -> Report:
    """Write the file. Raises Stopped, and leaves none, where it cannot be exported or differs by more than allowed."""
    if isinstance(source.weights, exported.Exported):
        raise UsageError(f"-r {source}: it is exported already; give the folder of its run, or a checkpoint")
    formats.check_installed(options.format)
    if options.with_preprocessing and options.format == "safetensors":
        raise UsageError(
            "--with-preprocessing: a safetensors file holds weights alone, and computes nothing; leave it out"
        )
    loader = real_samples(source, options.data)
    member = Member(source, loader, CPU)
    member.trainer.model.to(memory_format=torch.contiguous_format)
    normalization = Pixels.of(loader)
    if options.with_preprocessing and normalization is None:
        raise UsageError(
            "--with-preprocessing: only the normalization of images can go into the file, and this data loader has "
            "none that is known; leave it out. What the loader learned from the data is in the file's metadata"
        )
    pixels = normalization if options.with_preprocessing else None
    folder = source.path.parent.parent if source.path.parent.name == CHECKPOINTS else source.path.parent
    out = options.out or folder / f"model{formats.SUFFIXES[options.format]}"
    if out.suffix != formats.SUFFIXES[options.format]:
        raise UsageError(f"--out {out}: give a name that ends in {formats.SUFFIXES[options.format]}")
    tolerance = TOLERANCE[options.half] if options.tolerance is None else options.tolerance
    with member.eval_mode(), torch.inference_mode(False), torch.no_grad():
        batches = [one_more(each_tensor(torch.clone, found)) for found in read(member)]
        expected = [main_output(member.trainer.predict_step(batch)) for batch in batches]
        tensors = [leaves(batch) for batch in batches]
        inputs = formats.inputs_of([list(map(pixels.inverse, found)) if pixels else found for found in tensors])
        about = describe(member, expected[0], normalization, options)
        temporary = out.with_name(f".tmp-{os.getpid()}-{out.name}")
        try:
            with writing(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                formats.write(options.format, _module(member, batches[0], pixels, options), inputs, temporary, about)
                difference = compare(member, temporary, batches, expected)
                if not difference <= tolerance:
                    raise Stopped(
                        f"{out} is not written: it differs from the model by {difference:.3g} of the largest output on "
                        f"{sum(len(found[0]) for found in tensors):,} real samples, and --tolerance is {tolerance:g}"
                        + ("; float16 may be too coarse for this model: leave out --half" if options.half else "")
                    )
                os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    report = Report(out, difference, out.stat().st_size)
    log.info(
        f"{source}, step {source.step}, as {options.format}{' in float16' if options.half else ''}: {out}, "
        f"{report.size / 1e6:.2f} MB\nlargest difference from the model on real samples: {difference:.3g} (relative to "
        f"the largest output)"
    )
    return report


def _module(member: Member, example: Any, pixels: Pixels | None, options: Options) -> torch.nn.Module:
    trainer = copy.copy(member.trainer)
    trainer.model = copy.deepcopy(member.trainer.model)  # which half() changes
    if options.half:
        trainer.model.half()
    if options.format == "onnx":
        without_bags(trainer.model)
    return Predicting(trainer, example, pixels, options.half).eval()


def real_samples(source: Source, data: Sequence[str]) -> Any:
    """The loader of `data`; without any, of the run's test data, or its validation or training data."""
    config = source.config
    if data:
        loader = members.unlabeled_loader(source, CPU, data)
    else:
        try:
            loader = setup.all_in_order(config, "data_loader", config.run.data_loader, source.facts)
        except UsageError:
            try:
                loader = config.build("data_loader")
            except UsageError as e:
                raise UsageError(
                    f"{e}\nThe exported model is compared with the run's on real samples: give some, --data FILES"
                ) from e
            held_out = setup.validation(config, loader)
            loader = held_out if held_out is not None and not isinstance(held_out, dict) else loader.for_testing()
    members.configure(loader, source, CPU)
    return loader


def read(member: Member) -> list[Any]:
    """The inputs of the first batches. Raises Stopped where none can be read."""
    found, loader = [], member.loader
    for batch in loader.read_batches(range(min(BATCHES, loader.sampler.num_steps))):
        if batch.size:
            found.append(member.trainer.inputs_of(member.trainer.unpack(batch.data)))
    if not found:
        raise Stopped("no real sample could be read to compare the exported model with; give others, --data FILES")
    return found


def one_more(inputs: Any) -> Any:
    """The same with two samples at least: torch.export takes a batch of one for one that is always of one."""
    return each_tensor(lambda t: torch.cat([t, t]), inputs) if len(leaves(inputs)[0]) < 2 else inputs


def describe(member: Member, output: Any, normalization: Pixels | None, options: Options) -> dict[str, Any]:
    """The metadata of the file, in plain types, but for its inputs."""
    source, config = member.source, member.source.config
    of_rows = output.dim() in (1, 2, 4)
    kind = kind_of(config.run.loss.type, output, source.facts.get("num_classes")).name if of_rows else "values"
    return {
        "format": 1,
        "run": str(source.path),
        "step": source.step,
        "class_names": source.facts.get("class_names"),
        "outputs": kind,
        "preprocessing": (normalization.about() if normalization else {})
        | {"included": options.with_preprocessing, "data_loader": config.run.data_loader.model_dump()},
        "half": options.half,
        "facts": source.facts,
        "config": source.whole_config,
    }


def compare(member: Member, path: Path, batches: list[Any], expected: list[Tensor]) -> float:
    """The largest difference of the file's outputs, relative to the largest output of the model, or 1.

    expected: the model's outputs of the batches. Smaller batches are compared too, and shorter ones.
    """
    _, model = exported.source(path, [])
    pairs = list(zip(batches, expected, strict=True))
    for n in SIZES:
        if n < len(leaves(batches[0])[0]):
            cut = each_tensor(operator.itemgetter(slice(n)), batches[0])
            pairs.append((cut, main_output(member.trainer.predict_step(cut))))
    pairs += _shorter(member, model, batches[0])
    worst = 0.0
    for inputs, wanted in pairs:
        wanted = wanted.double()
        try:
            found = _called(member, model, inputs).double()
        except (UsageError, torch.OutOfMemoryError):
            raise
        except Exception as e:
            shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves(inputs))
            raise Stopped(f"the file fails for inputs {shapes}, which the model takes: {type(e).__name__}: {e}") from e
        if found.shape != wanted.shape:
            raise Stopped(f"the file gives outputs {list(found.shape)} where the model gives {list(wanted.shape)}")
        gap = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1) if wanted.numel() else torch.tensor(0.0)
        worst = max(worst, float(gap)) if not math.isnan(float(gap)) else math.inf
    return worst


def _shorter(member: Member, model: Any, inputs: Any) -> list[tuple[Any, Tensor]]:
    """The inputs at half their length and the model's outputs, where a length of one tensor may vary."""
    if not isinstance(model, exported.Exported) or len(leaves(inputs)) > 1:
        return []
    shape = model.about["inputs"][0]["shape"]
    if "length" not in shape:
        return []
    axis = shape.index("length")
    cut = each_tensor(lambda tensor: tensor.narrow(axis, 0, max(1, tensor.shape[axis] // 2)), inputs)
    try:
        return [(cut, main_output(member.trainer.predict_step(cut)))]
    except Exception:  # too short for the model
        return []


def _called(member: Member, model: Any, inputs: Any) -> Tensor:
    if isinstance(model, exported.Exported):
        return model(inputs)
    trainer = copy.copy(member.trainer)  # weights alone, which the trainer's predict_step calls
    trainer.model = model
    return main_output(trainer.predict_step(inputs))
