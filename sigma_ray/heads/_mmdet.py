"""MMDetection's ATSS head on a ViTDet pyramid, as VFM-Adapter's detector has it."""

from collections.abc import Callable

from torch import Tensor, nn

from sigma_ray.heads._mmcv_ops import install
from sigma_ray.heads._pyramid import SimplePyramid


class Atss(nn.Module):
    """Levels at 2, 1, 1/2 and 1/4 of the map's resolution and the max-pooled last one, then ATSS."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        """Build the pyramid for `in_channels` and the head with the settings of mmdet's `atss_r50_fpn_1x_coco`."""
        super().__init__()
        install()
        from mmdet.models.dense_heads import ATSSHead
        from mmengine.registry import DefaultScope

        self.pyramid = SimplePyramid(in_channels, 256, (2, 1, 0.5, 0.25))
        with DefaultScope.overwrite_default_scope("mmdet"):  # where types such as the box coder are looked up
            self.head = self._head(ATSSHead, num_classes)

    @staticmethod
    def _head(build: Callable[..., nn.Module], num_classes: int) -> nn.Module:
        return build(
            num_classes=num_classes,
            in_channels=256,
            stacked_convs=4,
            feat_channels=256,
            anchor_generator={
                "type": "AnchorGenerator",
                "ratios": [1.0],
                "octave_base_scale": 8,
                "scales_per_octave": 1,
                "strides": [8, 16, 32, 64, 128],
            },
            bbox_coder={
                "type": "DeltaXYWHBBoxCoder",
                "target_means": [0.0, 0.0, 0.0, 0.0],
                "target_stds": [0.1, 0.1, 0.2, 0.2],
            },
            loss_cls={"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
            loss_bbox={"type": "GIoULoss", "loss_weight": 2.0},
            loss_centerness={"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        )

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], ...]:
        """Return class scores, box offsets and centerness of every level, from the last of `features`."""
        levels = self.pyramid(features)
        levels.append(nn.functional.max_pool2d(levels[-1], 1, stride=2))
        return self.head(levels)
