"""Real Ray nodes for the tests, each with ports and folders of its own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
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
def head(*, token: str | None = None, num_cpus: int = 1, dashboard: bool = False) -> Iterator[str]:
    """The address of a head that ends with the context; with a `token` it demands it."""
    port, client_port, dashboard_port = free_ports(3)
    options = {
        "port": port,
        "ray-client-server-port": client_port,
        "include-dashboard": str(dashboard).lower(),
        "dashboard-port": dashboard_port,
    }
    with _node(["--head", *_flags(options)], num_cpus, token):
        yield f"{LOOPBACK}:{port}"


@contextmanager
def worker(address: str, *before: str, num_cpus: int = 1) -> Iterator[Path]:
    """Another node of a tokenless head's cluster, started by the command `before`; its folder."""
    with _node([f"--address={address}"], num_cpus, None, before) as folder:
        yield folder


def processes(folder: Path, name: str) -> list[psutil.Process]:
    """The processes of a node called `name`."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if name in one.name() and any(str(folder) in argument for argument in one.cmdline()):
                found.append(one)
    return found


@contextmanager
def _node(arguments: list[str], num_cpus: int, token: str | None, before: tuple[str, ...] = ()) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="rh", dir="/tmp"))  # short, because of the sockets' paths below it
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    options = {
        "temp-dir": folder,
        "node-ip-address": LOOPBACK,
        "num-cpus": num_cpus,
        "dashboard-agent-listen-port": 0,
        "object-store-memory": 80_000_000,
    }
    command = [*before, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [*arguments, *_flags(options)]
    try:
        for _ in range(3):  # a raylet gives its agent 15 s to start, which a busy machine can exceed
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(command, env=environment(folder, **auth), stdout=log, stderr=log)
            if _is_up(process, folder):
                break
            _stop(process, folder)
        else:
            raise AssertionError((folder / "log").read_text())
        yield folder
    finally:
        _stop(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _flags(options: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _stop(process: subprocess.Popen, folder: Path) -> None:
    """Kill a node's processes: some of them have no parent any more."""
    process.kill()
    process.wait()
    for one in processes(folder, ""):
        with suppress(psutil.NoSuchProcess):
            one.kill()


def _is_up(process: subprocess.Popen, folder: Path) -> bool:
    while process.poll() is None:
        if "block forever" in (folder / "log").read_text():
            return True
        time.sleep(0.2)
    return False
