"""How the workers of a trial find each other, where all of them are on this machine: in a file.

Otherwise torch starts a server for it, which listens on every interface and asks nobody who they are. Imports
Ray Train.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


def torch_config(backend: str, folder: Path) -> TorchConfig:
    """Ray's own configuration on a cluster; on a Ray that listens on loopback alone, workers meet in `folder`."""
    if ray.util.get_node_ip_address() != "127.0.0.1":
        return TorchConfig(backend=backend)
    return _InFile(backend=backend, folder=str(folder))


@dataclass
class _InFile(TorchConfig):
    folder: str = ""

    @property
    def backend_cls(self) -> type["_FileBackend"]:
        return _FileBackend


class _FileBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Join the workers; as Ray does it, but for the address."""
        folder = Path(backend_config.folder)
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / f"workers-{uuid.uuid4().hex[:8]}"  # an attempt's own: a dead one's would be joined
        worker_group.execute(_set_torch_distributed_env_vars)
        joining = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(worker_group),
                init_method=place.as_uri(),
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joining)
