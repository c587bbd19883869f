"""ATSS, MMDetection's implementation and COCO configuration, on a feature pyramid.

Source: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection" (CVPR 2020); `atss_r50_fpn_1x_coco.py` of MMDetection. With the defaults it is the detector of VFM-Adapter's
Table 1: four pyramid levels, and the coarsest one max-pooled as a fifth.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sigma_ray import checks
from sigma_ray.data import Info
from sigma_ray.heads import _mmdet
from sigma_ray.heads._objects import MAX_DETECTIONS, detections, objects
from sigma_ray.heads._openmm import meta, total
from sigma_ray.heads._pyramid import pyramid
from sigma_ray.parallel import WHOLE, Share


@dataclass(frozen=True, kw_only=True)
class Config:
    """Width and levels.

    Attributes:
        channels: width of pyramid and towers.
        scales: resolution of the levels relative to the map, fine to coarse; one more level of half the last one's
            resolution is added.
        stacked_convs: convolutions in each of the two towers.
        anchor_size: side of the square anchor at every cell, in strides.
        top_k: candidates a level and object.
    """

    task: ClassVar[str] = "detection"
    maps: ClassVar[str] = "levels"
    with_masks: ClassVar[bool] = False

    channels: int = 256
    scales: tuple[float, ...] = (2, 1, 0.5, 0.25)
    stacked_convs: int = 4
    anchor_size: float = 8
    top_k: int = 9

    def __post_init__(self) -> None:
        for name in ("channels", "stacked_convs", "anchor_size", "top_k"):
            checks.positive(f"head.{name}", getattr(self, name))
        if not self.scales:
            raise ValueError("head.scales must name one level at least, but got none; use 2,1,0.5,0.25.")


class AtssHead(nn.Module):
    """Pyramid `levels`, one more pooled level, and MMDetection's head."""

    def __init__(self, levels: Any, head: Any) -> None:
        super().__init__()
        self.pyramid, self.head = levels, head

    def loss(
        self, features: list[Tensor], targets: dict[str, Tensor], size: tuple[int, int], share: Share = WHOLE
    ) -> Tensor:
        """Focal loss, GIoU and centerness of the anchors that ATSS assigns. Crowds are left out."""
        found = [_mmdet.instances(image) for image in objects(targets)]
        outputs = self._outputs(features)
        with torch.autocast(outputs[0][0].device.type, enabled=False):
            terms = self.head.loss_by_feat(*outputs, found, [meta(size)] * len(found))
            shapes = [level.shape[-2:] for level in outputs[0]]
            return total(terms, share.weights(lambda step: self._count(step, shapes, size)))

    def _count(self, targets: dict[str, Tensor], shapes: list[Any], size: tuple[int, int]) -> dict[str, Tensor]:
        """Positive anchors of every image, at least 1, and the sum of their centerness, which weighs boxes.

        Anchors are assigned to objects whatever is predicted.
        """
        found, head = [_mmdet.instances(image) for image in objects(targets)], self.head
        metas = [meta(size)] * len(found)
        anchors, flags = head.get_anchors(shapes, metas, device=targets["boxes"].device)
        assigned = head.get_targets(anchors, flags, found, metas)
        anchors, labels, boxes = (torch.cat(assigned[i], dim=1) for i in (0, 1, 3))  # of all levels
        positive = (labels >= 0) & (labels < head.num_classes)
        centerness = torch.zeros(positive.shape, device=positive.device)
        if positive.any():
            centerness[positive] = head.centerness_target(anchors[positive], boxes[positive])
        samples = positive.sum(1).clamp(min=1)
        return {"cls": samples, "centerness": samples, "bbox": centerness.sum(1)}

    def predict(self, features: list[Tensor], size: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Boxes after non-maximum suppression."""
        outputs, metas = self._outputs(features), [meta(size)] * len(features[-1])
        found = self.head.predict_by_feat(*outputs, batch_img_metas=metas)
        return [detections(image.bboxes, image.scores, image.labels, size) for image in found]

    def _outputs(self, features: list[Tensor]) -> list[list[Tensor]]:
        """Class scores, box offsets and centerness of every level, in float32."""
        levels = self.pyramid(features)
        levels.append(nn.functional.max_pool2d(levels[-1], 1, stride=2))
        return [[level.float() for level in kind] for kind in self.head(levels)]


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on one map, or on the stages of a hierarchical backbone."""
    levels = pyramid(in_channels, strides, config.channels, config.scales)
    return AtssHead(
        levels, _mmdet.build(_settings(config, info.num_classes, [*levels.strides, 2 * levels.strides[-1]]))
    )


def _settings(config: Config, num_classes: int, strides: list[float]) -> dict[str, Any]:
    return {
        "type": "ATSSHead",
        "num_classes": num_classes,
        "in_channels": config.channels,
        "stacked_convs": config.stacked_convs,
        "feat_channels": config.channels,
        "norm_cfg": {"type": "GN", "num_groups": math.gcd(32, config.channels)},
        "anchor_generator": {
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": config.anchor_size,
            "scales_per_octave": 1,
            "strides": strides,
        },
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder",
            "target_means": [0.0, 0.0, 0.0, 0.0],
            "target_stds": [0.1, 0.1, 0.2, 0.2],
        },
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "train_cfg": {
            "assigner": {"type": "ATSSAssigner", "topk": config.top_k},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "test_cfg": {
            "nms_pre": 1000,
            "min_bbox_size": 0,
            "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": MAX_DETECTIONS,
        },
    }
