"""Records of all workers, for metrics that are computed from images and not from sums."""

from typing import Any

import torch.distributed as dist


def world_size() -> int:
    """How many processes evaluate together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(records: list[Any]) -> list[Any]:
    """The records of every process, on each of them, in the order of the ranks."""
    if world_size() == 1:
        return records
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, records)
    return [record for part in parts for record in part]
