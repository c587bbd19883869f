"""Kinds of faults that leave a trial's numbers alone. Each breaks one thing, and may hand back how it is mended.

A kind is called with a `World`. It returns None when there is nothing to break just now (no trial runs, no checkpoint
is there); otherwise the seconds until the mending, and the mending itself.
"""

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.faults import disks
from benchmarks.faults.world import World

Mending = tuple[float, Callable[[], None]]
Kind = Callable[[World], Mending | None]
NOTHING_TO_MEND: Mending = (0.0, lambda: None)
NOTICE_SECONDS = 4


def worker_process_killed(world: World) -> Mending | None:
    """SIGKILL to the process of a trial."""
    trials = world.running_trials()
    if not trials:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        world.rng.choice(trials).kill()
    return NOTHING_TO_MEND


def node_killed(world: World) -> Mending | None:
    """A worker node is gone from one moment to the next, and comes back later."""
    workers = world.workers()
    if not workers:
        return None
    node = world.rng.choice(workers)
    number = world.cluster.workers.index(node)
    world.absent.add(number)
    node.kill()

    def back() -> None:
        node.start()
        world.absent.discard(number)

    return world.rng.uniform(1, 8), back


def node_taken_away(world: World) -> Mending | None:
    """A pre-emption notice, the node's end at its deadline, and another node later."""
    workers = world.workers()
    if len(workers) < 2:
        return None
    node = world.rng.choice(workers)
    number = world.cluster.workers.index(node)
    world.cluster.announce_end(node, NOTICE_SECONDS)
    world.absent.add(number)

    def end() -> None:
        node.kill()
        node.start()
        world.absent.discard(number)

    return NOTICE_SECONDS + world.rng.uniform(0, 2), end


def driver_killed(world: World) -> Mending | None:
    """SIGKILL to the driver and whatever it has started beside itself."""
    if not world.driver.running:
        return None
    world.driver.kill()
    return NOTHING_TO_MEND


def head_killed(world: World) -> Mending | None:
    """The head's processes are gone, and start again; driver and workers have to notice by themselves."""
    if not world.cluster.head.alive:
        return None
    world.cluster.head.kill()
    return world.rng.uniform(1, 6), world.cluster.head.start


def head_rebooted(world: World) -> Mending | None:
    """The head's machine is gone, with the driver that ran there."""
    if not world.cluster.head.alive:
        return None
    world.driver.kill()
    return head_killed(world)


def checkpoint_truncated(world: World) -> Mending | None:
    """Half of a trial's newest checkpoint is lost, and then its process."""
    return _damage(world, lambda content: content[: len(content) // 2])


def checkpoint_corrupted(world: World) -> Mending | None:
    """One bit of a trial's newest checkpoint has turned over, and its process is lost."""
    return _damage(world, _with_a_bit_turned)


def _with_a_bit_turned(content: bytes) -> bytes:
    middle = len(content) * 2 // 3  # behind the header: among the weights
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _damage(world: World, change: Callable[[bytes], bytes]) -> Mending | None:
    """Damage the checkpoint of a trial that is stopped meanwhile, lest it replaces the file first."""
    trials, newest = world.running_trials(), world.checkpoints()
    if not trials or not newest:
        return None
    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
        for process in trials:
            process.send_signal(signal.SIGSTOP)
        path = newest[-1]
        path.write_bytes(change(path.read_bytes()))
    for process in trials:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return NOTHING_TO_MEND


def disk_full(world: World) -> Mending | None:
    """Not a byte is left on the disk that all share."""
    if not world.running_trials() or (world.disk / disks.BALLAST).exists():
        return None
    disks.fill(world.disk)
    return world.rng.uniform(4, 10), lambda: disks.empty(world.disk)


def tracking_server_killed(world: World) -> Mending | None:
    """The MLflow server is gone, and starts again."""
    if not world.tracker.running:
        return None
    world.tracker.kill()
    return world.rng.uniform(3, 10), world.tracker.start


def tracking_server_hangs(world: World) -> Mending | None:
    """The MLflow server accepts connections and does not answer for a while."""
    if not world.tracker.running:
        return None
    world.tracker.stop()
    return world.rng.uniform(5, 12), world.tracker.go_on


def artifacts_read_only(world: World) -> Mending | None:
    """The artifact store takes no files."""
    folder = world.tracker.artifacts
    if _mounted(folder):
        return None
    disks.freeze(folder)
    return world.rng.uniform(5, 12), lambda: disks.thaw(folder)


def _mounted(folder: Path) -> bool:
    return folder.is_mount() or any(
        line.split()[1] == str(folder) for line in Path("/proc/mounts").read_text().splitlines()
    )


ANYWHERE: dict[str, Kind] = {
    kind.__name__.replace("_", " "): kind
    for kind in (
        worker_process_killed,
        node_killed,
        node_taken_away,
        driver_killed,
        head_killed,
        head_rebooted,
        checkpoint_truncated,
        checkpoint_corrupted,
        tracking_server_killed,
        tracking_server_hangs,
    )
}
AS_ROOT: dict[str, Kind] = {"disk full": disk_full, "artifacts read only": artifacts_read_only}
"""Those that mount file systems."""
