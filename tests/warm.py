"""`python ARGS...` at once: forked from a server that has imported torch, which takes a new process seconds.

For tests that run what people run, in a process of its own. Not for tests of what is imported when: all is there.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# What scripts and configs import in the end, where it is installed. timm and torchvision import torch._dynamo.
PATIENCE = 300  # seconds
PRELOADED = ("torch._dynamo", "torch.distributed.fsdp", "torch.utils.tensorboard", "torchvision.transforms.v2", "timm")


def run(*args: object, cwd: Path, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """`python ARGS...` in `cwd`; `env` is added to ours."""
    command, full_env = [str(arg) for arg in args], {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    if sys.platform != "linux":  # no fork, or none that is safe after torch
        plain = [sys.executable, *command]
        return subprocess.run(plain, cwd=cwd, env=full_env, capture_output=True, text=True, timeout=PATIENCE)
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with TemporaryDirectory() as folder:  # one for each: a process that is left over may still write
        request = {"args": command, "cwd": str(cwd), "env": full_env, "folder": folder}
        print(json.dumps(request), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        if not answer:
            _server.cache_clear()
            raise RuntimeError(f"the server of tests/warm.py ended with {server.wait()}")
        out, err = (Path(folder, name).read_text(encoding="utf-8") for name in ("out", "err"))
    return subprocess.CompletedProcess(command, int(answer), out, err)


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """One for all tests of this process."""
    pipe, env = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, __file__], env=env, stdin=pipe, stdout=pipe, text=True)
    atexit.register(server.communicate)  # it ends with its input
    return server


def _requests() -> dict[str, Any]:
    """In the server: fork for each request. Returns it in the child, whose output goes to files in its folder."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)
            request = json.loads(line)
            write, folder = os.O_WRONLY | os.O_CREAT | os.O_APPEND, request.pop("folder")
            for fd, name, flags in (
                (0, os.devnull, os.O_RDONLY),
                (1, f"{folder}/out", write),
                (2, f"{folder}/err", write),
            ):
                os.dup2(os.open(name, flags), fd)
            return request
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)


def _python(args: list[str], cwd: str, env: dict[str, str]) -> int:
    """What `python ARGS...` does. Returns its exit code."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    option, *rest = args
    try:
        if option == "-c":
            sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif option == "-m":
            sys.argv, sys.path[0] = rest, cwd
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = args, os.path.dirname(os.path.abspath(option))
            runpy.run_path(option, run_name="__main__")
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for name in PRELOADED:
        with contextlib.suppress(Exception):  # it is not installed, or not for this torch
            importlib.import_module(name)
    gc.freeze()  # a collection would copy all pages
    exit_code = _python(**_requests())
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(exit_code)  # freeing what the server has imported takes a second
