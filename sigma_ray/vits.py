"""Architectures with random weights: the bundled ViT, and timm's plain ViTs, SAM ViTs and Swins."""

from typing import Any

import timm
from timm.models import is_model_in_modules
from timm.models.vision_transformer import VisionTransformer
from torch import nn

FRIENDLY = {
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_large": "vit_large_patch14_dinov2.lvd142m",
    "siglip2_base": "vit_base_patch16_siglip_gap_512.v2_webli",
    "mae_base": "vit_base_patch16_224.mae",
    "clip_large": "vit_large_patch14_clip_224.openai",
    "sam_base": "samvit_base_patch16.sa1b",
    "sam_huge": "samvit_huge_patch16.sa1b",
    "swin_base": "swin_base_patch4_window7_224.ms_in22k",
}


def names() -> list[str]:
    """List the friendly names, the bundled backbone first."""
    return ["scenes_tiny", *FRIENDLY]


def build(name: str, image_size: tuple[int, int] | None = None) -> nn.Module:
    """Create a timm model with random weights and without a classifier, for images of any size.

    Args:
        name: `scenes_tiny`, a friendly name, or a timm name.
        image_size: (H, W) in pixels that positions are made for; None for the model's own. Swin's windows keep the
            size they were pre-trained with; on each axis of a stage they are shifted if this size, or the model's
            own where that is larger, has room for more than one.

    Raises:
        ValueError: unknown name, or a model that cannot take images of any size.
    """
    return _scenes_tiny(image_size or (64, 64)) if name == "scenes_tiny" else _timm_model(name, image_size)


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


def _timm_model(name: str, image_size: tuple[int, int] | None) -> nn.Module:
    """Create a timm model by friendly or timm name."""
    timm_name = FRIENDLY.get(name, name)
    if not timm.is_model(timm_name):
        raise ValueError(f"backbone must be one of {', '.join(names())} or a timm ViT, but got {name!r}.")
    options: dict[str, Any] = {"num_classes": 0}
    swin = is_model_in_modules(timm_name, ("swin_transformer",))
    if swin:  # stochastic depth is 0.1 by default, which full tuning would switch on in this family alone
        options |= {"strict_img_size": False, "drop_path_rate": 0.0}
    elif not is_model_in_modules(timm_name, ("vision_transformer_sam",)):  # which takes any size without being told
        options["dynamic_img_size"] = True
    if image_size is not None and not swin:
        options["img_size"] = image_size
    try:
        model = timm.create_model(timm_name, **options)
    except TypeError as error:
        raise ValueError(
            f"backbone must be a plain ViT, a SAM ViT or a Swin, but {name} is none ({error}); "
            f"choose one of {', '.join(names())}."
        ) from error
    if swin and image_size is not None:
        _shift_for(model, image_size)
    return model


def _shift_for(swin: Any, image_size: tuple[int, int]) -> None:
    """Let timm decide anew, for a larger image, which windows are shifted; their sizes stay."""
    patch = swin.patch_embed
    grid = tuple(
        max(own, side // size) for own, side, size in zip(patch.grid_size, image_size, patch.patch_size, strict=True)
    )
    for index, stage in enumerate(swin.layers):
        before = tuple(cells // 2 ** max(index - 1, 0) for cells in grid)  # the grid that the stage is given
        stage.set_input_size(feat_size=before, window_size=stage.blocks[0].window_size)
