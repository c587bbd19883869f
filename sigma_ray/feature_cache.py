"""Frozen features on disk: what the part of a backbone that no gradient enters makes of every image.

With `fixed`, `partial` or ViT-Split the leading blocks compute the same for an image in every epoch and every trial.
Their output is kept in Arrow tables beside the data's own, one row per image, mirrored training images in a table of
their own; the tables are built once and shared like those of the data. Methods that change the first block have nothing
to keep, and run as always.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from sigma_ray.data import SPLITS, tables
from sigma_ray.model import Model

FORMAT = 1
MIRRORED = "train_mirrored"
BATCH = 32


class FeatureTable:
    """One split: features in place of images, with the data's masks."""

    def __init__(self, plain: tables.Table, mirrored: tables.Table | None, masks: Any) -> None:
        """Join the tables of a split; `masks` is the data's own."""
        self._plain, self._mirrored, self._masks = plain, mirrored, masks

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._plain)

    def take(self, indices: np.ndarray, mirrored: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Samples at `indices`: `image` holds features (B, S, N, D) float32; mirrored ones where told so."""
        features, masks = self._plain.take(indices)["features"], self._masks.take(indices)["mask"]
        if mirrored is not None and mirrored.any():
            if self._mirrored is None:
                raise ValueError("only training images have mirrored features.")
            features[mirrored] = self._mirrored.take(indices[mirrored])["features"]
            masks[mirrored] = masks[mirrored][..., ::-1]
        return {"image": features, "mask": masks}


class FeatureData:
    """A data set whose images are features; labels and splits are the data's own."""

    def __init__(self, data: Any, tables_by_name: dict[str, tables.Table]) -> None:
        """Wrap `data`."""
        self.info = data.info
        self._splits = {
            split: FeatureTable(
                tables_by_name[split], tables_by_name.get(MIRRORED) if split == "train" else None, data.split(split)
            )
            for split in SPLITS
        }

    def split(self, name: str) -> FeatureTable:
        """The table of split "train", "val" or "test"."""
        return self._splits[name]


def cached(model: Model, data: Any, *, mirror: bool, autocast: AbstractContextManager, precision: str) -> Any:
    """`data` with features in place of images, computed now unless an earlier trial has; or `data` itself.

    Args:
        model: on its device; its frozen part is what is cached.
        data: the images.
        mirror: whether training mirrors images.
        autocast: the context that training computes in; `precision` names it.
        precision: part of the tables' name.

    Raises:
        ValueError: the features do not fit on the disk.
    """
    if not model.backbone.cacheable_blocks():
        return data
    names = (*SPLITS, *((MIRRORED,) if mirror else ()))
    folder = tables.cache_root() / f"features-{_key(model, data, names, precision)[:16]}"
    if tables.read_meta(folder) is None:
        check_space(model, data, mirror=mirror)
    tables.build(
        folder,
        info=lambda: data.info,
        fingerprint=lambda: data.fingerprint,
        batches=lambda name: _batches(model, data, name, autocast),
        splits=names,
    )
    return FeatureData(data, {name: tables.Table.open(folder / f"{name}.arrow") for name in names})


def check_space(model: Model, data: Any, *, mirror: bool) -> None:
    """Refuse features that would not leave a tenth of the free disk.

    Raises:
        ValueError: they do not fit; the message has the numbers.
    """
    if not model.backbone.cacheable_blocks():
        return
    rows = sum(len(data.split(split)) for split in SPLITS) + (len(data.split("train")) if mirror else 0)
    device = next(model.parameters()).device
    with torch.no_grad():
        one = model.features(torch.zeros(1, 3, *data.info.image_size, dtype=torch.uint8, device=device))
    needed, root = rows * one.numel() * 4, tables.cache_root()
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if needed > 0.9 * free:
        raise ValueError(
            f"train.cache_features needs {needed / 1e9:.1f} GB for {rows} images, but {root} has {free / 1e9:.1f} GB; "
            "set it to false, or SIGMA_RAY_CACHE to a larger disk."
        )


def _key(model: Model, data: Any, names: tuple[str, ...], precision: str) -> str:
    """A hash of all that decides the features."""
    backbone = model.backbone
    weights = backbone.weights_sha256
    if weights is None:
        digest = hashlib.sha256()
        for parameter in backbone.parameters():
            if not parameter.requires_grad:
                digest.update(parameter.detach().cpu().numpy().tobytes())
        weights = digest.hexdigest()
    device = next(model.parameters()).device.type
    parts = [FORMAT, data.fingerprint, backbone.name, weights, data.info.image_size, names, precision, device]
    parts += [backbone.cacheable_blocks(), backbone.cached_streams()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@torch.no_grad()
def _batches(model: Model, data: Any, name: str, autocast: AbstractContextManager) -> Iterator[dict[str, np.ndarray]]:
    table, device = data.split("train" if name == MIRRORED else name), next(model.parameters()).device
    for start in range(0, len(table), BATCH):
        images = table.take(np.arange(start, min(start + BATCH, len(table))))["image"]
        inputs = torch.from_numpy(np.ascontiguousarray(images[..., ::-1]) if name == MIRRORED else images)
        with autocast:
            features = model.features(inputs.to(device))
        yield {"features": features.float().cpu().numpy()}
