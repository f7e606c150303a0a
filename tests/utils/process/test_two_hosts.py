"""Two hosts, network namespaces joined by a cable: in a run one of them is switched off, or the cable is pulled."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
HOSTS = (("gw-test-a", "10.199.7.1"), ("gw-test-b", "10.199.7.2"))
KEYS = ["trainer.epochs=null", "trainer.max_steps=200", "trainer.save_steps=20", "trainer.tensorboard=false"]
KEYS += ["trainer.timeout=10"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hosts():
    if not shutil.which("ip"):
        pytest.skip("needs `ip` (iproute2)")
    made = []
    try:
        for name, _ in HOSTS:
            done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"may not make network namespaces: {done.stderr.strip()}")
            made.append(name)
        (a, _), (b, _) = HOSTS
        commands = [f"ip link add cable netns {a} type veth peer name cable netns {b}"]
        for name, address in HOSTS:
            commands += [f"ip -n {name} addr add {address}/24 dev cable"]
            commands += [f"ip -n {name} link set {device} up" for device in ("cable", "lo")]
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"may not join network namespaces ({command}): {done.stderr.strip()}")
        yield
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


def start(host, folder):
    """torchrun on one of the hosts, in a process group of its own."""
    name, address = HOSTS[host]
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
    command += ["--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=test"]
    command += [f"--rdzv-conf=is_host={host == 0}"]  # both bear this machine's name, by which torchrun would know
    command += [f"--rdzv-endpoint={HOSTS[0][1]}:29411", f"--local-addr={address}", f"{ROOT}/train.py"]
    command += ["-c", f"{ROOT}/config/digits.yaml", "-r", "auto", "--run-id", "r", *KEYS]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"}
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with open(folder / f"{name}.txt", "ab") as out:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True)


def switch_off(process):
    """Kill a torchrun and what it has started, as a power cut would."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


def weights(folder):
    state = torch.load(folder / "saved/digits/r/checkpoints/checkpoint-step200.pth", weights_only=True)
    return {k: v.numpy() for k, v in state["model"].items()}


def power_cut(nodes, folder):
    """One host is switched off, and comes back."""
    switch_off(nodes[1])
    nodes[1] = start(1, folder)


def pulled_cable(nodes, folder):
    """The hosts do not reach each other for longer than the run waits; torchrun starts it again on both."""
    link("down")
    try:
        log, deadline = folder / "saved/digits/r/log.txt", time.monotonic() + 300
        while "Nothing moved for trainer.timeout = 10 seconds" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        link("up")


def brief_outage(nodes, folder):
    """The network loses everything for some seconds."""
    link("down")
    time.sleep(3)
    link("up")


def link(state):
    subprocess.run(["ip", "-n", HOSTS[1][0], "link", "set", "cable", state], check=True)


def run(folder, trouble=None):
    folder.mkdir()
    nodes = [start(host, folder) for host in (0, 1)]
    try:
        if trouble:
            deadline = time.monotonic() + 300
            saved = folder / "saved/digits/r/checkpoints"
            while not list(saved.glob("checkpoint-step*")) and time.monotonic() < deadline:
                time.sleep(0.05)
            trouble(nodes, folder)
        codes = [node.wait(600) for node in nodes]
        assert codes == [0, 0], "\n".join(p.read_text()[-3000:] for p in folder.glob("*.txt"))
    finally:
        for node in nodes:
            if node.poll() is None:
                switch_off(node)
    return weights(folder), (folder / "saved/digits/r/log.txt").read_text()


@pytest.fixture(scope="module")
def calm(hosts, tmp_path_factory):
    return run(tmp_path_factory.mktemp("calm") / "calm")[0]


@pytest.mark.parametrize(
    "trouble, reported, restarted",
    [
        (power_cut, "rank 1 (", True),
        (pulled_cable, "gives no sign of life", True),
        (brief_outage, "finished at step 200", False),
    ],
)
def test_the_run_continues_with_the_same_weights(hosts, calm, tmp_path, trouble, reported, restarted):
    stormy, log = run(tmp_path / "stormy", trouble)
    assert reported in log
    assert ("continuing in saved/digits/r from step" in log) == restarted
    assert all(np.array_equal(calm[name], stormy[name]) for name in calm)
