"""A study of twelve trials on a cluster of three nodes, with faults at random: does it end with the same numbers?

Run:     python -m benchmarks.chaos [--seed 0] [--faults 24] [--quick]

Two runs of `benchmarks.faults.study`. The first is undisturbed, on this machine. The second runs on a head and two
workers (separate process trees with separate addresses and folders) and records in an MLflow server, while everything
that it depends on is broken in turn, by a schedule that the seed decides: `benchmarks.faults.kinds`. What a cluster
manager would do is done: a dead node, server or driver is started again, by the same command. At the end every trial
must be FINISHED, once, with the first run's numbers, bit by bit, and nothing may be left over. Exits with 1 if not.
"""

import dataclasses
import heapq
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import tyro

from benchmarks.faults import audit, disks, kinds
from benchmarks.faults.driver import Driver, recorded, small
from benchmarks.faults.nodes import Cluster
from benchmarks.faults.tracker import TrackingServer
from benchmarks.faults.world import World

VOLUME_MEGABYTES = 256
IN_TRIALS = 0.75
"""Share of the faults that wait until a trial runs; the others may also hit what is just starting."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What to break.

    Attributes:
        seed: of the schedule.
        faults: how many.
        quick: four trials instead of twelve, and a third of the faults.
        only: these kinds, instead of all that can be caused here.
        num_steps: length of a trial.
        keep: leave the folder with logs and records where it is.
    """

    seed: int = 0
    faults: int = 24
    quick: bool = False
    only: tuple[str, ...] = ()
    num_steps: int = 60
    keep: bool = False


@dataclasses.dataclass
class Schedule:
    """Faults in order, with pauses between them, and the mendings that are due."""

    rng: random.Random
    names: list[str]
    mean_pause: float
    table: dict[str, kinds.Kind]
    began: float = dataclasses.field(default_factory=time.monotonic)
    done: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    mendings: list[tuple[float, int, str, Callable[[], None]]] = dataclasses.field(default_factory=list)
    due: float = 0.0
    patient: bool = True

    def tick(self, world: World) -> None:
        """Mend what is due; break the next thing when its time has come and it is there."""
        now = time.monotonic()
        while self.mendings and self.mendings[0][0] <= now:
            heapq.heappop(self.mendings)[-1]()
        if self.due == 0.0:
            self.due = now + self._pause()
        if not self.names or now < self.due or world.finished:
            return
        if self.patient and not world.running_trials():
            return
        mending = self.table[self.names[0]](world)
        if mending is None:
            self.names.append(self.names.pop(0))  # not possible now: another one first
            self.due = now + 1
            return
        name = self.names.pop(0)
        self.done.append((now - self.began, name))
        print(f"{now - self.began:7.1f} s  fault {len(self.done):2}  {name}", flush=True)
        heapq.heappush(self.mendings, (now + mending[0], len(self.done), name, mending[1]))
        self.due = now + self._pause()
        self.patient = self.rng.random() < IN_TRIALS

    def mend(self) -> None:
        """Mend what is left."""
        while self.mendings:
            heapq.heappop(self.mendings)[-1]()

    def _pause(self) -> float:
        return self.rng.uniform(0.2, 1.8) * self.mean_pause


def main(flags: Flags) -> None:
    """Run both, compare, print; exit with 1 if anything is wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything below is ended in order
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {flags.seed}, logs in {folder}", flush=True)
    try:
        wrong = _compare(flags, folder)
    finally:
        if not flags.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(["", *(f"WRONG: {line}" for line in wrong)]) if wrong else "\nnothing is wrong")
    sys.exit(1 if wrong else 0)


def _compare(flags: Flags, folder: Path) -> list[str]:
    seeds, faults = (1, max(1, flags.faults // 3)) if flags.quick else (3, flags.faults)
    study = ["--seeds", str(seeds), *small(flags.num_steps, flags.num_steps // 10)]
    environment = {"SIGMA_RAY_CACHE": str(folder / "cache")}
    calm = Driver(folder / "calm", [*study, "--jobs", "2"], environment)
    began = time.monotonic()
    try:
        calm.start()
        calm.wait(lambda: calm.exit_code == 0, 1800, "the undisturbed study")
    finally:
        calm.kill()
    undisturbed = time.monotonic() - began
    print(f"{undisturbed:.0f} s undisturbed", flush=True)
    with ExitStack() as stack:
        table = dict(kinds.ANYWHERE)
        disk = folder / "shared"
        if disks.can_mount():
            stack.enter_context(disks.volume(disk, VOLUME_MEGABYTES))
            table |= kinds.AS_ROOT
        else:
            print(f"left out, because only root can mount: {', '.join(kinds.AS_ROOT)}")
        table = {name: table[name] for name in flags.only or table}
        tracker = stack.enter_context(TrackingServer(folder / "mlflow"))
        cluster = stack.enter_context(Cluster(environment=environment))
        where = ["--address", cluster.address, "--tracking-uri", tracker.uri, "--output", str(disk)]
        driver = Driver(folder / "disturbed", [*study, *where], {**cluster.environment, **environment})
        stack.callback(driver.kill)
        rng = random.Random(flags.seed)
        names = _draw(rng, list(table), faults)
        schedule = Schedule(rng, names, undisturbed / faults, table)
        stack.callback(schedule.mend)
        world = World(cluster, tracker, driver, disk, random.Random(flags.seed + 1))
        began = time.monotonic()
        while not world.finished or schedule.mendings:
            schedule.tick(world)
            world.supervise()
            time.sleep(0.2)
        wall = time.monotonic() - began
        _print(schedule, world, undisturbed, wall)
        wrong = [f"{len(schedule.names)} faults found no time to happen"] if schedule.names else []
        return wrong + _audit(world, f"sqlite:///{calm.folder / 'mlflow.db'}", 4 * seeds, [calm, driver])


def _draw(rng: random.Random, names: list[str], count: int) -> list[str]:
    """`count` kinds in random order, each as often as the others (give or take one)."""
    shuffled = itertools.chain.from_iterable(rng.sample(names, len(names)) for _ in range(count))
    return list(itertools.islice(shuffled, count))


def _audit(world: World, reference: str, expected: int, drivers: list[Driver]) -> list[str]:
    world.cluster.heal()
    wrong = audit.of_records(world.tracker.uri, reference, expected)
    wrong += audit.of_cluster(world.cluster)
    wrong += audit.of_folder(world.disk / "faults")
    wrong += audit.of_processes(world.cluster, drivers)
    trials, others = recorded(world.tracker.uri)
    print(f"attempts of {len(trials)} trials: {sum(trial.attempts for trial in trials)}")
    print(f"invocations: {dict(Counter(run.info.status for run in others))}")
    return wrong


def _print(schedule: Schedule, world: World, undisturbed: float, wall: float) -> None:
    for name, count in sorted(Counter(name for _, name in schedule.done).items()):
        print(f"{name:28} {count:3}")
    print(f"{'faults':28} {len(schedule.done):3}\n")
    print(f"wall seconds {wall:.0f}, undisturbed {undisturbed:.0f}")
    print("drivers ended with:")
    for line, count in Counter(world.exits).items():
        print(f"  {count} x {line[:220]}")


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
