"""The exit code of each outcome: a contract of ARCHITECTURE.md that scripts depend on."""

import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from utils.errors import Interrupted, Stopped, UsageError, dead_worker


def exit_with(main: Callable[[], int | None]) -> None:
    """Run `main`, print how it failed, and exit with the code that it returns (None: 0) or of its error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the console lacks ends no run
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
        traceback.print_exc()
        print(advice(e), end="", file=sys.stderr)
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
