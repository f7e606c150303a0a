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


class Interrupted(Exception):
    """A signal ended the run after its state was saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
