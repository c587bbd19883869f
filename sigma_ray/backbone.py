"""Frozen vision foundation models: plain timm ViTs as feature extractors with places for adapters.

    backbone = load("scenes_tiny")                       # or load("dinov2_base", weights="hub")
    (features,) = backbone(images)                       # images (B, 3, H, W) normalised -> (B, d, h, w)

A loaded backbone is frozen: no parameter requires grad and every module of it stays in evaluation mode, even
after `.train()`. Modules that an adapter adds follow `.train()` and `.eval()` as usual.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sigma_ray import pretrained, vits
from sigma_ray.blocks import Block

# Shapes: B images, N tokens (prefix, then patches), D channels, h x w patch grid.


class Backbone(nn.Module):
    """A frozen plain ViT that returns feature maps; parameter names are timm's (`blocks.0.attn.qkv.weight`).

    Attributes:
        name: the name it was loaded under.
        embed_dim: channels D of the token stream and of the feature maps.
        patch_size: side of a patch in pixels.
        num_prefix_tokens: class and register tokens before the patch tokens.
        mean: per-channel mean, in [0, 1] units, that images are normalised with.
        std: per-channel standard deviation, in [0, 1] units.
        weights_sha256: SHA-256 of the weight file, None for random weights.
        adapter: name of the attached method, None before `adapters.attach`.
        adapter_options: the fields of its `Config`.
        family: `vit`.
        sites: holds at most `output`, called as `module(streams, norm, grid) -> (B, D, h, w)` with the token
            stream after every block; its map then replaces the list of feature maps (ViT-Split).
    """

    family = "vit"

    def __init__(self, vit: VisionTransformer, name: str) -> None:
        """Take over the parts of a timm ViT, without its pooling and classifier, and freeze them."""
        super().__init__()
        self.name, self.embed_dim = name, vit.embed_dim
        self.patch_size, self.num_prefix_tokens = vit.patch_embed.patch_size[0], vit.num_prefix_tokens
        cfg: Any = vit.pretrained_cfg
        self.mean = tuple(float(value) for value in cfg["mean"])
        self.std = tuple(float(value) for value in cfg["std"])
        self.weights_sha256: str | None = None
        self.adapter: str | None = None
        self.adapter_options: dict[str, Any] = {}
        self.no_embed_class = vit.no_embed_class
        self.cls_token, self.reg_token, self.pos_embed = vit.cls_token, vit.reg_token, vit.pos_embed
        self.patch_embed, self.pos_drop, self.norm_pre, self.norm = (
            vit.patch_embed,
            vit.pos_drop,
            vit.norm_pre,
            vit.norm,
        )
        blocks: Any = vit.blocks
        self.blocks = nn.ModuleList(Block(block) for block in blocks)
        self.sites = nn.ModuleDict()
        self.out_indices = (len(self.blocks) - 1,)
        self.requires_grad_(False)
        self.set_frozen(True)

    @property
    def out_indices(self) -> tuple[int, ...]:
        """Blocks, counted from 0 and ascending, whose outputs `forward` returns; by default the last one."""
        return self._out_indices

    @out_indices.setter
    def out_indices(self, indices: Sequence[int]) -> None:
        indices = tuple(indices)
        depth = len(self.blocks)
        if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= depth:
            raise ValueError(
                f"out_indices must be ascending block numbers in 0..{depth - 1}, but got {indices}; "
                f"for the last block use ({depth - 1},)."
            )
        self._out_indices = indices

    def set_frozen(self, frozen: bool) -> None:
        """Mark every module present now as the frozen model's own (kept in evaluation mode) or as free."""
        modules: Iterator[Any] = self.modules()
        for module in modules:
            module.frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode on the modules that are not frozen; frozen ones stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if getattr(module, "frozen", False):
                module.training = False
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute feature maps of normalised images.

        Args:
            images: (B, 3, H, W), normalised with `mean` and `std`; H and W are multiples of `patch_size`.

        Returns:
            one map (B, D, H / patch_size, W / patch_size) for each of `out_indices`, after the final norm.

        Raises:
            ValueError: H or W is not a multiple of the patch.
        """
        grid = vits.grid_of(images.shape[-2], images.shape[-1], self.patch_size)
        x_BND = self._embed(images, grid)
        output = next(iter(self.sites.values()), None)
        streams = []
        for block in self.blocks if output is not None else self.blocks[: self.out_indices[-1] + 1]:
            x_BND = block(x_BND, grid)
            streams.append(x_BND)
        if output is not None:
            return [output(streams, self.norm, grid)]
        return [to_map(self.norm(patches(streams[index], grid)), grid) for index in self.out_indices]

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn images into the token stream (B, N, D) before the first block, position embedding included."""
        x_BND = self.patch_embed(images).flatten(1, 2)
        position = self.pos_embed
        if position is not None and grid != tuple(self.patch_embed.grid_size):
            num_prefix = 0 if self.no_embed_class else self.num_prefix_tokens
            position = resample_abs_pos_embed(position, list(grid), list(self.patch_embed.grid_size), num_prefix)
        if position is not None and self.no_embed_class:
            x_BND = x_BND + position
        prefix = [token.expand(len(images), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        x_BND = torch.cat([*prefix, x_BND], dim=1) if prefix else x_BND
        if position is not None and not self.no_embed_class:
            x_BND = x_BND + position
        return self.norm_pre(self.pos_drop(x_BND))


def patches(x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Drop everything before the patch tokens: (B, N, D) -> (B, h * w, D)."""
    return x_BND[:, x_BND.shape[1] - grid[0] * grid[1] :]


def to_map(x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay patch tokens (B, h * w, D) out as a map (B, D, h, w), without a copy (channels-last strides)."""
    return x_BND.unflatten(1, grid).permute(0, 3, 1, 2)


def load(name: str, weights: str | Path | None = "bundled", image_size: tuple[int, int] | None = None) -> Backbone:
    """Load a plain ViT, frozen.

    Args:
        name: `scenes_tiny`, a friendly name (`dinov2_base`, ...), or any timm name of a plain ViT.
        weights: `"bundled"` (only `scenes_tiny`), `"hub"` (timm's own, from the Hugging Face hub), a local
            `.safetensors` or `.pth` file, or None for random initialisation.
        image_size: (H, W) in pixels that the position embedding is resampled to once, at load. Other sizes
            still work; they resample at every call. Default: the model's own.

    Raises:
        ValueError: unknown name, not a plain ViT, a size that is no multiple of the patch, or weights that
            are missing, damaged or do not fit.
    """
    vit = vits.build(name, image_size)
    backbone = Backbone(vit, name)
    if weights is not None:
        if weights == "bundled":
            path = pretrained.bundled_file(name)
        elif weights == "hub":
            cfg: Any = vit.pretrained_cfg
            path = pretrained.hub_file(name, cfg)
        else:
            path = Path(weights)
        backbone.weights_sha256 = pretrained.load_file(backbone, vit, path)
    return backbone
