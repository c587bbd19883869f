"""Checkpoints of a trial: safetensors files written atomically, the frozen backbone never among their contents.

One file holds everything a trial needs to go on as if nothing had happened: the trained tensors, the best ones on
validation so far, the optimiser's state, the random generators and, as JSON in the file's header, the step (which is
also the sampler's and the schedule's position), the seconds spent, every reported point, and a checksum of it all:
disks and networks garble files that still look whole.
"""

import json
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

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
        """Write `snapshot`; a crash at any moment, or a full disk, leaves the earlier files whole.

        Raises:
            OSError: it cannot be written.
        """
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
        metadata = {"step": str(snapshot.step), "values": json.dumps(snapshot.values)}
        metadata["checksum"] = _checksum(contiguous, metadata)
        write_atomically(self.folder / f"step-{snapshot.step:08d}.safetensors", save(contiguous, metadata))
        for path in self._files()[KEEP:]:
            path.unlink(missing_ok=True)

    def load(self, warn: Callable[[str], None] = warnings.warn) -> Snapshot | None:
        """The newest whole snapshot, or None where there is none; `warn` is told of those that are damaged."""
        for path in self._files():
            try:
                return _read(path)
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                warn(f"checkpoint {path.name} cannot be used ({error}); going on from an earlier one")
        return None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)


def _read(path: Path) -> Snapshot:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["checksum"] != _checksum(tensors, metadata):
        raise ValueError("its checksum is wrong")
    return Snapshot(step=int(metadata["step"]), tensors=tensors, values=json.loads(metadata["values"]))


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 of all that a snapshot holds: against accidents, not against forgers."""
    total = zlib.crc32(f"{metadata['step']} {metadata['values']}".encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(uint8).numpy().data, total)
    return f"{total:08x}"
