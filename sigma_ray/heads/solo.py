"""SOLO, MMDetection's implementation and COCO configuration, on a feature pyramid: instance masks without boxes.

Source: Wang et al., "SOLO: Segmenting Objects by Locations" (ECCV 2020); `solo_r50_fpn_1x_coco.py` of MMDetection.
A box is that of its mask. MMDetection takes the finest level for stride 4, so image and objects are resized for it to
four times that level's sides; with patch 16 that is the image itself, with patch 14 an eighth more.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigma_ray import checks
from sigma_ray.data import Info
from sigma_ray.heads import _mmdet
from sigma_ray.heads._objects import MAX_DETECTIONS, detections, halving, objects
from sigma_ray.heads._openmm import meta, total
from sigma_ray.heads._pyramid import pyramid
from sigma_ray.parallel import WHOLE, Share


@dataclass(frozen=True, kw_only=True)
class Config:
    """Width, levels and grids.

    Attributes:
        channels: width of pyramid and towers.
        scales: resolution of the levels relative to the map, fine to coarse, each half of the one before. The finest
            is halved again and the coarsest doubled before use.
        num_grids: cells along each side of the image that may hold an object's centre, one number a level.
        finest_size: the finest level learns objects of up to so many pixels (square root of the box's area), the next
            one those between half and twice of that, and so on by factors of two.
        stacked_convs: convolutions in each of the two towers.
    """

    task: ClassVar[str] = "detection"
    maps: ClassVar[str] = "levels"
    with_masks: ClassVar[bool] = True

    channels: int = 256
    scales: tuple[float, ...] = (4, 2, 1, 0.5, 0.25)
    num_grids: tuple[int, ...] = (40, 36, 24, 16, 12)
    finest_size: float = 96
    stacked_convs: int = 7

    def __post_init__(self) -> None:
        for name in ("channels", "finest_size", "stacked_convs"):
            checks.positive(f"head.{name}", getattr(self, name))
        if len(self.scales) < 3 or any(a != 2 * b for a, b in zip(self.scales, self.scales[1:], strict=False)):
            raise ValueError(f"head.scales must fall by halves, three at least, but got {self.scales}; use 4,2,1.")
        if len(self.num_grids) != len(self.scales) or min(self.num_grids) < 1:
            raise ValueError(
                f"head.num_grids must hold one positive number for each of the {len(self.scales)} head.scales, but got "
                f"{self.num_grids}."
            )


class SoloHead(nn.Module):
    """Pyramid `levels` and MMDetection's head, which takes the finest level for stride 4."""

    def __init__(self, levels: Any, head: Any) -> None:
        super().__init__()
        self.pyramid, self.head = levels, head

    def loss(
        self, features: list[Tensor], targets: dict[str, Tensor], size: tuple[int, int], share: Share = WHOLE
    ) -> Tensor:
        """Dice loss of the masks and focal loss of the cells' classes. Crowds are left out."""
        outputs, extent = self._outputs(features, size)
        inside = (4 * outputs[0][0].shape[-2], 4 * outputs[0][0].shape[-1])
        found = [_instances(image, extent, inside) for image in objects(targets)]
        with torch.autocast(outputs[0][0].device.type, enabled=False):
            terms = self.head.loss_by_feat(*outputs, found, [meta(inside)] * len(found))
            shapes = [level.shape[-2:] for level in outputs[0]]
            return total(terms, share.weights(lambda step: self._count(step, shapes, extent, inside), {"cls": 1.0}))

    def _count(
        self, targets: dict[str, Tensor], shapes: list[Any], extent: tuple[float, float], inside: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Cells of every image that learn a mask; they are found whatever is predicted."""
        cells = []
        for image in objects(targets):
            _, _, positive = self.head._get_targets_single(_instances(image, extent, inside), featmap_sizes=shapes)
            cells.append(torch.cat([level.flatten() for level in positive]).sum())
        return {"mask": torch.stack(cells), "cls": torch.stack(cells)}

    def predict(self, features: list[Tensor], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Masks after matrix non-maximum suppression, and their boxes."""
        from torchvision.ops import masks_to_boxes

        outputs, extent = self._outputs(features, size)
        height, width = outputs[0][0].shape[-2:]
        image_shape = round(4 * height * size[0] / extent[0]), round(4 * width * size[1] / extent[1])
        metas = [meta(image_shape) | {"ori_shape": tuple(size)}] * len(features[-1])
        results = []
        for image in self.head.predict_by_feat(*outputs, batch_img_metas=metas):
            masks = image.masks.bool()
            seen = masks.flatten(1).any(1)
            masks = masks[seen]
            boxes = masks_to_boxes(masks) + masks.new_tensor([0, 0, 1, 1], dtype=torch.float)  # edges, not pixels
            results.append(detections(boxes, image.scores[seen], image.labels[seen].long(), size, masks))
        return results

    def _outputs(self, features: list[Tensor], size: tuple[int, int]) -> tuple[list[list[Tensor]], tuple[float, float]]:
        """Masks and classes of every level, in float32, and the height and width in pixels that they cover."""
        levels, extent = halving(self.pyramid(features), size)
        return [[level.float() for level in kind] for kind in self.head(levels)], extent


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on one map, or on the stages of a hierarchical backbone."""
    levels = pyramid(in_channels, strides, config.channels, config.scales)
    inner = [4 * 2**i for i in range(1, len(config.scales) - 1)]  # the strides that the levels are brought to
    # The square root of an object's area that each level learns, in the pixels that MMDetection sees.
    limits = [config.finest_size * 4 / levels.strides[0] * 2**i for i in range(len(config.scales))]
    ranges = [(0.0, limits[0]), *((limit / 4, limit) for limit in limits[1:-1]), (limits[-1] / 4, math.inf)]
    settings = {
        "type": "SOLOHead",
        "num_classes": info.num_classes,
        "in_channels": config.channels,
        "feat_channels": config.channels,
        "stacked_convs": config.stacked_convs,
        "strides": [inner[0], *inner, inner[-1]],
        "scale_ranges": ranges,
        "num_grids": list(config.num_grids),
        "loss_mask": {"type": "DiceLoss", "use_sigmoid": True, "loss_weight": 3.0},
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
        "norm_cfg": {"type": "GN", "num_groups": math.gcd(32, config.channels)},
        "test_cfg": {
            "nms_pre": 500,
            "score_thr": 0.1,
            "mask_thr": 0.5,
            "filter_thr": 0.05,
            "kernel": "gaussian",
            "sigma": 2.0,
            "max_per_img": MAX_DETECTIONS,
        },
    }
    return SoloHead(levels, _mmdet.build(settings))


def _instances(image: dict[str, Tensor], extent: tuple[float, float], inside: tuple[int, int]) -> Any:
    """An image's objects where the pixels that the levels cover, `extent`, are `inside` in number."""
    from mmdet.structures.mask import BitmapMasks

    height, width = image["masks"].shape[-2:]
    masks = F.pad(image["masks"], (0, round(extent[1]) - width, 0, round(extent[0]) - height)).to(torch.uint8)
    if masks.shape[-2:] != inside and len(masks):
        masks = F.interpolate(masks[None], size=inside, mode="nearest-exact")[0]
    factors = image["boxes"].new_tensor([inside[1] / extent[1], inside[0] / extent[0]]).repeat(2)
    found = _mmdet.instances(image | {"boxes": image["boxes"] * factors})
    found.masks = BitmapMasks(masks.cpu().numpy().reshape(-1, *inside), *inside)
    return found
