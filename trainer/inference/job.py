"""A whole job of predict.py: batches in order, over one process or several, into a table that survives a kill."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
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
from trainer.inference.columns import Columns
from trainer.inference.journal import Journal
from trainer.inference.members import Member, Source
from trainer.inference.views import views
from utils.errors import Stopped, UsageError
from utils.process import group
from utils.process.watchdog import heartbeat

SHOWN = 10  # bad samples that are named


@dataclass
class Options:
    """What the command line says beside the runs and the data."""

    out: Path = Path("predictions.csv")
    columns: list[str] | None = None
    with_probabilities: bool = False
    of_logits: bool = False
    weights: str | None = None
    views: list[str] = field(default_factory=list)
    skip_bad: bool = False


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
        self._set_weights(device)

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
            found = member.probabilities(batch.data, number, self.views)
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

    def _set_weights(self, device: torch.device) -> None:
        if self.options.weights == "auto":
            found = self._fit(device)
        else:
            found = weights.given(self.options.weights, len(self.members))
        for member, weight in zip(self.members, found, strict=True):
            member.weight = weight

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
    (found,) = member.probabilities(batch.data, number, ())
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
    first = ensemble.members[0]
    table = loader.unlabeled.columns if loader.unlabeled is not None else {}
    width = outputs.shape[1] if outputs.dim() == 2 else 0
    names = first.source.outputs_named
    if width == 1:  # [B, 1] is [B]
        width = 0
    columns = Columns(options.columns, options.with_probabilities, first.kind.name, names, width, table)
    journal = Journal(options.out, columns.header, _job(ensemble, options)) if main else None
    done = group.broadcast(journal.done if journal else 0)
    bar = ProgressBar(main)
    bar.start("predict", total, done)
    mine = range(done + group.rank(), total, world)
    streams = [one.read_batches(mine) for one in ensemble.loaders]
    try:
        with ensemble.eval_mode():
            for start in range(done, total, world):
                heartbeat(f"predicting batch {start + 1}", start)
                part = _rows(ensemble, columns, streams, start + group.rank()) if start + group.rank() < total else None
                for rows, bad in (part for part in group.gather(part) if part is not None):
                    if bad and not options.skip_bad:
                        raise Stopped(_refused(bad, options))
                    if journal:
                        journal.add(rows, bad)
                    bar.step()
    except KeyboardInterrupt:
        log.info(f"interrupted: the same command continues, from {options.out}.part")
        raise
    finally:
        bar.stop()
        for stream in streams:
            stream.close()
    return _finish(journal, options) if journal else 0


def _rows(
    ensemble: Ensemble, columns: Columns, streams: Sequence[Iterator[Any]], number: int
) -> tuple[list[list[str]], list[tuple[str, str]]]:
    batches = [next(stream) for stream in streams]
    bad = {index: why for batch in batches for index, why in batch.bad}
    names = ensemble.loader.names(list(bad))
    failed = [(name, why) for name, why in zip(names, bad.values(), strict=True)]
    if not all(batch.size for batch in batches):
        return [], failed
    indices, outputs = ensemble.predict(batches, number)
    return columns.rows(indices.tolist(), ensemble.loader.names(indices), outputs), failed


def _refused(bad: Sequence[tuple[str, str]], options: Options) -> str:
    reason = bad[0][1].partition("\nRepair")[0]
    return (
        f"{reason}\nRepair or remove it, and run the same command again, which continues; or leave such samples out by "
        f"--skip-bad. What is predicted so far is in {options.out}.part"
    )


def _finish(journal: Journal, options: Options) -> int:
    count, bad = journal.finish()
    for name, why in bad[:SHOWN]:
        log.warning(f"left out: {name}: {why}")
    if len(bad) > SHOWN:
        log.warning(f"left out: {len(bad) - SHOWN:,} more")
    log.info(f"{count:,} rows in {options.out}" + (f", without {len(bad):,} bad samples" if bad else ""))
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
    is_table = loader.unlabeled is not None and loader.unlabeled.columns  # an image may be repaired in between
    tables = [os.stat(path) for path in ensemble.data if os.path.isfile(path)] if is_table else []
    return [
        runs, ensemble.data, [[file.st_size, file.st_mtime_ns] for file in tables], loader.sampler.n, loader.batch_size,
        names.hexdigest(), options.columns, options.with_probabilities, options.of_logits, options.views,
    ]  # fmt: skip
