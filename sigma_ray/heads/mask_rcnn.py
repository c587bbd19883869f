"""Mask R-CNN from torchvision's parts on a feature pyramid: region proposals, then boxes and instance masks.

Source: He et al., "Mask R-CNN" (ICCV 2017), with torchvision's losses, sampling and thresholds. Torchvision takes
strides for powers of two (a patch of 14 has none); here anchors and pooling use the pyramid's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sigma_ray import checks
from sigma_ray.data import Info
from sigma_ray.heads._objects import MAX_DETECTIONS, detections, is_object, objects
from sigma_ray.heads._pyramid import pyramid
from sigma_ray.parallel import WHOLE, Share


@dataclass(frozen=True, kw_only=True)
class Config:
    """Width, levels and sampling.

    Attributes:
        channels: width of pyramid and mask branch.
        scales: resolution of the levels relative to the map, fine to coarse; proposals also come from one more level
            of half the last one's resolution.
        anchor_size: side of the anchors at every cell, in strides (of ratios 1:2, 1:1 and 2:1).
        num_proposals: kept of an image, in training twice as many.
        num_samples: proposals of an image that the box branch learns from.
        representation: width of the box branch's two linear layers.
        mask_convs: convolutions in the mask branch.
    """

    task: ClassVar[str] = "detection"
    maps: ClassVar[str] = "levels"
    with_masks: ClassVar[bool] = True

    channels: int = 256
    scales: tuple[float, ...] = (4, 2, 1, 0.5)
    anchor_size: float = 8
    num_proposals: int = 1000
    num_samples: int = 512
    representation: int = 1024
    mask_convs: int = 4

    def __post_init__(self) -> None:
        for name in ("channels", "anchor_size", "num_proposals", "num_samples", "representation", "mask_convs"):
            checks.positive(f"head.{name}", getattr(self, name))
        if not self.scales:
            raise ValueError("head.scales must name one level at least, but got none; use 4,2,1,0.5.")


class MaskRcnnHead(nn.Module):
    """Pyramid `levels`, torchvision's region proposal network and its heads for regions.

    Levels are made under autocast, if there is any; what follows runs in float32, because boxes in bfloat16 would be
    off by pixels.
    """

    def __init__(self, levels: Any, proposals: Any, regions: Any) -> None:
        super().__init__()
        self.pyramid, self.proposals, self.regions = levels, proposals, regions

    def loss(
        self, features: list[Tensor], targets: dict[str, Tensor], size: tuple[int, int], share: Share = WHOLE
    ) -> Tensor:
        """Sum of the losses of proposals, boxes and masks. Crowds are left out.

        Torchvision's means are over sampled anchors and regions, as many in every image unless it has too few, and
        over the regions that found an object, which depend on the predictions: objects stand for these.
        """
        images = [
            {"boxes": image["boxes"].float(), "labels": image["labels"] + 1, "masks": image["masks"].to(torch.uint8)}
            for image in objects(targets)
        ]
        _, terms = self._run(features, size, images)
        masks = share.weights(lambda step: {"objects": is_object(step).sum(1)})["objects"]
        return torch.stack(
            [value * (masks if name == "loss_mask" else share.images) for name, value in terms.items()]
        ).sum()

    def predict(self, features: list[Tensor], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Boxes after non-maximum suppression, and their masks."""
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        results = []
        for image in self._run(features, size, None)[0]:
            masks = paste_masks_in_image(image["masks"], image["boxes"], size)[:, 0] > 0.5
            results.append(detections(image["boxes"], image["scores"], image["labels"] - 1, size, masks))
        return results

    def _run(self, features: list[Tensor], size: tuple[int, int], targets: Any) -> tuple[Any, dict[str, Tensor]]:
        from torchvision.models.detection.image_list import ImageList

        levels = self.pyramid(features)
        sizes = [(int(size[0]), int(size[1]))] * len(levels[0])
        with torch.autocast(levels[0].device.type, enabled=False):
            levels = [level.float() for level in levels]
            maps = {str(i): level for i, level in enumerate(levels)}
            pooled = nn.functional.max_pool2d(levels[-1], 1, stride=2)
            boxes, first = self.proposals(ImageList(levels[0], sizes), {**maps, "pool": pooled}, targets)
            found, second = self.regions(maps, boxes, sizes, targets)
        return found, {**first, **second}


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on one map, or on the stages of a hierarchical backbone."""
    levels = pyramid(in_channels, strides, config.channels, config.scales)
    proposals = _proposals(config, [*levels.strides, 2 * levels.strides[-1]])
    return MaskRcnnHead(levels, proposals, _regions(config, levels.strides, info.num_classes + 1))


def _proposals(config: Config, strides: list[float]) -> nn.Module:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

    class Anchors(AnchorGenerator):
        """Torchvision's anchors at the levels' own strides, not at whole numbers of pixels."""

        def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
            device = feature_maps[0].device
            self.set_cell_anchors(torch.float32, device)
            steps = [[torch.tensor(stride, device=device)] * 2 for stride in strides]
            anchors = self.grid_anchors([list(level.shape[-2:]) for level in feature_maps], steps)
            return [torch.cat(anchors)] * len(image_list.image_sizes)

    anchors = Anchors(tuple((config.anchor_size * stride,) for stride in strides), ((0.5, 1.0, 2.0),) * len(strides))
    return RegionProposalNetwork(
        anchors,
        RPNHead(config.channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * config.num_proposals, "testing": config.num_proposals},
        post_nms_top_n={"training": 2 * config.num_proposals, "testing": config.num_proposals},
        nms_thresh=0.7,
    )


def _regions(config: Config, strides: Sequence[float], num_classes: int) -> nn.Module:
    """Heads for regions; `num_classes` counts the background, which is class 0."""
    from torchvision.models.detection import faster_rcnn, mask_rcnn
    from torchvision.models.detection.roi_heads import RoIHeads

    width = config.channels
    return RoIHeads(
        _pool(strides, 7),
        faster_rcnn.TwoMLPHead(width * 7**2, config.representation),
        faster_rcnn.FastRCNNPredictor(config.representation, num_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.num_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=MAX_DETECTIONS,
        mask_roi_pool=_pool(strides, 14),
        mask_head=mask_rcnn.MaskRCNNHeads(width, (width,) * config.mask_convs, 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(width, width, num_classes),
    )


def _pool(strides: Sequence[float], size: int) -> nn.Module:
    """Pooling of regions to `size` x `size`, each from the level that fits its own size.

    Source of the rule: Lin et al., "Feature Pyramid Networks" (CVPR 2017), equation 1: 224 pixels go to stride 16.
    """
    from torchvision.ops.poolers import LevelMapper, MultiScaleRoIAlign

    pool: Any = MultiScaleRoIAlign([str(i) for i in range(len(strides))], output_size=size, sampling_ratio=2)
    finest = round(math.log2(strides[0]))
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = LevelMapper(finest, finest + len(strides) - 1, round(224 * strides[0] / 2**finest))
    return pool
