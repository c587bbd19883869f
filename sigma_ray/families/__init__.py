"""Families of backbones, one file each: plain ViT, SAM's image encoder, Swin."""

from typing import Any

from timm.layers import PatchEmbed
from timm.models import swin_transformer, vision_transformer, vision_transformer_sam

from sigma_ray.families.base import Backbone
from sigma_ray.families.sam import SamBackbone
from sigma_ray.families.swin import SwinBackbone
from sigma_ray.families.vit import VitBackbone

# By the type of timm's model: the backbone, and the one type of block that it takes apart.
_FAMILIES: dict[type, tuple[type[Backbone], type]] = {
    vision_transformer.VisionTransformer: (VitBackbone, vision_transformer.Block),
    vision_transformer_sam.VisionTransformerSAM: (SamBackbone, vision_transformer_sam.Block),
    swin_transformer.SwinTransformer: (SwinBackbone, swin_transformer.SwinTransformerBlock),
}


def wrap(model: Any, name: str) -> Backbone:
    """Take a timm model over as a frozen backbone; `model` must accept images of any size.

    Raises:
        ValueError: neither a plain ViT, nor a SAM ViT, nor a Swin, or one that is not made of the usual parts.
    """
    if type(model) not in _FAMILIES:
        known = ", ".join(cls.__name__ for cls in _FAMILIES)
        raise ValueError(
            f"backbone must be one of timm's {known}, but {name} is a {type(model).__name__}; "
            "choose a vit_*, deit_*, samvit_* or swin_* model."
        )
    backbone, block = _FAMILIES[type(model)]
    found = {type(part) for stage in getattr(model, "layers", [model]) for part in stage.blocks}
    parts, patch = {type(model.patch_embed)} | found, model.patch_embed.patch_size
    if parts != {PatchEmbed, block} or patch[0] != patch[1]:
        names = ", ".join(sorted(part.__name__ for part in parts))
        raise ValueError(
            f"backbone must have standard blocks and square patches, but {name} has {names} and patch "
            f"{patch[0]}x{patch[1]}; choose a vit_*, deit_*, samvit_* or swin_* model that has."
        )
    return backbone(model, name)
