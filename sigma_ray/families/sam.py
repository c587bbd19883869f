"""SAM's image encoder: one width and grid, most blocks in windows, a neck of convolutions after the last block.

There is no final norm: maps of earlier blocks are the raw stream. Absolute positions are resampled to the image's
grid, relative ones to it in blocks with global attention; those of windows never change.
"""

from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer_sam import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.families.base import Backbone
from sigma_ray.windows import SamBlock

# Shapes: B images, N = h * w tokens, D channels.


class SamBackbone(Backbone):
    """A frozen `timm.models.vision_transformer_sam.VisionTransformerSAM`."""

    family = "sam"

    @staticmethod
    def fit_weights(state: dict[str, Any], model: Any) -> dict[str, Tensor]:
        """Convert published weights to timm's names; resample positions, which timm does at every call instead."""
        state = checkpoint_filter_fn(state, model)
        if model.pos_embed is not None and getattr(state.get("pos_embed"), "ndim", 0) == 4:
            state["pos_embed"] = resample_abs_pos_embed_nhwc(state["pos_embed"], model.pos_embed.shape[1:3])
        for index, block in enumerate(model.blocks):
            for axis in ("h", "w") if block.attn.use_rel_pos and block.window_size == 0 else ():
                name = f"blocks.{index}.attn.rel_pos_{axis}"
                if name in state:
                    state[name] = _resample(state[name], len(getattr(block.attn, f"rel_pos_{axis}")))
        return state

    def _take(self, model: Any) -> None:
        self.embed_dim, self.neck_channels = model.embed_dim, model.num_features
        self.stride, self.num_prefix_tokens = self.patch_size, 0
        self.pos_embed = model.pos_embed
        self.patch_embed, self.pos_drop, self.norm_pre = model.patch_embed, model.pos_drop, model.norm_pre
        blocks: Any = nn.ModuleList(SamBlock(block) for block in model.blocks)
        self.blocks = blocks
        self.norm, self.neck = nn.Identity(), model.neck
        self.sites = nn.ModuleDict()

    def _begin(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        x_BHWD = self.patch_embed(images)
        if self.pos_embed is not None:
            x_BHWD = x_BHWD + resample_abs_pos_embed_nhwc(self.pos_embed, list(grid))
        return self.norm_pre(self.pos_drop(x_BHWD)).flatten(1, 2)


def _resample(table: Tensor, length: int) -> Tensor:
    """Resample a table of relative positions (2 n - 1, channels) as timm's `get_rel_pos` does at a call."""
    if len(table) == length:
        return table
    return F.interpolate(table.float().T[None], size=length, mode="linear")[0].T.to(table.dtype)
