"""Swin: stages of doubling width and halving grid, windows that shift in every second block.

The final norm has the last stage's width and is applied to its blocks only; maps of earlier blocks are the raw
stream, as in timm's `forward_intermediates`.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from timm.models.swin_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from sigma_ray.blocks import Block
from sigma_ray.failures import UnsupportedError
from sigma_ray.families.base import Backbone, patches, to_map
from sigma_ray.windows import SwinBlock

# Shapes: B images, N = h * w tokens, D channels of a stage.


class Stage(nn.Module):
    """Blocks of one width; `downsample` merges 2 x 2 cells before them, but in the first stage."""

    def __init__(self, base: Any) -> None:
        """Take over the children of a `timm.models.swin_transformer.SwinTransformerStage`."""
        super().__init__()
        self.merges = not isinstance(base.downsample, nn.Identity)
        self.downsample = base.downsample
        self.blocks = nn.ModuleList(SwinBlock(block) for block in base.blocks)

    def enter(self, x_BND: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Bring the stream of the stage before, on its `grid`, to this stage's width and grid."""
        if not self.merges:
            return x_BND, grid
        return self.downsample(x_BND.unflatten(1, grid)).flatten(1, 2), (grid[0] // 2, grid[1] // 2)


class NoOutputSite(nn.ModuleDict):
    """The sites of a backbone on which there can be no `output`, because streams differ in width."""

    def __init__(self, name: str, widths: tuple[int, ...]) -> None:
        """Remember what the refusal says: the backbone and the widths of its stages."""
        super().__init__()
        self.name, self.widths = name, widths

    def __setitem__(self, key: str, module: nn.Module) -> None:
        """Refuse.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{type(module).__name__} cannot run on {self.name}: an output site needs blocks of one width, but these "
            f"have {', '.join(map(str, self.widths))} channels; choose another method, a plain ViT or SAM."
        )


class SwinBackbone(Backbone):
    """A frozen `timm.models.swin_transformer.SwinTransformer` that was made for images of any size."""

    family = "swin"

    @staticmethod
    def fit_weights(state: dict[str, Any], model: Any) -> dict[str, Tensor]:
        """Convert published weights to timm's names; resample relative positions, drop what follows from sizes."""
        return checkpoint_filter_fn(state, model)

    def _take(self, model: Any) -> None:
        self.embed_dim = self.neck_channels = model.num_features
        self.stride, self.num_prefix_tokens = self.patch_size * 2 ** (len(model.layers) - 1), 0
        self.patch_embed = model.patch_embed
        self.layers = nn.ModuleList(Stage(stage) for stage in model.layers)
        self.norm, self.neck = model.norm, nn.Identity()
        self.sites = NoOutputSite(self.name, tuple(dict.fromkeys(block.dim for block in self.blocks)))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every block, in order; the modules stay at `layers.i.blocks.j`, as in timm."""
        layers: Any = self.layers
        return tuple(block for stage in layers for block in stage.blocks)

    @property
    def stages(self) -> tuple[int, ...]:
        """The last block of every stage."""
        layers: Any = self.layers
        ends = itertools.accumulate(len(stage.blocks) for stage in layers)
        return tuple(end - 1 for end in ends)

    def stride_of(self, index: int) -> int:
        """Pixels per cell of the map of block `index`."""
        return self.patch_size * 2 ** sum(end < index for end in self.stages)

    def _streams(self, images: Tensor, grid: tuple[int, int]) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        x_BND = self.patch_embed(images).flatten(1, 2)
        layers: Any = self.layers
        for stage in layers:
            x_BND, grid = stage.enter(x_BND, grid)
            for block in stage.blocks:
                x_BND = self._run(block, x_BND, grid)
                yield x_BND, grid

    def _map(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        if x_BND.shape[-1] != self.embed_dim:
            return to_map(patches(x_BND, grid), grid)
        return super()._map(x_BND, grid)
