"""All that a running study depends on, in one place, for faults to choose from."""

import dataclasses
import random
import time
from pathlib import Path

import psutil

from benchmarks.faults.driver import Driver
from benchmarks.faults.nodes import Cluster, Node
from benchmarks.faults.tracker import TrackingServer
from trainables.trial import FINAL_FILE

PATIENCE_SECONDS = 300
"""Within which a driver has to say something, whatever happens."""

RESTART_SECONDS = 3


@dataclasses.dataclass
class World:
    """Cluster, tracking server, driver and the disk they share.

    Attributes:
        cluster: running.
        tracker: running.
        driver: of the study; `supervise` starts it, and starts it again.
        disk: where results go: a file system of their own where faults of disks are wanted.
        exits: how each driver process ended.
        rng: which of several targets a fault takes.
    """

    cluster: Cluster
    tracker: TrackingServer
    driver: Driver
    disk: Path
    rng: random.Random
    exits: list[str] = dataclasses.field(default_factory=list)
    finished: bool = False
    absent: set[int] = dataclasses.field(default_factory=set)
    heard: tuple[float, int] = (0.0, 0)
    ended: float | None = None

    @property
    def trials(self) -> Path:
        """Folder of the trials' folders."""
        return self.disk / "faults" / "trials"

    def supervise(self) -> None:
        """What systemd and an autoscaler do: a dead driver is started again, and so are workers without a raylet."""
        if self.finished:
            return
        for number, node in enumerate(self.cluster.workers):
            if number not in self.absent and not node.alive and self.cluster.head.joined() and self.settled(node):
                node.kill()
                node.start()
        if self.driver.running:
            self._listen()
        elif self.driver.exit_code == 0:
            self.finished = True
            self.exits.append("0")
        elif self.cluster.head.running and self.cluster.head.joined():
            if self.driver.past and self.ended is None:
                self.exits.append(f"{self.driver.exit_code}: {self.driver.tail(1)}")
                self.ended = time.monotonic()
            if self.ended is None or time.monotonic() - self.ended > RESTART_SECONDS:
                self.driver.start()
                self.heard, self.ended = (time.monotonic(), 0), None

    def settled(self, node: Node) -> bool:
        """Whether a node has ended or joined; it is on its way otherwise."""
        return not node.running or node.joined()

    def _listen(self) -> None:
        size = self.driver.log.stat().st_size
        if size != self.heard[1]:
            self.heard = (time.monotonic(), size)
        elif time.monotonic() - self.heard[0] > PATIENCE_SECONDS:
            raise RuntimeError(f"the driver has been silent for {PATIENCE_SECONDS} s: {self.driver.tail()}")

    def workers(self) -> list[Node]:
        """Worker nodes that are there."""
        here = enumerate(self.cluster.workers)
        return [node for number, node in here if number not in self.absent and node.alive and node.joined()]

    def running_trials(self) -> list[psutil.Process]:
        """Processes with a trial."""
        return self.cluster.trials()

    def checkpoints(self) -> list[Path]:
        """The newest checkpoint of every unfinished trial that has two: the one before it has to do."""
        newest = []
        for folder in self.trials.glob("*"):
            files = [] if (folder / FINAL_FILE).exists() else sorted(folder.glob("step-*.safetensors"))
            newest += files[-1:] if len(files) > 1 else []
        return sorted(newest, key=lambda path: path.stat().st_mtime)
