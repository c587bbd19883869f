"""What heads of MMSegmentation and of MMDetection need alike: quiet initial weights, and what an image is called."""

import logging
from typing import Any


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
