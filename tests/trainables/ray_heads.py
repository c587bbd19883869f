"""Real Ray heads for the tests, each with ports and folders of its own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
LOOPBACK = "127.0.0.2"
"""Ray replaces 127.0.0.1 by the machine's address in its network, which tests have no business with."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def environment(home: Path, **settings: str) -> dict[str, str]:
    """A process's environment without Ray's settings and tokens of whoever runs the tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return clean | {"HOME": str(home), "PYTHONPATH": str(REPOSITORY)} | settings


@contextmanager
def head(*, token: str | None = None, num_cpus: int = 1) -> Iterator[str]:
    """The address of a head that ends with the context; with a `token` it demands it."""
    folder = Path(tempfile.mkdtemp(prefix="rh", dir="/tmp"))  # short, because of the sockets' paths below it
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    for _ in range(3):  # a raylet gives its agent 15 s to start, which a busy machine can exceed
        process, place = _start(folder, num_cpus, auth)
        if _is_up(process, folder):
            break
        _stop(process, folder)
    else:
        raise AssertionError((folder / "log").read_text())
    try:
        yield place
    finally:
        _stop(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _stop(process: subprocess.Popen, folder: Path) -> None:
    """Kill a head and all that it started: some of it has no parent any more."""
    process.kill()
    process.wait()
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(folder) in argument for argument in one.cmdline()):
                one.kill()


def _start(folder: Path, num_cpus: int, auth: dict[str, str]) -> tuple[subprocess.Popen, str]:
    port, client_port = free_ports(2)
    options = {
        "port": port,
        "ray-client-server-port": client_port,
        "temp-dir": folder,
        "node-ip-address": LOOPBACK,
        "num-cpus": num_cpus,
        "include-dashboard": "false",
        "dashboard-agent-listen-port": 0,
        "object-store-memory": 80_000_000,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, env=environment(folder, **auth), stdout=log, stderr=log), f"{LOOPBACK}:{port}"


def _is_up(process: subprocess.Popen, folder: Path) -> bool:
    while process.poll() is None:
        if "block forever" in (folder / "log").read_text():
            return True
        time.sleep(0.2)
    return False
