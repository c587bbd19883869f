"""The Ray session of a study: how it is opened, and how many trials fit it at a time."""

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Session:
    """A connection to Ray that is made in the background, because starting Ray here takes seconds.

    Args:
        address: of the cluster; "local" starts one in this process's children.
        workers: how many each trial has.
    """

    def __init__(self, address: str, workers: int) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._resources = self._pool.submit(_connect, address, workers)

    def __enter__(self) -> "Session":
        """Start; nothing has to be waited for yet."""
        return self

    def resources(self) -> Mapping[str, float]:
        """The cluster's resources, as soon as it answers."""
        return self._resources.result()

    def __exit__(self, *_: object) -> None:
        """Disconnect; a cluster that was started here ends."""
        self._resources.cancel()
        try:
            # In the thread that connected, and before it ends: the kernel stops a thread's children with it.
            self._pool.submit(_disconnect).result()
        finally:
            self._pool.shutdown()


def _connect(address: str, workers: int) -> Mapping[str, float]:
    _quiet()
    if address == "local":
        _keep_freed_memory()
        _on_loopback()
    import ray

    local: dict[str, Any] = {}
    if address == "local":
        # Stopping a trial of several workers needs the dashboard's State API to free their placement group.
        local["include_dashboard"] = workers > 1
        if workers > 1:
            # Each such trial has a process beside its workers that only waits: it gets a share of one extra CPU.
            local["num_cpus"] = max(os.cpu_count() or 1, workers) + 1
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    return ray.cluster_resources()


def _disconnect() -> None:
    import ray

    ray.shutdown()


def slots(available: Mapping[str, float], workers: int, jobs: int | None) -> tuple[dict[str, float], int]:
    """Resources of one trial's driver process, and how many trials fit the cluster at a time.

    Raises:
        ValueError: not even one trial fits.
    """
    cpus, gpus = available.get("CPU", 0), available.get("GPU", 0)
    if workers == 1:
        resources = {"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": 1.0}
        count = int(min(cpus, gpus) if gpus else cpus)
    else:
        # The trial's workers take their CPUs and GPUs in a placement group that Tune does not see.
        resources = {"CPU": 0.01}
        count = int((gpus if gpus >= workers else cpus - 0.5) // workers)
    if count < 1:
        raise ValueError(
            f"num_workers must fit the cluster, but {workers} workers need more than its {cpus:.0f} CPUs; "
            "lower num_workers or add nodes."
        )
    return resources, min(count, jobs) if jobs else count


def _quiet() -> None:
    """Ray's and Tune's own output off; the console shows what matters."""
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
