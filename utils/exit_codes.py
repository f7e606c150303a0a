"""The exit code of each outcome: a contract of ARCHITECTURE.md that scripts depend on."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from utils.errors import Interrupted, Stopped, UsageError, dead_worker


def exit_with(main: Callable[[], int | None]) -> None:
    """Run `main`, print how it failed, and exit with the code that it returns (None: 0) or of its error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the console cannot show must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _explained(main) or 0
    except (UsageError, Stopped) as e:
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
        print(traceback_of(e), end="", file=sys.stderr)
        _exit(1)
    _exit(code)


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
