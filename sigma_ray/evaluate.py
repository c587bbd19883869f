"""Evaluation of a model on a data split."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sigma_ray import tasks
from sigma_ray.data import Info, Split
from sigma_ray.inference import predict
from sigma_ray.model import Model


def to_device(value: Any, device: torch.device) -> Any:
    """Arrays as tensors on `device`, lists of them as lists."""
    if isinstance(value, list):
        return [to_device(one, device) for one in value]
    tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else torch.as_tensor(value)
    return tensor.to(device, non_blocking=True)


def targets_of(sample: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """All of a batch but its images, on `device`; masks of class ids as int64."""
    targets = {name: to_device(value, device) for name, value in sample.items() if name != "image"}
    if "mask" in targets:
        ids = targets["mask"]
        targets["mask"] = ids.long() if isinstance(ids, torch.Tensor) else [one.long() for one in ids]
    return targets


@torch.inference_mode()
def evaluate(
    model: Model,
    split: Split,
    *,
    task: str,
    columns: Sequence[str],
    info: Info,
    device: torch.device,
    batch_size: int,
    shard: tuple[int, int] = (0, 1),
) -> dict[str, float]:
    """Metrics of `model` over `split`; exact under `torch.distributed`.

    Each rank takes whole batches in turn, `shard` = (rank, world), so that every image meets the same others
    whatever the number of workers: matrix products round by the shape of their operands.
    """
    model.eval()
    metric = tasks.load(task).Metric(info, device)
    starts = range(0, len(split), batch_size)
    for start in starts[shard[0] :: shard[1]]:
        indices = np.arange(start, min(start + batch_size, len(split)))
        sample = split.take(indices, columns)
        metric.update(predict(model, to_device(sample["image"], device), info), targets_of(sample, device))
    return metric.compute()
