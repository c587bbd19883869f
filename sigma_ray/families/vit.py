"""Plain ViTs: one width, one grid, global attention; class and register tokens where the model has them."""

from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from sigma_ray.blocks import Block
from sigma_ray.families.base import Backbone

# Shapes: B images, N tokens (prefix, then patches), D channels.


class VitBackbone(Backbone):
    """A frozen `timm.models.vision_transformer.VisionTransformer`."""

    family = "vit"

    @staticmethod
    def fit_weights(state: dict[str, Any], model: Any) -> dict[str, Tensor]:
        """Convert published weights to timm's names; resample position embedding and patch projection."""
        return checkpoint_filter_fn(state, model, adapt_layer_scale=True)

    def _take(self, model: Any) -> None:
        self.embed_dim = self.neck_channels = model.embed_dim
        self.stride, self.num_prefix_tokens = self.patch_size, model.num_prefix_tokens
        self.no_embed_class = model.no_embed_class
        self.cls_token, self.reg_token, self.pos_embed = model.cls_token, model.reg_token, model.pos_embed
        self.patch_embed, self.pos_drop, self.norm_pre, self.norm = (
            model.patch_embed,
            model.pos_drop,
            model.norm_pre,
            model.norm,
        )
        blocks: Any = nn.ModuleList(Block(block) for block in model.blocks)
        self.blocks = blocks
        self.neck = nn.Identity()
        self.sites = nn.ModuleDict()

    def _begin(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
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
