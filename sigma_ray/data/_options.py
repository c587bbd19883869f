"""Options that data sets of photos share: where they lie, how they are held out, and the recipe of their task.

Imported when a `Config` is read, so this file imports nothing heavy.
"""

from dataclasses import dataclass

from sigma_ray.checks import fraction, non_negative, positive


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """Options of every data set of photos.

    Attributes:
        root: the data set's folder.
        image_size: (height, width) in pixels of what the model is trained on.
        max_unusable: share of a split's samples that may be missing or damaged; they are left out, counted and named.
            With 0 the first of them is an error.
        val_fraction: share of the training images held out as "val", where the published validation images are "test".
        split_seed: another seed holds out others.
    """

    root: str | None = None
    image_size: tuple[int, int] = (512, 512)
    max_unusable: float = 0.0
    val_fraction: float = 0.1
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without looking at files."""
        _size("data.image_size", self.image_size)
        fraction("data.max_unusable", self.max_unusable)
        positive("data.val_fraction", self.val_fraction)
        fraction("data.val_fraction", self.val_fraction)
        non_negative("data.split_seed", self.split_seed)


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(PhotoOptions):
    """The usual recipe for photos with masks (MMSegmentation's for ADE20K).

    In training a picture is scaled, cropped to `image_size` (padded where it is smaller), and its colours are
    distorted. In testing it is scaled alone.

    Attributes:
        base_size: (longer, shorter) side in pixels that a picture is scaled into, keeping its aspect; None: the shorter
            side of `image_size`, and four times as much for the longer side.
        ratio_range: training multiplies that size by a ratio drawn from this range.
        cat_max_ratio: largest share of a crop that one class should cover; ten crops are tried.
        photometric: whether training distorts brightness, contrast, saturation and hue.
        test_short_side: shorter side of test pictures, in place of `base_size`'s.
        window_stride: (rows, columns) in pixels between windows of `image_size` that slide over a test picture; None:
            the model sees whole pictures.
    """

    base_size: tuple[int, int] | None = None
    ratio_range: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    photometric: bool = True
    test_short_side: int | None = None
    window_stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the recipe."""
        super().__post_init__()
        if self.base_size is not None:
            _size("data.base_size", self.base_size)
        _range("data.ratio_range", self.ratio_range)
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"data.cat_max_ratio must lie in (0, 1], but got {self.cat_max_ratio!r}; 1 is no limit.")
        if self.test_short_side is not None:
            positive("data.test_short_side", self.test_short_side)
        if self.window_stride is not None and not all(
            0 < step <= side for step, side in zip(self.window_stride, self.image_size, strict=True)
        ):
            raise ValueError(
                f"data.window_stride must lie in 1 .. image_size {self.image_size}, but got {self.window_stride!r}; "
                "windows that do not touch would leave pixels out."
            )


@dataclass(frozen=True, kw_only=True)
class DetectionOptions(PhotoOptions):
    """Large-scale jitter (Ghiasi et al. 2021): a picture is scaled, then cropped and padded to `image_size`.

    Attributes:
        scale_range: training fits a picture into `image_size` times a factor drawn from this range; testing takes 1.
        min_box: shortest side in pixels that a training box must keep after the crop.
    """

    image_size: tuple[int, int] = (1024, 1024)
    scale_range: tuple[float, float] = (0.1, 2.0)
    min_box: float = 1.0

    def __post_init__(self) -> None:
        """Check the recipe."""
        super().__post_init__()
        _range("data.scale_range", self.scale_range)
        non_negative("data.min_box", self.min_box)


@dataclass(frozen=True, kw_only=True)
class DepthOptions(PhotoOptions):
    """Pictures scaled to `image_size`; training jitters their colours (BTS, Lee et al. 2019) and may crop them.

    Attributes:
        crop_size: (height, width) of a random training crop out of `image_size`; None: no crop.
        colour_jitter: whether training changes gamma, brightness and colours of every second picture.
        depth_scale: units of a depth file per metre (1000: millimetres).
        min_depth: in metres; depth below it is not counted.
        max_depth: in metres; depth beyond it is neither predicted nor counted.
    """

    image_size: tuple[int, int] = (480, 640)
    crop_size: tuple[int, int] | None = None
    colour_jitter: bool = True
    depth_scale: float = 1000.0
    min_depth: float = 1e-3
    max_depth: float = 10.0

    def __post_init__(self) -> None:
        """Check the recipe."""
        super().__post_init__()
        if self.crop_size is not None:
            _size("data.crop_size", self.crop_size)
            if any(crop > side for crop, side in zip(self.crop_size, self.image_size, strict=True)):
                raise ValueError(
                    f"data.crop_size must fit into image_size {self.image_size}, but got {self.crop_size!r}; lower it."
                )
        for name in ("depth_scale", "min_depth", "max_depth"):
            positive(f"data.{name}", getattr(self, name))
        if self.max_depth <= self.min_depth:
            raise ValueError(
                f"data.max_depth must exceed min_depth, but got {self.max_depth} and {self.min_depth}; raise it."
            )


def _size(name: str, size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name} must be two sides in pixels, both at least 1, but got {size!r}; use 512,512.")


def _range(name: str, bounds: tuple[float, float]) -> None:
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f"{name} must be two positive numbers, the first not larger, but got {bounds!r}; use 0.5,2.")
