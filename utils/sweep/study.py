"""A search as an Optuna study (extra `sweep`): asks for the next trial, and is given results.

What a trial came to is decided by its file in the sweep's folder; and the study is updated from it, with retries. With
sampler `random` or `grid`, the keys of a trial are a function of (seed, number).
"""

import contextlib
import importlib
import importlib.util
import inspect
import itertools
import json
import math
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from utils.config.files import ConfigError, did_you_mean, nearest, shown
from utils.errors import Stopped, UsageError
from utils.sweep.folder import Sweep, Trial, unusable, wait_for
from utils.sweep.points import text_of
from utils.sweep.result import objective_points
from utils.sweep.space import Key, Space
from utils.sweep.workers import Source

JOURNAL = "journal.log"
OWNER = "owner"  # attribute of a trial: the sweep folder that runs it
ADVISORY_KEY = 0x67726F756E64  # of the lock in PostgreSQL


def require() -> Any:
    """The module optuna. Raises UsageError where it is not installed."""
    try:
        import optuna
    except ImportError as e:
        raise UsageError("a search needs Optuna, which is not installed: make extra NAME=sweep") from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Search(Source):
    """The trials of a study, as far as this sweep's folder runs them.

    trials: how many in all, over all folders that share the storage. storage: the URL of a database; None: a journal in
    the folder. check: raises ConfigError for a point that the config does not allow.
    """

    def __init__(self, sweep: Sweep, space: Space, trials: int, storage: str | None) -> None:
        self.optuna = require()
        self.sweep, self.space, self.url = sweep, space, storage
        self.prunes = space.prune is not None
        self.trials = trials
        if space.sampler == "grid":
            self.trials = sum(1 for _ in itertools.islice(space.grid(), trials))
        with self._explained():
            self._engine = database(storage) if storage else None
            self.storage = self._storage()
            self.study = self.optuna.create_study(
                study_name="/".join(sweep.folder.absolute().parts[-2:]),
                storage=self.storage,
                directions=["minimize" if o.split()[0] == "min" else "maximize" for o in sweep.spec["objectives"]],
                pruner=pruner(space),
                load_if_exists=True,
            )
            self._same_space()
            with self.locked():  # at once: the workers first continue trials that have a file, and may prune them
                self._catch_up()

    # -- the storage --------------------------------------------------------------------------------------------------

    def _storage(self) -> Any:
        if self._engine is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self.optuna.storages.RDBStorage(self._engine.url.render_as_string(hide_password=False))
        path = self.sweep.folder / JOURNAL
        journal = importlib.import_module("optuna.storages.journal")
        return self.optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), JournalLock(path)))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within this, no other process adds trials to the study; a process that is killed leaves no lock behind."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.sweep.locked())
            if self._engine is not None:
                import sqlalchemy

                connection = stack.enter_context(self._engine.connect())
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({ADVISORY_KEY})"))
                stack.callback(connection.invalidate)  # closes the session, and with it the lock
            yield

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the storage as one message."""
        try:
            yield
        except (UsageError, Stopped):
            raise
        except Exception as e:
            of_storage = type(e).__module__.startswith(("sqlalchemy", "optuna", "psycopg", "json"))
            if not of_storage and not isinstance(e, (OSError, ImportError)):
                raise
            if isinstance(e, ImportError):
                raise Stopped(f"{e}; install what is missing, and continue with python sweep.py -r {self.sweep}") from e
            where = "the database of --storage" if self.url else self.sweep.folder / JOURNAL
            remedy = "start or repair that" if self.url else "remove it, as it can be rebuilt from the trials"
            text = str(e).strip().partition("\n")[0]
            if not self.sweep.exists:
                raise unusable(self.sweep, text) from e
            raise Stopped(
                f"{where} cannot be used: {type(e).__name__}: {text}; {remedy}, and continue with python "
                f"sweep.py -r {self.sweep}"
            ) from e

    def _same_space(self) -> None:
        """All that work on one study must search the same space."""
        space = json.dumps(self.space.tree.data.get("space"), sort_keys=True)
        known = self.study.user_attrs.get("space")
        if known is None:
            self.study.set_user_attr("space", space)
        elif known != space:
            raise UsageError(
                f"{self.study.study_name} in this storage searches another space; give the same, or another --sweep-id"
            )

    # -- trials -------------------------------------------------------------------------------------------------------

    def more(self) -> Trial | None:
        """A new trial, drawn once the study knows the results of all others."""
        with self._explained(), self.locked():
            self._catch_up()
            known = self.study.get_trials(deepcopy=False)
            for frozen in known:
                if self._is_mine(frozen) and not self.sweep.has(frozen.number):
                    return self._begin(frozen)  # another process was killed at this point, or the file was removed
            return self._begin(self._add()) if len(known) < self.trials else None

    def _catch_up(self) -> None:
        """Tell the study all that the files of this folder know, and add the trials that it has lost."""
        known, numbers = self.study.get_trials(deepcopy=False), self.sweep.numbers()
        if self.url and any(n >= len(known) or not self._is_mine(known[n]) for n in numbers):
            raise Stopped(  # each folder would rebuild only its own, and repeat those of the others
                f"the study in --storage has lost trials that {self.sweep} has; restore the database, or start a new "
                f"--sweep-id"
            )
        for _ in range(len(known), max(numbers, default=-1) + 1):
            self._add()
        running = (self.optuna.trial.TrialState.RUNNING,)
        for frozen in self.study.get_trials(deepcopy=False, states=running):
            if self._is_mine(frozen) and self.sweep.has(frozen.number):
                self._tell(frozen, self._begin(frozen))

    def _add(self) -> Any:
        """A trial without keys, which this folder is to run."""
        owner = {OWNER: self.sweep.spec["owner"], "host": socket.gethostname()}
        running = self.optuna.trial.TrialState.RUNNING
        self.study.add_trial(self.optuna.trial.create_trial(state=running, user_attrs=owner))
        return self.study.get_trials(deepcopy=False)[-1]

    def _is_mine(self, frozen: Any) -> bool:
        return bool(frozen.user_attrs.get(OWNER) == self.sweep.spec["owner"])

    def _begin(self, frozen: Any) -> Trial:
        """Choose the keys of a trial that the study has, and write its file; if it has one, the study gets its keys."""
        number, keys = frozen.number, {}
        known = self.sweep.trial(number) if self.sweep.has(number) else None
        if known is not None:
            keys = known.keys
            if keys.keys() <= frozen.params.keys():
                return known
        elif self.space.sampler == "grid":
            keys = next(itertools.islice(self.space.grid(), number, None))
        if keys and not frozen.state.is_finished():  # as `study.enqueue_trial` gives them
            given = {name: _plain(value) for name, value in keys.items()}
            self.storage.set_trial_system_attr(frozen._trial_id, "fixed_params", given)
        asked = self.optuna.trial.Trial(self.study, frozen._trial_id)  # no public name; needed to continue a trial

        def choose(key: Key) -> Any:
            self.study.sampler = sampler(self.space, number, key)
            return _suggest(asked, key)

        trial = Trial(number, self.space.suggest(choose))
        if known is None:
            self.sweep.write(trial)
        return known or trial

    def _tell(self, frozen: Any, trial: Trial) -> None:
        """Give the study the result of a trial that it has as running, if there is one."""
        if self.prunes and trial.finished:  # it may have no points, or not the last ones; the pruner compares with them
            name = self.sweep.spec["objectives"][0].split()[1]
            for step, point in objective_points(self.sweep.run_folder(trial), name):
                if step not in frozen.intermediate_values and math.isfinite(point[name]):
                    self.storage.set_trial_intermediate_value(frozen._trial_id, step, point[name])
        states = self.optuna.trial.TrialState
        values = [trial.values.get(o.split()[1], math.nan) for o in self.sweep.spec["objectives"]]
        if trial.state == "pruned":
            self.study.tell(trial.number, state=states.PRUNED)
        elif trial.state == "done" and all(map(math.isfinite, values)):
            self.study.tell(trial.number, values)
        elif trial.finished:
            self.study.tell(trial.number, state=states.FAIL)

    def should_prune(self, trial: Trial, points: list[tuple[int, float]]) -> bool:
        with self._explained():
            known = self.study.get_trials(deepcopy=False)
            frozen = known[trial.number] if trial.number < len(known) else None
            if frozen is None or frozen.state.is_finished() or not self._is_mine(frozen):
                return False  # such as one that runs again with --retry: Optuna takes no more values of it
            asked = self.optuna.trial.Trial(self.study, frozen._trial_id)
            with contextlib.suppress(self.optuna.exceptions.UpdateFinishedTrialError):  # another process told its end
                for step, value in points:
                    if step not in frozen.intermediate_values and math.isfinite(value):
                        asked.report(value, step)
                        if asked.should_prune():
                            return True
        return False

    def elsewhere(self) -> list[Trial]:
        with self._explained():
            others = [t for t in self.study.get_trials(deepcopy=False) if not self._is_mine(t)]
        names = [objective.split()[1] for objective in self.sweep.spec["objectives"]]
        states = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}
        choices = {key.name: {_plain(v): v for v in key.values} for key in self.space.keys if key.kind == "choice"}
        found = []
        for frozen in others:
            keys = {k: choices[k][value] if k in choices else rounded(value) for k, value in frozen.params.items()}
            values = dict(zip(names, frozen.values or (), strict=False))
            found.append(Trial(frozen.number, keys, states.get(frozen.state.name, "waiting"), values))
        return found


def database(url: str) -> Any:
    """The SQLAlchemy engine of a PostgreSQL database. Raises UsageError where that cannot be."""
    import sqlalchemy

    if not url.startswith(("postgresql:", "postgresql+")):
        raise UsageError(f"--storage {url.partition(':')[0]}: expected postgresql://USER@HOST/DATABASE")
    if url.startswith("postgresql:"):
        drivers = [name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)]
        if not drivers:
            raise UsageError("--storage postgresql:// needs a driver, which is not installed: pip install psycopg")
        url = url.replace("postgresql:", f"postgresql+{drivers[0]}:", 1)
    try:
        return sqlalchemy.create_engine(url)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as e:
        raise UsageError(f"--storage: {e}; expected postgresql://USER@HOST/DATABASE") from None


def check_database(url: str) -> None:
    """Raise UsageError where the database of a new search cannot be, or does not answer."""
    import sqlalchemy

    engine = database(url)
    try:
        engine.connect().close()
    except sqlalchemy.exc.SQLAlchemyError as e:
        text = str(e).strip().partition("\n")[0]
        raise UsageError(f"the database of --storage does not answer: {text}; start it, or give another URL") from None
    finally:
        engine.dispose()  # no connection may be left when processes are forked


def _plain(value: Any) -> Any:
    """A choice as Optuna stores it: lists and mappings as text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else text_of(value)


