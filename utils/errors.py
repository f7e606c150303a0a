"""What a person is told instead of a traceback. The exit codes are a contract (docs/architecture.md)."""


class Refused(Exception):
    """The command line, the config or the data is wrong; said before any work is done."""

    exit_code = 2


class DataError(Refused):
    """A data set is missing or unusable: says where it was looked for, how to get it and what to put there."""


class Stopped(Exception):
    """Training ended on its own account: says why and what to do."""

    exit_code = 3


class SampleError(Stopped):
    """A sample could not be read: names its index and, where the data set knows it, its path."""


def killed_worker(error: Exception) -> Stopped | None:
    """What to tell where torch found that a data loader worker has died; None for any other error."""
    if "DataLoader worker" not in str(error):
        return None
    return Stopped(
        f"a data loader worker was killed by the system ({str(error).splitlines()[0]}); most often the machine ran out "
        f"of memory (RAM or /dev/shm): lower data_loader.args.num_workers or batch_size"
    )


class Interrupted(Exception):
    """A signal ended the run after its state was saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
