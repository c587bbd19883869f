"""What a model has to know about a data set before it sees a sample."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Info:
    """Labels and geometry of a data set.

    Attributes:
        num_classes: labels are 0 .. num_classes - 1.
        class_names: one name per label.
        image_size: (height, width) of every sample, in pixels.
        ignore_index: mask value that neither loss nor metric counts.
    """

    num_classes: int
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    ignore_index: int = 255
