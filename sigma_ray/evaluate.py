"""Evaluation of a model on a data split, and example predictions for the report."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from sigma_ray.data import Info
from sigma_ray.feature_cache import FeatureTable
from sigma_ray.files import write_atomically
from sigma_ray.model import Model
from sigma_ray.tasks import segmentation


class Split(Protocol):
    """A table of samples."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The samples at `indices`, stacked: `image` (B, 3, H, W) and `mask` (B, H, W), both uint8."""
        ...


def fetch(
    table: Split, indices: np.ndarray, device: torch.device, mirrored: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) uint8, or features that stand for them, and masks (B, H, W) int64 on `device`.

    `mirrored` (B,) says which are turned left to right.
    """
    sample = table.take(indices) if mirrored is None else _mirror(table, indices, mirrored)
    images, masks = torch.from_numpy(sample["image"]), torch.from_numpy(sample["mask"])
    return images.to(device, non_blocking=True), masks.to(device, non_blocking=True).long()


def _mirror(table: Split, indices: np.ndarray, mirrored: np.ndarray) -> dict[str, np.ndarray]:
    if isinstance(table, FeatureTable):
        return table.take(indices, mirrored)
    sample = table.take(indices)
    for values in sample.values():
        values[mirrored] = values[mirrored][..., ::-1]
    return sample


@torch.inference_mode()
def evaluate(
    model: Model, table: Split, *, info: Info, device: torch.device, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> dict[str, float]:
    """Metrics of `model` over `table`; under `torch.distributed` each rank takes its `shard` (rank, world)."""
    model.eval()
    metric = segmentation.Metric(info, device)
    mine = np.arange(shard[0], len(table), shard[1])
    for start in range(0, len(mine), batch_size):
        images, masks = fetch(table, mine[start : start + batch_size], device)
        metric.update(model(images), {"mask": masks})
    return metric.compute()


@torch.inference_mode()
def save_examples(model: Model, table: Split, path: Path, *, device: torch.device, count: int = 4) -> None:
    """Write the first `count` samples with their predictions: `image`, `target`, `prediction`, all uint8."""
    model.eval()
    indices = np.arange(min(count, len(table)))
    images, masks = fetch(table, indices, device)
    tensors = {"image": images, "target": masks, "prediction": model(images).argmax(1)}
    write_atomically(path, save({name: t.cpu().numpy().astype(np.uint8) for name, t in tensors.items()}))
