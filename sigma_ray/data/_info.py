"""What a model has to know about a data set before it sees a sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

PADDING = (124, 116, 104)
"""Colour beside a picture that does not fill its frame: ImageNet's mean, close to 0 for every backbone."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Labels and geometry of a data set; what its task does not use stays at its default.

    Attributes:
        image_size: (height, width) in pixels of what the model is trained on, and tested on.
        num_classes: labels are 0 .. num_classes - 1.
        class_names: one name per label.
        ignore_index: mask value that neither loss nor metric counts.
        category_ids: the labels' numbers in the data set's own annotations (COCO's have gaps); empty: label + 1.
        window_stride: (rows, columns) between windows of `image_size` that slide over a test image; None: whole images.
        max_depth: in metres; depth beyond it is neither predicted nor counted.
        min_depth: in metres; depth below it is not counted.
        depth_crop: part of a test image that depth metrics look at: "none" (all) or "eigen" (NYUv2's).
    """

    image_size: tuple[int, int]
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    ignore_index: int = 255
    category_ids: tuple[int, ...] = ()
    window_stride: tuple[int, int] | None = None
    max_depth: float = 10.0
    min_depth: float = 1e-3
    depth_crop: str = "none"

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The same from what JSON makes of `dataclasses.asdict`."""
        fields: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
        return cls(**fields)
