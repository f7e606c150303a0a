"""A whole job of predict.py: batches in order, over one process or several, into a table that survives a kill."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logger.console import log
from logger.progress_bar import ProgressBar
from trainer.engine import setup
from trainer.engine.evaluation.kinds import average, task_of
from trainer.inference import members, weights
from trainer.inference.columns import Columns, width_of
from trainer.inference.journal import PART, Journal
from trainer.inference.masks import TABLE, Masks
from trainer.inference.members import Member, Source
from trainer.inference.views import views
from utils.errors import DataError, Stopped, UsageError
from utils.process import group
from utils.process.watchdog import heartbeat

SHOWN = 10  # bad samples that are named
SKIP = "Repair or remove it, and run the same command again; or leave such samples out by --skip-bad"


@dataclass
class Options:
    """Options of the command line besides the runs and the data."""

    out: Path | None = None  # predictions.csv, or the folder predictions of masks
    columns: list[str] | None = None
    with_probabilities: bool = False
    of_logits: bool = False
    weights: str | None = None
    views: list[str] = field(default_factory=list)
    skip_bad: bool = False
    for_excel: bool = False


class Ensemble:
    """Members, each with the loader of its data, and how their predictions are averaged."""

    def __init__(self, sources: Sequence[Source], device: torch.device, data: Sequence[str], options: Options) -> None:
        members.check_together(sources)
        self.sources, self.options, self.views = sources, options, views(options.views)
        self.data = [os.path.abspath(path) if os.path.exists(path) else path for path in data]
        found = members.loaders(sources, device, data)
        self.members = [Member(source, loader, device) for source, loader in zip(sources, found, strict=True)]
        self.loaders = list({id(loader): loader for loader in found}.values())
        self.loader = self.loaders[0]
        unlabeled = self.loader.unlabeled
        self.table: Mapping[str, Sequence[str]] = unlabeled.columns if unlabeled is not None else {}
        self.left_out = list(unlabeled.bad) if unlabeled is not None else []  # rows that the loader could not read
        if self.left_out and not options.skip_bad:
            raise DataError(f"{self.left_out[0][1]}\n{SKIP}")
        found_weights = self._fit(device) if options.weights == "auto" else weights.given(options.weights, len(sources))
        for member, weight in zip(self.members, found_weights, strict=True):
            member.weight = weight

    @contextlib.contextmanager
    def eval_mode(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.eval_mode())
            yield

    def predict(self, batches: Sequence[Any], number: int) -> tuple[np.ndarray, Tensor]:
        """The samples that could be read, and their averaged outputs. batches: one per loader."""
        by_loader = {id(loader): batch for loader, batch in zip(self.loaders, batches, strict=True)}
        indices = batches[0].indices
        for batch in batches[1:]:
            indices = np.intersect1d(indices, batch.indices)  # which keeps the order: they ascend
        each = list[Tensor]()
        for member in self.members:
            batch = by_loader[id(member.loader)]
            found = member.probabilities(member.inputs(batch.data), number, self.views)
            whole = average(member.kind.name, found, [1 / len(found)] * len(found), self.options.of_logits)
            each.append(whole[torch.from_numpy(np.isin(batch.indices, indices))])
        if any(each[0].shape != other.shape for other in each):
            raise UsageError(
                f"the runs do not predict the same: their outputs are {', '.join(str(list(x.shape)) for x in each)}; "
                f"average runs of one task"
            )
        weights_of = [member.weight for member in self.members]
        return indices, average(self.members[0].kind.name, each, weights_of, self.options.of_logits)

    def look(self) -> Tensor:
        """The outputs of the first batch that can be read, by which it is decided what they are."""
        why = ""
        for number in range(self.loader.sampler.num_steps):
            batches = [_batch(loader, number) for loader in self.loaders]
            why = why or next((batch.bad[0][1] for batch in batches if batch.bad), "")
            if all(batch.size for batch in batches):
                with self.eval_mode():
                    _, outputs = self.predict(batches, number)
                tasks = [task_of(member.kind.name) for member in self.members]
                if len(set(tasks)) > 1:
                    raise UsageError(f"the runs do not predict the same: {', '.join(tasks)}; average runs of one task")
                return outputs
        raise Stopped(f"none of the {self.loader.sampler.n:,} samples could be read; the first: {why}")

    def _fit(self, device: torch.device) -> list[float]:
        """By the validation data, which must be the same samples for all runs, so that none has trained with it."""
        of_target, of_first = [], None
        for member in self.members:
            config = member.source.config
            loader = config.build("data_loader")
            valid = setup.validation(config, loader)
            if valid is None or isinstance(valid, dict):
                raise UsageError(
                    f"--weights auto needs one validation set, but {member.source.run} has "
                    f"{'none' if valid is None else 'several'}; give the weights, such as --weights 2,1"
                )
            members.configure(valid, member.source, device)
            with member.eval_mode():
                batches = list(valid.read_batches(range(valid.sampler.num_steps)))
                of_target.append(torch.cat([_of_target(member, batch, i) for i, batch in enumerate(batches)]))
            indices = np.concatenate([batch.indices for batch in batches])
            of_first = indices if of_first is None else of_first
            if not np.array_equal(indices, of_first):
                raise UsageError("--weights auto: the runs have different validation data; give the weights instead")
        found = weights.fitted(of_target)
        shown = ", ".join(f"{m.source.run} {weight:.3f}" for m, weight in zip(self.members, found, strict=True))
        log.info(f"weights by {len(of_target[0]):,} validation samples: {shown}")
        return found


def _batch(loader: Any, number: int) -> Any:
    with contextlib.closing(loader.read_batches([number])) as batches:
        return next(batches)


def _of_target(member: Member, batch: Any, number: int) -> Tensor:
    (found,) = member.probabilities(member.inputs(batch.data), number)
    _, targets = member.trainer.unpack(batch.data)
    if found.dim() != 2 or task_of(member.kind.name) != "classes":
        raise UsageError("--weights auto is for one class per sample; give the weights, such as --weights 2,1")
    return found.gather(1, targets.cpu()[:, None])[:, 0]


def run(ensemble: Ensemble, options: Options) -> int:
    """Predict all and write the table; returns the number of its rows."""
    loader, main = ensemble.loader, group.is_main()
    total, world = loader.sampler.num_steps, group.world_size()
    outputs = ensemble.look()
    for member in ensemble.members:
        log.info(f"{member.source}: its outputs are taken for {member.kind}")
    rows_of, out = _form(ensemble, options, outputs)
    journal = Journal(out, rows_of.header, _job(ensemble, options), options.for_excel) if main else None
    done = group.broadcast(journal.done if journal else 0)
    bar = ProgressBar(main)
    bar.start("predict", total, done)
    mine = range(done + group.rank(), total, world)
    streams = [one.read_batches(mine) for one in ensemble.loaders]
    try:
        with ensemble.eval_mode():
            for start in range(done, total, world):
                heartbeat(f"predicting batch {start + 1}", start)
                part = _rows(ensemble, rows_of, streams, start + group.rank()) if start + group.rank() < total else None
                for rows, bad in (part for part in group.gather(part) if part is not None):
                    if bad and not options.skip_bad:
                        raise Stopped(_refused(bad, out))
                    if journal:
                        journal.add(rows, bad)
                    bar.step()
    except KeyboardInterrupt:
        log.info(f"interrupted: the same command continues, from {out}.part")
        raise
    finally:
        bar.stop()
        for stream in streams:
            stream.close()
    return _finish(journal, ensemble.left_out) if journal else 0


def _form(ensemble: Ensemble, options: Options, outputs: Tensor) -> tuple[Columns | Masks, Path]:
    """What makes rows of outputs, and the file of the table: masks of images, for outputs [B, C, H, W]."""
    first, out = ensemble.members[0], options.out
    if outputs.dim() != 4:
        out = out or Path("predictions.csv")
        if out.is_dir():
            raise UsageError(f"--out {out} is a folder; give the name of a file, such as {out / 'predictions.csv'}")
        if os.path.abspath(out) in ensemble.data:
            raise UsageError(f"--out {out} is the data itself, which it would replace; give another name")
        names, width, kind = first.source.outputs_named, width_of(outputs), first.kind.name
        return Columns(options.columns, options.with_probabilities, kind, names, width, ensemble.table), out
    out = out or Path("predictions")
    if out.is_file() or (out.suffix and not out.is_dir()):
        raise UsageError(f"--out {out}: this run predicts a mask for each image; give a folder for them: --out masks")
    inside = [at for at in ensemble.data if os.path.isdir(at) and Path(os.path.abspath(out)).is_relative_to(at)]
    if inside:
        raise UsageError(
            f"--out {out} is within {inside[0]}: masks there would be taken for images; give another folder"
        )
    if options.columns or options.with_probabilities:
        raise UsageError("--columns, --prob: this run predicts a mask for each image, not a row; leave them out")
    if ensemble.loader.unlabeled is None:
        raise UsageError(
            "data_loader: masks get the names and sizes of the images; set self.unlabeled of the data loader to them"
        )
    values = ensemble.loader.facts.get("mask_values")
    return Masks(out, ensemble.loader.unlabeled.paths, first.kind.name, outputs, values), out / TABLE


def _rows(
    ensemble: Ensemble, rows_of: Columns | Masks, streams: Sequence[Iterator[Any]], number: int
) -> tuple[list[list[str]], list[tuple[str, str]]]:
    batches = [next(stream) for stream in streams]
    bad = {index: why for batch in batches for index, why in batch.bad}
    names = ensemble.loader.names(list(bad))
    failed = [(name, why) for name, why in zip(names, bad.values(), strict=True)]
    if not all(batch.size for batch in batches):
        return [], failed
    indices, outputs = ensemble.predict(batches, number)
    return rows_of.rows(indices.tolist(), ensemble.loader.names(indices), outputs), failed


def _refused(bad: Sequence[tuple[str, str]], out: Path) -> str:
    reason = bad[0][1].partition("\nRepair")[0]
    return f"{reason}\n{SKIP}. What is predicted so far is in {out}.part, and is continued"


def _finish(journal: Journal, left_out: Sequence[tuple[str, str]]) -> int:
    count, failed = journal.finish()
    bad = [*left_out, *failed]
    for name, why in bad[:SHOWN]:
        log.warning(f"left out: {name}: {why}")
    if len(bad) > SHOWN:
        log.warning(f"left out: {len(bad) - SHOWN:,} more")
    log.info(f"{count:,} rows in {journal.out}" + (f", without {len(bad):,} bad samples" if bad else ""))
    return count


def _job(ensemble: Ensemble, options: Options) -> Any:
    """What the rows depend on, in plain types."""
    loader = ensemble.loader
    names = hashlib.blake2b(digest_size=16)
    for index in range(loader.sampler.n):
        names.update(f"{loader.names([index])[0]}\n".encode())
    runs = []
    for member in ensemble.members:
        file = member.source.path.stat()
        config = json.dumps(member.source.whole_config, sort_keys=True, default=str)
        runs.append([str(member.source.path.resolve()), file.st_size, file.st_mtime_ns, member.weight, config])
    return [
        runs, ensemble.data, _files(ensemble), loader.sampler.n, loader.batch_size, names.hexdigest(), options.columns,
        options.with_probabilities, options.of_logits, options.views,
    ]  # fmt: skip


def _files(ensemble: Ensemble) -> list[list[int]]:
    """Size and time of the files of several samples: tables, arrays, archives.

    Not of files that are a sample each: one may be repaired in between.
    """
    unlabeled = ensemble.loader.unlabeled
    samples = set(map(os.path.abspath, unlabeled.paths)) if unlabeled is not None else set()
    files = [Path(path) for path in ensemble.data if os.path.isfile(path) and path not in samples]
    for folder in (path for path in ensemble.data if os.path.isdir(path) and not samples):
        inside = [path.relative_to(folder) for path in sorted(Path(folder).rglob("*"))]
        shown = [path for path in inside if path.suffix != PART and not any(p.startswith(".") for p in path.parts)]
        files += [path for path in (Path(folder, path) for path in shown) if path.is_file()]
    return [[found.st_size, found.st_mtime_ns] for found in map(os.stat, files)]
