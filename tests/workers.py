"""Several processes under `torch.distributed` on this machine, as tests of many files need them."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(work: Callable[[int, Path], Any], folder: Path, *, count: int = 2, timeout: float = 120) -> list[Any]:
    """What `work(rank, folder)` returns on each of `count` processes; collectives wait `timeout` seconds at most."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.start_processes(_work, (work, folder, count, timeout), nprocs=count, start_method="spawn")
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(count)]


def _work(rank: int, work: Callable[[int, Path], Any], folder: Path, count: int, timeout: float) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count, timeout=timedelta(seconds=timeout)
    )
    try:
        result = work(rank, folder)
    finally:
        dist.destroy_process_group()
    torch.save(result, folder / f"rank-{rank}.pt")
