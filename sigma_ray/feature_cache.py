"""Frozen features on disk: what the part of a backbone that no gradient enters makes of every image.

With `fixed`, `partial` or ViT-Split the leading blocks compute the same for an image in every epoch and every trial.
Their output is kept in Arrow tables beside the data's own, one row per image, mirrored training images in a table of
their own; the tables are built once and shared like those of the data. Methods that change the first block have nothing
to keep, and run as always.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigma_ray.config import CODE_VERSION
from sigma_ray.data import SPLITS, Draws, tables
from sigma_ray.data._decoded import Decoded, mirror
from sigma_ray.model import Model

FORMAT = 1
MIRRORED = "train_mirrored"


class FeatureTable:
    """One split: features in place of images, with the data's own targets."""

    def __init__(self, plain: tables.Table, mirrored: tables.Table | None, data: Decoded, width: int) -> None:
        """Join the tables of a split; `data` is the data's own, with images `width` pixels wide."""
        self._plain, self._mirrored, self._data, self._width = plain, mirrored, data, width
        self.columns = data.columns

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._plain)

    def take(self, indices: np.ndarray, columns: Sequence[str]) -> dict[str, Any]:
        """Samples at `indices` with `columns`; `image` holds features (B, S, N, D) float32."""
        return self._data.take(indices, columns) | {"image": self._plain.take(indices)["features"]}

    def augmented(self, indices: np.ndarray, columns: Sequence[str], draws: Draws) -> dict[str, np.ndarray]:
        """The same, mirrored where `draws` says so."""
        targets, turned = self._data.targets(indices, columns), draws.mirrored
        if not turned.any():
            return targets | {"image": self._plain.take(indices)["features"]}
        if self._mirrored is None:
            raise ValueError("only training images have mirrored features.")
        rows = self._mirrored.take(indices[turned])["features"]
        features = np.empty((len(indices), *rows.shape[1:]), rows.dtype)
        features[turned], features[~turned] = rows, self._plain.take(indices[~turned])["features"]
        return mirror(targets, turned, width=self._width) | {"image": features}


class FeatureData:
    """A data set whose images are features; labels and splits are the data's own."""

    def __init__(self, data: Any, tables_by_name: dict[str, tables.Table]) -> None:
        """Wrap `data`."""
        self.info = data.info
        self._splits = {
            split: FeatureTable(
                tables_by_name[split],
                tables_by_name.get(MIRRORED) if split == "train" else None,
                data.split(split),
                data.info.image_size[1],
            )
            for split in SPLITS
        }

    def split(self, name: str) -> FeatureTable:
        """The table of split "train", "val" or "test"."""
        return self._splits[name]


def cached(
    model: Model, data: Any, *, mirror: bool, autocast: AbstractContextManager, precision: str, batch_size: int = 32
) -> Any:
    """`data` with features in place of images, computed now unless an earlier trial has; or `data` itself.

    Args:
        model: on its device; its frozen part is what is cached.
        data: the images.
        mirror: whether training mirrors images.
        autocast: the context that training computes in.
        precision: what that context amounts to, "float32" or "bfloat16".
        batch_size: images at a time while the features are computed.

    Raises:
        ValueError: the features do not fit on the disk.
    """
    if not model.backbone.cacheable_blocks():
        return data
    refuse_photos(data)
    names, folder = _names(mirror), _folder(model, data, mirror=mirror, precision=precision)

    def info() -> Any:  # called under the tables' lock, and only if they are to be built
        refuse_if_full(needed_bytes(model, data, mirror=mirror, precision=precision))
        return data.info

    tables.build(
        folder,
        info=info,
        fingerprint=lambda: data.fingerprint,
        batches=lambda name: _batches(model, data, name, autocast, batch_size),
        splits=names,
    )
    return FeatureData(data, {name: tables.Table.open(folder / f"{name}.arrow") for name in names})


def needed_bytes(model: Model, data: Any, *, mirror: bool, precision: str) -> dict[Path, int]:
    """Bytes that `cached` would write, by folder; nothing where it has, or where the method leaves nothing to keep."""
    if not model.backbone.cacheable_blocks():
        return {}
    refuse_photos(data)
    folder = _folder(model, data, mirror=mirror, precision=precision)
    if tables.read_meta(folder) is not None:
        return {}
    rows = sum(len(data.split("train" if name == MIRRORED else name)) for name in _names(mirror))
    device = next(model.parameters()).device
    with torch.no_grad():
        one = model.features(torch.zeros(1, 3, *data.info.image_size, dtype=torch.uint8, device=device))
    return {folder: rows * one.numel() * 4}


def refuse_photos(data: Any) -> None:
    """Refuse data whose images are decoded and augmented anew for every step: no two of them are the same.

    Raises:
        ValueError: always, for such data.
    """
    if not isinstance(data.split("train"), Decoded):
        raise ValueError(
            "train.cache_features needs images that are only mirrored, but those of this data set are cropped and "
            "resized at random; set it to false, or use data=folder or data=scenes."
        )


def refuse_if_full(needed: Mapping[Path, int]) -> None:
    """Refuse what would take more than nine tenths of the free disk.

    Raises:
        ValueError: the message has the numbers.
    """
    root, total = tables.cache_root(), sum(needed.values())
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if total > 0.9 * free:
        raise ValueError(
            f"train.cache_features needs {total / 1e9:.3g} GB, but {root} has {free / 1e9:.3g} GB; set it to false, or "
            "SIGMA_RAY_CACHE to a larger disk."
        )


def _names(mirror: bool) -> tuple[str, ...]:
    return (*SPLITS, *((MIRRORED,) if mirror else ()))


def _folder(model: Model, data: Any, *, mirror: bool, precision: str) -> Path:
    """Where the features lie: a hash of all that decides them, our code and the libraries included."""
    backbone = model.backbone
    parts = [FORMAT, CODE_VERSION, version("torch"), version("timm"), data.fingerprint, data.info.image_size]
    parts += [backbone.name, backbone.weights_id(), precision, _names(mirror)]
    parts += [backbone.cacheable_blocks(), backbone.cached_streams()]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return tables.cache_root() / f"features-{key[:16]}"


@torch.no_grad()
def _batches(
    model: Model, data: Any, name: str, autocast: AbstractContextManager, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    table, device = data.split("train" if name == MIRRORED else name), next(model.parameters()).device
    for start in range(0, len(table), batch_size):
        images = table.take(np.arange(start, min(start + batch_size, len(table))), ())["image"]
        inputs = torch.from_numpy(np.ascontiguousarray(images[..., ::-1]) if name == MIRRORED else images)
        with autocast:
            features = model.features(inputs.to(device))
        yield {"features": features.float().cpu().numpy()}
