"""Tiny timm models with random weights, one of every shape that a method must cope with."""

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM

VITS = {
    "class_token": {},
    "no_prefix": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "registers_layerscale": {"reg_tokens": 4, "init_values": 1.0, "no_embed_class": True},
}
SHAPES = [*VITS, "sam", "swin"]


def build_tiny_vit(shape: str, **options) -> VisionTransformer:
    options = {"img_size": 24, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2} | options
    vit = VisionTransformer(num_classes=0, dynamic_img_size=True, **VITS[shape], **options)
    return described(vit)


def build_tiny_sam(**options) -> VisionTransformerSAM:
    """Windows of 3 on a grid of 8, so that padding happens; the last block attends globally."""
    options = {
        "img_size": 64,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 0,
        "use_rel_pos": True,
        "window_size": 3,
        "global_attn_indexes": (1,),
        "neck_chans": 16,
    } | options
    return described(randomised(VisionTransformerSAM(**options)))


def build_tiny_swin(**options) -> SwinTransformer:
    """Two stages of 16 and 32 channels, patch 4, so that the last map has stride 8."""
    options = {
        "img_size": 64,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "num_classes": 0,
        "window_size": 4,
        "strict_img_size": False,
        "drop_path_rate": 0.0,
    } | options
    return described(randomised(SwinTransformer(**options)))


def build_tiny(shape: str):
    return {"sam": build_tiny_sam, "swin": build_tiny_swin}.get(shape, lambda: build_tiny_vit(shape))()


def described(model):
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return model.eval()


def randomised(model):
    """Draw what timm starts at a constant: positions, norms and biases."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos" in name:
                parameter.normal_(std=0.5)
            elif parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model
