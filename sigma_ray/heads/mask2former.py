"""Mask2Former, MMSegmentation's implementation and ADE20K configuration, on four levels.

Source: Cheng et al., "Masked-attention Mask Transformer" (CVPR 2022); `mask2former_r50_8xb2-160k_ade20k-512x512.py`
of MMSegmentation, with the widths and depths below in place of its own where they differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sigma_ray import checks
from sigma_ray.data import Info
from sigma_ray.heads._mmseg import MMSegHead, official_config
from sigma_ray.heads._pyramid import four_levels
from sigma_ray.parallel import Share

OFFICIAL = "mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Width, queries, layers of pixel decoder and transformer decoder, points a mask loss samples (paper's values)."""

    task: ClassVar[str] = "segmentation"
    maps: ClassVar[str] = "levels"

    channels: int = 256
    num_queries: int = 100
    encoder_layers: int = 6
    decoder_layers: int = 9
    num_points: int = 12544

    def __post_init__(self) -> None:
        for name in ("num_queries", "encoder_layers", "decoder_layers", "num_points"):
            checks.positive(f"head.{name}", getattr(self, name))
        if self.channels < 32 or self.channels % 32:
            raise ValueError(
                f"head.channels must be a multiple of 32 (8 heads, GroupNorm 32), but got {self.channels}."
            )


class Mask2FormerHead(MMSegHead):
    """Its losses are means over matched masks, and over queries weighted by class."""

    def weights(self, share: Share) -> Mapping[str, Any]:
        """What every loss term counts for."""
        return share.weights(self._count)

    def _count(self, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Masks of every image, one for each class in it and at least 1, and the summed weights of its queries."""
        head, masks = self.head, targets["mask"]
        found = [image[image != head.ignore_index].unique().numel() for image in masks]
        matched = torch.tensor(found, dtype=torch.float64, device=masks.device).clamp(max=head.num_queries)
        queries = matched + (head.num_queries - matched) * head.class_weight[-1]
        return {"cls": queries, "mask": matched.clamp(min=1), "dice": matched.clamp(min=1)}


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on the last map of a plain ViT or on four stages."""
    head, dim = official_config(OFFICIAL).decode_head, config.channels
    pyramid = four_levels(in_channels, strides, dim)
    head.update(in_channels=list(pyramid.channels), strides=list(pyramid.strides), feat_channels=dim,
                out_channels=dim, num_classes=info.num_classes, num_queries=config.num_queries)  # fmt: skip
    head.loss_cls.class_weight = [1.0] * info.num_classes + [0.1]
    head.train_cfg.num_points = config.num_points
    _resize(head.pixel_decoder, head.transformer_decoder, dim)
    head.pixel_decoder.encoder.num_layers = config.encoder_layers
    head.transformer_decoder.num_layers = config.decoder_layers
    head.positional_encoding.num_feats = dim // 2
    return Mask2FormerHead(head.to_dict(), pyramid, info.ignore_index)


def _resize(pixel: Any, decoder: Any, dim: int) -> None:
    """Set every width that the configuration repeats; feed-forward layers keep their ratios 4 and 8."""
    pixel.encoder.layer_cfg.self_attn_cfg.embed_dims = dim
    pixel.encoder.layer_cfg.ffn_cfg.update(embed_dims=dim, feedforward_channels=4 * dim)
    pixel.positional_encoding.num_feats = dim // 2
    decoder.layer_cfg.self_attn_cfg.embed_dims = dim
    decoder.layer_cfg.cross_attn_cfg.embed_dims = dim
    decoder.layer_cfg.ffn_cfg.update(embed_dims=dim, feedforward_channels=8 * dim)
