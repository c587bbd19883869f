"""Architectures with random weights: the bundled ViT, and every plain ViT that timm knows."""

from typing import Any

import timm
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer

FRIENDLY = {
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_large": "vit_large_patch14_dinov2.lvd142m",
    "siglip2_base": "vit_base_patch16_siglip_gap_512.v2_webli",
    "mae_base": "vit_base_patch16_224.mae",
    "clip_large": "vit_large_patch14_clip_224.openai",
}


def names() -> list[str]:
    """List the friendly names, the bundled backbone first."""
    return ["scenes_tiny", *FRIENDLY]


def build(name: str, image_size: tuple[int, int] | None = None) -> VisionTransformer:
    """Create a plain ViT with random weights and without a classifier.

    Args:
        name: `scenes_tiny`, a friendly name, or a timm name.
        image_size: (H, W) in pixels of its position embedding; None for the model's own.

    Raises:
        ValueError: unknown name, not a plain ViT, or a size that is no multiple of the patch.
    """
    vit = _scenes_tiny(image_size or (64, 64)) if name == "scenes_tiny" else _timm_vit(name, image_size)
    parts = {type(vit.patch_embed).__name__} | {type(block).__name__ for block in vit.blocks}
    patch = vit.patch_embed.patch_size
    if parts != {PatchEmbed.__name__, Block.__name__} or patch[0] != patch[1]:
        raise ValueError(
            f"backbone must have standard blocks and square patches, but {name} has {', '.join(sorted(parts))} "
            f"and patch {patch[0]}x{patch[1]}; choose one of {', '.join(names())}."
        )
    if image_size is not None:
        grid_of(*image_size, patch[0])
    return vit


def grid_of(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Count the patches (rows, columns) of an image given in pixels.

    Raises:
        ValueError: a side is not a multiple of the patch.
    """
    if height % patch_size or width % patch_size:
        rows, columns = (max(1, round(side / patch_size)) for side in (height, width))
        raise ValueError(
            f"image height and width must be multiples of the patch size {patch_size}, "
            f"but got {height}x{width}; resize or pad to {rows * patch_size}x{columns * patch_size}."
        )
    return height // patch_size, width // patch_size


def _scenes_tiny(image_size: tuple[int, int]) -> VisionTransformer:
    """Build the bundled architecture: 96 channels, 6 blocks, 3 heads, patch 8, one class token."""
    vit: Any = VisionTransformer(
        img_size=image_size,
        patch_size=8,
        embed_dim=96,
        depth=6,
        num_heads=3,
        num_classes=0,
        global_pool="",
        dynamic_img_size=True,
    )
    vit.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    return vit


def _timm_vit(name: str, image_size: tuple[int, int] | None) -> VisionTransformer:
    """Create a timm model by friendly or timm name and require a plain vision transformer."""
    timm_name = FRIENDLY.get(name, name)
    if not timm.is_model(timm_name):
        raise ValueError(f"backbone must be one of {', '.join(names())} or a timm ViT, but got {name!r}.")
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    if image_size is not None:
        options["img_size"] = image_size
    try:
        vit = timm.create_model(timm_name, **options)
    except TypeError as error:
        raise ValueError(
            f"backbone must be a plain ViT, but {name} is none ({error}); choose one of {', '.join(names())}."
        ) from error
    if type(vit) is not VisionTransformer:
        raise ValueError(
            f"backbone must be a timm VisionTransformer, but {name} is a {type(vit).__name__}; "
            f"choose one of {', '.join(names())} or another plain ViT."
        )
    return vit
