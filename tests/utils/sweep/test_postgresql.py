"""A search whose study is in PostgreSQL: two machines (here: two folders) share it, and anything may be killed."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.sweeps import SPACE, Sweeps, tiny
from tests.trainer.checkpoint.harness import alive, workers_of

TRIALS = 8


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a new PostgreSQL server on a socket of its own; it does not run as root."""
    pytest.importorskip("optuna", reason="a search needs Optuna (extra sweep)")
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("needs PostgreSQL (Debian: apt install postgresql, and its bin/ in PATH)")
    if not (find_spec("psycopg") or find_spec("psycopg2")):
        pytest.skip("needs a driver for PostgreSQL: pip install 'psycopg[binary]'")
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # the path of a socket is short
    if user:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=folder, user=user, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            pytest.skip(f"PostgreSQL does not start here: {done.stdout.decode()[-300:]}")

    data = str(folder / "data")
    run("initdb", "--pgdata", data, "--auth", "trust", "--username", "sweep")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "start", "--wait", "--pgdata", data, "--log", str(folder / "log"), "--options", options)
    try:
        yield f"postgresql://sweep@/postgres?host={folder}"
    finally:
        subprocess.run(["pg_ctl", "stop", "--pgdata", data, "--mode", "immediate"], cwd=folder, user=user,
                       capture_output=True)  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_two_machines_share_a_study(database: str, tmp_path: Path) -> None:
    """Each trial runs on one of them, though both are killed now and then; both show the whole table."""
    spec = tiny(trainer__monitor="min val_loss", trainer__epochs=20)
    houses = [Sweeps(tmp_path / name, spec) for name in ("one", "two", "alone")]
    space = ["-s", "s.yaml", "--trials", str(TRIALS)]
    for house in houses:
        (house.folder / "s.yaml").write_text(SPACE.replace("SAMPLER", "random"))
    *shared, alone = houses
    for house in shared:
        house.new(*space, "--storage", database, "--table")
    kills, end = 0, time.monotonic() + 100
    children = {house: house.start_sweep("-r", "saved/t/s", "--storage", database) for house in shared}
    while any(alive(child.pid) for child in children.values()) or kills < 4:
        assert time.monotonic() < end, "\n".join(child.text() for child in children.values())
        time.sleep(1)
        for i, (house, child) in enumerate(list(children.items())):
            if kills < 8 and alive(child.pid):
                victims = [child.pid, *workers_of(child.pid)]
                os.kill(victims[(kills // 2) % len(victims)], signal.SIGKILL)
                kills += 1
            if not alive(child.pid) and (kills <= 8 or i == 0) and not _all_done(house):
                children[house] = house.start_sweep("-r", "saved/t/s", "--storage", database)
        if all(_all_done(house) for house in shared) and kills >= 2:
            break
    for house in shared:
        house.sweep("-r", "saved/t/s", "--storage", database)
    numbers = [[trial.number for trial in house.trials()] for house in shared]
    assert sorted(numbers[0] + numbers[1]) == list(range(TRIALS)), "each trial belongs to one machine"
    assert all(trial.state == "done" for house in shared for trial in house.trials())
    alone.new(*space)
    values = [row[:4] for row in alone.rows()]  # trial, keys, val_loss
    assert [row[:4] for row in shared[0].rows()] == [row[:4] for row in shared[1].rows()] == values


def _all_done(house: Sweeps) -> bool:
    trials = house.trials()
    return bool(trials) and all(trial.finished for trial in trials)


@pytest.mark.slow
def test_a_database_that_is_gone(database: str, tmp_path: Path) -> None:
    house = Sweeps(tmp_path, tiny(trainer__monitor="min val_loss"))
    (house.folder / "s.yaml").write_text(SPACE.replace("SAMPLER", "random"))
    gone = database.replace("?host=", "?host=/nowhere")
    result = house.new("-s", "s.yaml", "--trials", "2", "--storage", gone, code=2)
    assert "error: the database of --storage does not answer: " in result.text
    assert not (house.folder / "saved").exists()
    house.new("-s", "s.yaml", "--trials", "1", "--storage", database)
    result = house.sweep("-r", "saved/t/s", "--storage", gone, code=3)  # a job script tries again
    assert "the database of --storage cannot be used: OperationalError: " in result.text
    assert "start or repair that, and continue with python sweep.py -r saved/t/s" in result.text
    reset = database.replace("/postgres", "/template1")  # which is empty
    result = house.sweep("-r", "saved/t/s", "--storage", reset, code=3)
    assert "the study in --storage has lost trials that saved/t/s has; restore the database, or start" in result.text
    house.sweep("-r", "saved/t/s", "--storage", database)
    result = house.sweep("-r", "saved/t/s", code=2)
    assert "in a database; give --storage URL again" in result.text
