"""Checkpoints of a trial: safetensors files written atomically, the frozen backbone never among their contents.

One file holds everything a trial needs to go on as if nothing had happened: the trained tensors, the best ones on
validation so far, the optimiser's state, the random generators and, as JSON in the file's header, the step (which is
also the sampler's and the schedule's position), the seconds spent and every reported point.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sigma_ray.failures import CheckpointError
from sigma_ray.files import write_atomically

KEEP = 2


@dataclass(frozen=True)
class Snapshot:
    """Tensors by name and plain values at one step."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix/`, without it."""
        start = len(prefix) + 1
        return {name[start:]: value for name, value in self.tensors.items() if name.startswith(f"{prefix}/")}


class Checkpoints:
    """The checkpoints of one trial in one folder, the newest `KEEP` of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, snapshot: Snapshot) -> None:
        """Write `snapshot`; a crash at any moment leaves the earlier files whole."""
        metadata = {"step": str(snapshot.step), "values": json.dumps(snapshot.values)}
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
        write_atomically(self.folder / f"step-{snapshot.step:08d}.safetensors", save(contiguous, metadata))
        for path in self._files()[KEEP:]:
            path.unlink(missing_ok=True)

    def load(self) -> Snapshot | None:
        """The newest readable snapshot, or None when the trial has not been started.

        Raises:
            CheckpointError: there are files and none can be read.
        """
        errors = []
        for path in self._files():
            try:
                return _read(path)
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                errors.append(f"{path}: {error}")
        if errors:
            raise CheckpointError(f"no readable checkpoint ({'; '.join(errors)}); delete the folder to start afresh")
        return None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)


def _read(path: Path) -> Snapshot:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Snapshot(step=int(metadata["step"]), tensors=tensors, values=json.loads(metadata["values"]))
