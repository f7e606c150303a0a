"""The exit code of each outcome: a contract of ARCHITECTURE.md that scripts depend on."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn, TextIO

from utils.errors import Interrupted, Stopped, UsageError, dead_worker


def exit_with(main: Callable[[], int | None]) -> None:
    """Run `main`, print how it failed, and exit with the code that it returns (None: 0) or of its error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the process ends)
        elif isinstance(stream, io.TextIOWrapper):  # a character that the console cannot show must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _explained(main) or 0
        sys.stdout.flush()
    except (UsageError, Stopped) as e:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        print(f"{'error' if e.exit_code == 2 else 'stopped'}: {e}", file=sys.stderr)
        _exit(e.exit_code)
    except Interrupted as e:
        if str(e):
            print(e, file=sys.stderr)
        _exit(e.exit_code)
    except KeyboardInterrupt:
        _exit(130)
    except Exception as e:
        if isinstance(e, OSError) and e.filename is None and _is_lost(sys.stdout):
            if isinstance(e, BrokenPipeError):
                _exit(141)  # as other programs end after `| head -1`: 128 + SIGPIPE
            print(f"stopped: cannot write to standard output: {e.strerror}", file=sys.stderr)
            _exit(3)
        print(traceback_of(e), end="", file=sys.stderr)
        _exit(1)
    _exit(code)


def _is_lost(stream: TextIO) -> bool:
    """Whether an empty line cannot be printed; if so, discards the stream."""
    try:
        print(file=stream, flush=True)
    except OSError:
        discard(stream)
        return True
    return False


def discard(stream: TextIO) -> None:
    """From now on, write nothing, so that Python does not fail again when it flushes the stream at its exit."""
    with contextlib.suppress(OSError):  # a stream without a file descriptor, as in a notebook
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _explained(main: Callable[[], int | None]) -> int | None:
    """main(); torch reports a dead data loader worker wherever the main process just is."""
    try:
        return main()
    except RuntimeError as e:
        if dead := dead_worker(e):
            raise dead from e
        raise


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """The traceback of a known error ends with its advice wherever it is shown, in a notebook too (Python >= 3.11)."""
    try:
        yield
    except Exception as e:
        with contextlib.suppress(Exception):  # of an error that takes no note, which must stay the error that is shown
            if hasattr(e, "add_note") and (text := advice(e)) and not _has_advice(e):
                e.add_note(text.removesuffix("\n"))
        raise


def traceback_of(error: BaseException) -> str:
    """The traceback of an error and, once, its advice."""
    shown = "".join(traceback.format_exception(error))
    return shown if _has_advice(error) else shown + advice(error)


def _has_advice(error: BaseException) -> bool:
    return any("what it means: " in str(note) for note in getattr(error, "__notes__", None) or ())


def advice(error: BaseException) -> str:
    """What to try against an error that is known, for after its traceback; '' for any other. Never raises."""
    try:
        from utils.troubleshooting.advice import advice as known  # a folder that can be deleted

        return f"\n{text}\n" if (text := known(error)) else ""
    except Exception:
        return ""


def _exit(code: int) -> NoReturn:
    """End this process. A rank skips Python's orderly exit: gloo's threads sometimes abort it."""
    if "WORLD_SIZE" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