def _suggest(asked: Any, key: Key) -> Any:
    if key.kind == "choice":
        by_text = {_plain(value): value for value in key.values}
        return by_text[asked.suggest_categorical(key.name, list(by_text))]
    low, high = key.values
    if key.kind == "int":
        return asked.suggest_int(key.name, low, high, step=int(key.step or 1), log=key.log)
    return rounded(asked.suggest_float(key.name, low, high, step=key.step, log=key.log))


def rounded(value: Any) -> Any:
    """A number that people can read and copy."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def sampler(space: Space, number: int, key: Key) -> Any:
    """What draws the value of a key of a trial.

    It has a seed for each key. With one for all, each key would get the same random number. And where a process was
    killed between two keys, the next one goes on with the second, and must not depend on having drawn the first.
    """
    from utils.seed import mix  # imports torch

    optuna = require()
    seed = mix(space.seed, number, space.keys.index(key)) & 0xFFFFFFFF
    return optuna.samplers.TPESampler(seed=seed) if space.sampler == "tpe" else optuna.samplers.RandomSampler(seed)


def pruner(space: Space) -> Any:
    """Raises ConfigError for one that Optuna does not have."""
    optuna = require()
    if space.prune is None:
        return optuna.pruners.NopPruner()
    place = space.tree.place(("prune",))
    part = {"type": space.prune} if isinstance(space.prune, str) else space.prune
    there = {n: c for n, c in vars(optuna.pruners).items() if n.endswith("Pruner") and not inspect.isabstract(c)}
    if not isinstance(part, dict) or part.get("type") not in there:
        name = part.get("type") if isinstance(part, dict) else part
        hint = did_you_mean(nearest(str(name), there))
        raise ConfigError([f"{place}: got {shown(space.prune)}{hint}, expected {', '.join(sorted(there))}"])
    try:
        return there[part["type"]](**part.get("args") or {})
    except (TypeError, ValueError) as e:
        raise ConfigError([f"{place}: {part['type']}: {e}"]) from None


class JournalLock:
    """Locks the journal against other processes while one writes; freed by the system when that is killed.

    Optuna's own locks are files that a killed process leaves behind, which costs the others half a minute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        self._held = wait_for(self.path.with_name(f".{self.path.name}.lock"))
        self._cut()
        return True

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _cut(self) -> None:
        """Remove half a line at the end, of a process that was killed, or of a full disk."""
        with open(self.path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0 or (file.seek(size - 1), file.read(1))[1] == b"\n":
                return
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
