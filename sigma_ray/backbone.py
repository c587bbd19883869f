"""Frozen vision foundation models of timm as feature extractors with places for adapters.

    backbone = load("scenes_tiny")                       # or load("dinov2_base", weights="hub")
    (features,) = backbone(images)                       # images (B, 3, H, W) normalised -> (B, d, h, w)

A loaded backbone is frozen: no parameter requires grad and every module of it stays in evaluation mode, even
after `.train()`. Modules that an adapter adds follow `.train()` and `.eval()` as usual.

Plain ViTs, SAM's image encoder and Swin are one class each (`sigma_ray/families/`) under one contract: flat tokens,
blocks with the same sites.
"""

from pathlib import Path

from sigma_ray import pretrained, vits
from sigma_ray.families import wrap
from sigma_ray.families.base import Backbone, patches, to_map

__all__ = ["Backbone", "load", "patches", "to_map", "wrap"]


def load(name: str, weights: str | Path | None = "bundled", image_size: tuple[int, int] | None = None) -> Backbone:
    """Load a vision transformer, frozen.

    Args:
        name: `scenes_tiny`, a friendly name (`dinov2_base`, `sam_base`, `swin_base`, ...), or any timm name of a
            plain ViT, a SAM ViT or a Swin.
        weights: `"bundled"` (only `scenes_tiny`), `"hub"` (timm's own, from the Hugging Face hub), a local
            `.safetensors` or `.pth` file, or None for random initialisation.
        image_size: (H, W) in pixels that positions are resampled to once, at load (`vits.build` says what it means
            for Swin). Other sizes still work; they resample at every call. Default: the model's own.

    Raises:
        ValueError: unknown name, a model of another family, a size that is no multiple of the stride, or weights
            that are missing, damaged or do not fit.
    """
    model = vits.build(name, image_size)
    backbone = wrap(model, name)
    if image_size is not None:
        backbone.patch_grid(*image_size)
    if weights is not None:
        if weights == "bundled":
            path = pretrained.bundled_file(name)
        elif weights == "hub":
            path = pretrained.hub_file(name)
        else:
            path = Path(weights)
        backbone.weights_sha256 = pretrained.load_file(backbone, model, path)
    return backbone
