"""Blocks that attend in windows: SAM's and Swin's, under the contract of `sigma_ray/blocks.py`.

Both pad the grid on the right and below until windows divide it, attend within each window, and crop. The padding
is zeros in place of normalised tokens, after the site `attn_pre`, and is attended to. In every second block Swin also
rolls the grid by half a window and masks pairs of tokens that are neighbours only because of the roll.
"""

from typing import Any

import torch
from timm.models import swin_transformer, vision_transformer_sam
from torch import Tensor
from torch.nn import functional as F

from sigma_ray.blocks import Block

# Shapes: B images, N = h * w tokens, D channels; BHWD the same tokens as a grid; K windows of A tokens.

_MASKED = -100.0  # Swin was trained with this, not with minus infinity.


class SamBlock(Block):
    """A block of timm's SAM ViT: windows, or with `window_size` 0 global attention, and relative positions."""

    def __init__(self, base: Any) -> None:
        """Take over the children of a `timm.models.vision_transformer_sam.Block`."""
        super().__init__(base)
        self.window_size: int = base.window_size

    def attend(self, v_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute MHA v window by window, for the tokens (B, h * w, D) of a `grid`."""
        v_BHWD = v_BND.unflatten(1, grid)
        if self.window_size == 0:
            return self.attn(v_BHWD).flatten(1, 2)
        windows, padded = vision_transformer_sam.window_partition(v_BHWD, self.window_size)
        y_BHWD = vision_transformer_sam.window_unpartition(self.attn(windows), self.window_size, grid, padded)
        return y_BHWD.flatten(1, 2)


class SwinBlock(Block):
    """A block of timm's Swin: windows of a fixed size, shifted in every second block."""

    def __init__(self, base: Any) -> None:
        """Take over the children of a `timm.models.swin_transformer.SwinTransformerBlock`."""
        super().__init__(base)
        self.window_size: tuple[int, int] = base.window_size
        self.shift_size: tuple[int, int] = base.shift_size

    def attend(self, v_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute MHA v window by window, for the tokens (B, h * w, D) of a `grid`."""
        window, (up, left), (height, width) = self.window_size, self.shift_size, grid
        v_BHWD = v_BND.unflatten(1, grid)
        if up or left:
            v_BHWD = v_BHWD.roll((-up, -left), (1, 2))
        v_BHWD = F.pad(v_BHWD, (0, 0, 0, -width % window[1], 0, -height % window[0]))
        padded = v_BHWD.shape[1], v_BHWD.shape[2]
        windows = swin_transformer.window_partition(v_BHWD, window).flatten(1, 2)
        mask_KAA = shift_mask(padded, window, self.shift_size, v_BND) if up or left else None
        y_KAD = self.attn(windows, mask=mask_KAA).unflatten(1, window)
        y_BHWD = swin_transformer.window_reverse(y_KAD, window, *padded)[:, :height, :width]
        if up or left:
            y_BHWD = y_BHWD.roll((up, left), (1, 2))
        return y_BHWD.flatten(1, 2)


def shift_mask(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], like: Tensor) -> Tensor:
    """Mask, for a rolled `grid` that windows divide, pairs of tokens from different sides of the seam.

    Returns:
        (K, A, A) of the dtype and device of `like`, 0 where a pair attends, else -100.
    """
    sides = []
    for length, size, step in zip(grid, window, shift, strict=True):
        position = torch.arange(length, device=like.device)
        sides.append((position >= length - size).to(like.dtype) + (position >= length - step))
    regions = 3 * sides[0][:, None] + sides[1]
    regions_KA = swin_transformer.window_partition(regions[None, :, :, None], window).flatten(1)
    return (regions_KA[:, None] != regions_KA[:, :, None]).to(like.dtype) * _MASKED
