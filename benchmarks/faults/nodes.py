"""A Ray cluster of several nodes on one machine, each with its own loopback address, folder and processes."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from benchmarks.faults.processes import Program, marked, process_name, title, trial_processes

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
START_SECONDS, TRIES = 300, 3
IMPATIENT = "timed out during startup"
"""What Ray says after 30 s, which on a machine that has too much to do is too early."""
MARKER = "SIGMA_RAY_FAULTS"
OBJECT_STORE_BYTES = 80_000_000
"""About the least that Ray accepts."""


class Node(Program):
    """`ray start --block` and everything below it; `folder` is its own, and as new at every start."""

    def start(self) -> None:
        """Start it as a machine just booted: Ray refuses to start a head beside an earlier one's files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        super().start()

    def joined(self) -> bool:
        """Whether it has become part of the cluster."""
        return "Ray runtime started" in self.output()

    def join(self) -> None:
        """Start it and wait until it belongs to the cluster; once more where Ray was not patient enough."""
        self.start()
        self.await_joined()

    def await_joined(self) -> None:
        """Wait for the end of its start, as `join` does."""
        for _ in range(TRIES):
            try:
                return self.wait(self.joined, START_SECONDS, "the start of a node")
            except RuntimeError as error:
                if IMPATIENT not in str(error):
                    raise
                self.kill()
                self.start()
        raise RuntimeError(f"a node did not start in {TRIES} tries: {self.tail()}")

    @property
    def node_id(self) -> str:
        """Ray's hexadecimal id of the node."""
        lines = (title(process) for process in self.members())
        return next(found[1] for line in lines if (found := re.search(r"raylet .*--node_id=([0-9a-f]+)", line)))

    @property
    def alive(self) -> bool:
        """Whether its raylet lives: without it a node is lost to the cluster, whatever else still runs."""
        return any(process_name(process) == "raylet" for process in self.members())

    def trials(self) -> list[psutil.Process]:
        """Its processes that hold a trial (or a worker of one)."""
        return trial_processes(self.members())


class Cluster:
    """A head without CPUs, which is where drivers connect, and workers with `cpus` each.

    Args:
        workers: number of nodes beside the head.
        cpus: of each worker node.
        environment: of every process of the cluster, beside the present one's.
        dashboard: whether the State API is there, which trials with several workers need.
    """

    def __init__(
        self,
        workers: int = 2,
        cpus: int = 1,
        environment: Mapping[str, str] | None = None,
        *,
        dashboard: bool = False,
    ) -> None:
        # Ray's sockets lie in it: their paths must stay below 108 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        # Every cluster of this machine has a net of its own.
        self._net = f"127.{2 + os.getpid() % 250}.{1 + secrets.randbelow(250)}"
        self.address = f"{self._net}.1:{free_port()}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = {**os.environ, **(environment or {}), **token, MARKER: str(self.folder)}
        head = ["--head", "--port", self.address.partition(":")[2], "--ray-client-server-port", str(free_port())]
        head += ["--num-cpus=0", f"--include-dashboard={dashboard}", f"--dashboard-port={free_port()}"]
        worker = ["--address", self.address, f"--num-cpus={cpus}"]
        self.head, *self.workers = (self._node(n, worker if n else head) for n in range(workers + 1))

    def _node(self, number: int, arguments: list[str]) -> Node:
        folder = self.folder / f"n{number}"
        common = [f"--node-ip-address={self._net}.{number + 1}", f"--temp-dir={folder}", "--disable-usage-stats"]
        common += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--dashboard-agent-listen-port={free_port()}"]
        command = [*RAY, "start", "--block", *arguments, *common]
        return Node(command, self.environment, folder, self.folder / f"n{number}.log")

    @property
    def nodes(self) -> list[Node]:
        """The head, then the workers."""
        return [self.head, *self.workers]

    def __enter__(self) -> "Cluster":
        """Start every node."""
        try:
            self.head.join()
            for node in self.workers:
                node.start()
            for node in self.workers:
                node.await_joined()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left of it."""
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def heal(self) -> None:
        """Start again what has died."""
        if not self.head.alive:
            self.head.kill()
            self.head.join()
        for node in self.workers:
            if not (node.alive and node.joined()):
                node.kill()
                node.join()

    def trials(self) -> list[psutil.Process]:
        """Processes that hold a trial, on any node."""
        return [process for node in self.nodes for process in node.trials()]

    def marked(self) -> list[psutil.Process]:
        """Every process that was started with `environment`, on a node or beside it."""
        return list(marked(MARKER, str(self.folder)))

    def announce_end(self, node: Node, seconds: int) -> None:
        """Tell Ray, as a cloud does before it takes a spot machine away, that `node` ends in `seconds`."""
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot machine taken away"]
        command = [*RAY, "drain-node", "--address", self.address, "--node-id", node.node_id, *reason]
        command += ["--deadline-remaining-seconds", str(seconds)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=60)

    def ask(self, code: str) -> str:
        """What a Python program prints that is connected to the cluster."""
        program = f"import ray; ray.init({self.address!r}, log_to_driver=False, logging_level='ERROR')\n{code}"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True, timeout=90)
        return done.stdout

    def placement_groups(self) -> list[str]:
        """Those that still reserve something."""
        table = "print(*(g['placement_group_id'] for g in ray.util.placement_group_table().values() "
        return self.ask(f"import ray.util\n{table} if g['state'] != 'REMOVED'))").split()


def free_port() -> int:
    """A TCP port on which nobody listens now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
