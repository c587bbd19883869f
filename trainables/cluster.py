"""The Ray session of a study: how it is opened, and how many trials fit it at a time."""

import logging
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sigma_ray.config import TrialConfig
from trainables import connection


class Session:
    """A connection to Ray that is made in the background, because starting Ray here takes seconds.

    Args:
        address: of the cluster; "local" starts one in this process's children.
        workers: how many each trial has.
    """

    def __init__(self, address: str, workers: int) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._connected = self._pool.submit(_connect, address, workers)

    def __enter__(self) -> "Session":
        """Start; nothing has to be waited for yet."""
        return self

    def resources(self) -> Mapping[str, float]:
        """The cluster's resources now; the first call waits until it answers."""
        self._connected.result()
        import ray

        return ray.cluster_resources()

    def room(self, config: TrialConfig, jobs: int | None) -> "Room":
        """How many trials such as `config` fit.

        Raises:
            ValueError: not even one does.
        """
        available = self.resources()
        return Room(available, workers=config.num_workers, gpus=config.gpus_per_worker, jobs=jobs, largest=growth())

    def __exit__(self, *_: object) -> None:
        """Disconnect; a cluster that was started here ends."""
        self._connected.cancel()
        try:
            # In the thread that connected, and before it ends: the kernel stops a thread's children with it.
            self._pool.submit(_disconnect).result()
        finally:
            self._pool.shutdown()


def _connect(address: str, workers: int) -> None:
    _quiet()
    local: dict[str, Any] = {}
    if address == "local":
        _keep_freed_memory()
        _on_loopback()
        # Stopping a trial of several workers needs the dashboard's State API to free their placement group.
        local["include_dashboard"] = workers > 1
        if workers > 1:
            # Each such trial has a process beside its workers that only waits: it gets a share of one extra CPU.
            local["num_cpus"] = max(os.cpu_count() or 1, workers) + 1
    connection.connect(address, log_to_driver=False, logging_level=logging.ERROR, **local)


def _disconnect() -> None:
    import ray

    ray.shutdown()


class Room:
    """How many trials fit, now: nodes come and go while a study runs.

    Args:
        workers: how many each trial has.
        gpus: of each worker; None for one where the cluster has any, or can get some.
        jobs: most trials at a time, whatever else fits.
        largest: what the cluster can grow to; None where nothing makes it grow.
    """

    def __init__(
        self,
        available: Mapping[str, float],
        *,
        workers: int,
        gpus: float | None,
        jobs: int | None,
        largest: Mapping[str, float] | None = None,
    ) -> None:
        self.workers, self.jobs, self.largest = workers, jobs, largest
        reachable = largest or available
        self.gpus = gpus if gpus is not None else float(_most(reachable, available, "GPU") >= workers)
        if not self._count(reachable) and not self._count(available):
            has = ", ".join(f"{_most(reachable, available, kind):g} {kind}s" for kind in ("CPU", "GPU"))
            raise ValueError(
                f"num_workers must fit the cluster, but {workers} workers with 1 CPU and {self.gpus:g} GPUs each need "
                f"more than its {has}; lower num_workers or gpus_per_worker, or add nodes."
            )

    @property
    def resources(self) -> dict[str, float]:
        """What Tune reserves for one trial."""
        if self.workers > 1:
            # The trial's workers take their CPUs and GPUs in a placement group that Tune does not see.
            return {"CPU": 0.01}
        return {"CPU": 1.0, "GPU": self.gpus} if self.gpus else {"CPU": 1.0}

    def slots(self, available: Mapping[str, float]) -> int:
        """Trials that may run, or wait for nodes that are started for them; at least one, so that a study goes on."""
        count = max(1, self._count(available), self._count(self.largest or {}))
        return min(count, self.jobs) if self.jobs else count

    def _count(self, resources: Mapping[str, float]) -> int:
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        if self.workers > 1:
            cpus -= 0.5  # each trial has a process that starts its workers and waits
        counts = [cpus // self.workers]
        if self.gpus:
            # Small shares must add up: ten times 0.1 is one GPU.
            counts.append((gpus + 1e-6) // (self.gpus * self.workers))
        return max(0, int(min(counts)))


def _most(one: Mapping[str, float], other: Mapping[str, float], kind: str) -> float:
    return max(one.get(kind, 0), other.get(kind, 0))


CONTEXT_BYTES, FRAGMENTS, MOST_ON_A_GPU = 0.6e9, 1.25, 16
"""What a process takes of a GPU besides its tensors, and how much more than these its allocator holds."""


def gpu_share(peak_bytes: float, gpu_bytes: float) -> float | None:
    """The smallest `gpus_per_worker` at which trials that were measured to need `peak_bytes` fit; None where one does.

    That they fit says nothing of their speed: trials on one GPU share its time.
    """
    fit = min(MOST_ON_A_GPU, int(gpu_bytes // (peak_bytes * FRAGMENTS + CONTEXT_BYTES)))
    return math.floor(1000 / fit) / 1000 if fit > 1 else None


def growth() -> Mapping[str, float] | None:
    """What the autoscaler may grow this cluster to; None where there is no autoscaler."""
    from ray._private.state import state  # no public call tells

    return state.get_max_resources_from_cluster_config()


def _quiet() -> None:
    """Ray's and Tune's own output off; the console shows what matters."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")


def _on_loopback() -> None:
    """Have all that is started here listen on loopback alone; no effect once Ray has been imported.

    On Linux Ray binds its servers to every interface, and resolves `_node_ip_address="127.0.0.1"` back to the machine's
    own address. Where it is told that clusters are not supported, as it is on macOS and Windows, it takes 127.0.0.1.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"


def _keep_freed_memory() -> None:
    """Let glibc keep what a training step frees for the next step: 10 % less time a step on CPU.

    Otherwise it hands large blocks back to the kernel, which then has to map and clear them again. The processes that
    Ray starts here inherit this; 32 MiB is the largest threshold that glibc accepts for single blocks.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(512 << 20))
