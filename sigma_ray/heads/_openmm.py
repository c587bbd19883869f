"""What heads of MMSegmentation and of MMDetection need alike: quiet initial weights, what an image is called, sums."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def initialise(head: Any) -> None:
    """Give a head its initial weights, without the line that MMEngine prints for every parameter."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        head.init_weights()
    finally:
        logger.setLevel(level)


def meta(size: tuple[int, int]) -> dict[str, Any]:
    """What a toolbox wants to know of an image of (height, width) that is neither scaled nor padded."""
    shape = tuple(size)
    return {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "batch_input_shape": shape}


def group_norm(channels: int) -> dict[str, Any]:
    """In place of a batch norm, whose statistics would make a result depend on how the batch is cut.

    Up to 32 groups of 8 channels or more, so that a map of one cell has several values to normalise.
    """
    most = 2 ** max(0, min(5, int(math.log2(channels)) - 3))
    return {"type": "GN", "num_groups": math.gcd(most, channels)}


def total(terms: Mapping[str, Any], weights: Mapping[str, Any]) -> Tensor:
    """Sum of all loss terms, each times the weight of its name.

    Args:
        terms: by name, "loss_<weight's name>" after perhaps a layer's; some are lists with one entry a level. What is
            not called a loss (such as an accuracy) does not count.
        weights: by name, numbers or scalars.
    """
    flat = [
        part.float().sum() * weights[name.rpartition("loss_")[2]]
        for name, value in terms.items()
        if "loss_" in name
        for part in (value if isinstance(value, list) else [value])
    ]
    return torch.stack(flat).sum()


def keep_counts_local() -> None:
    """Stop MMDetection's losses from averaging their counts over workers, a blocking reduction a decoder layer.

    `sigma_ray.parallel.Share` does it, once a step, and over micro-batches too.
    """
    from mmdet.models.dense_heads import atss_head, mask2former_head

    modules: tuple[Any, ...] = (atss_head, mask2former_head)
    for module in modules:
        module.reduce_mean = lambda count: count
