"""Errors that people see as one message instead of a traceback. Their exit codes are a contract (ARCHITECTURE.md)."""

import re
import signal
from collections.abc import Iterable

TAKEN_BY_THE_SYSTEM = ("Killed", "Bus error")  # signals that mean: out of memory, or of shared memory


class UsageError(Exception):
    """The command line, the config or the data is wrong; raised before the first step."""

    exit_code = 2


class DataError(UsageError):
    """A data set is missing or unusable; says where it was searched for and how to get it."""


class Stopped(Exception):
    """Training stopped by itself; says why and what to do."""

    exit_code = 3


class NotSaved(Stopped):
    """The state or a log could not be written to the disk. The run itself is intact and can be continued."""


class SampleError(Stopped):
    """Samples could not be read or collated; names their indices. Before the first step, it is a UsageError."""


def dead_worker(error: BaseException, exit_codes: Iterable[int | None] = ()) -> SampleError | None:
    """The error to raise if torch found a dead data loader worker; None for any other error.

    exit_codes: of all workers, if known: torch does not always give that of the dead one.
    """
    text = str(error).partition("\n")[0].strip()
    found = re.search(r"DataLoader worker \(pid.*\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)", text)
    if found is None or not isinstance(error, RuntimeError):
        return None
    ended_by = found[1] or _signal(exit_codes)
    if ended_by in TAKEN_BY_THE_SYSTEM:
        return SampleError(
            f"a data loader worker was killed by the system ({text}); most often the machine ran out of memory (RAM or "
            f"/dev/shm): lower data_loader.args.num_workers or batch_size"
        )
    ended = "crashed" if ended_by else "ended by itself"
    return SampleError(
        f"a data loader worker {ended} ({text}); its own error, if it could print one, is above. "
        f"data_loader.args.num_workers=0 reads the same samples in the main process, which shows where"
    )


def _signal(exit_codes: Iterable[int | None]) -> str | None:
    """The name of the signal that ended a worker, from the exit codes of all workers; None without one."""
    for code in exit_codes:
        number = -code if code and code < 0 else (code or 0) - 128  # 137, as shells and containers report it
        if number > 0:
            return signal.strsignal(number)
    return None


class Interrupted(Exception):
    """A signal, or the end of its time budget, ended the run after its state was saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
