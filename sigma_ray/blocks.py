"""A pre-norm transformer block with named sites where adapters attach.

The equations of a timm block, LayerScale LS being the identity where there is none, and sites in brackets:

    [input] x
    v = LN1 x;  [attn_pre] v;  y = LS1 MHA v;  [attn_out] y
    x = x + y + [attn_parallel](LN1 x) + [attn_parallel_stream](x);  [attn_post] x
    ... and the same with LN2, FFN, LS2 and the `ffn_*` sites.

A site is an optional module called as `module(x_BND, grid)`: x_BND holds prefix tokens first, then the patch
tokens row by row; `grid = (h, w)` counts patches, so N - h * w tokens are prefix. The module returns the new
value of what it was given (`input`, `pre`, `out`, `post`), or a term of the residual sum (`parallel`,
`parallel_stream`).

Blocks that attend in windows (`sigma_ray/windows.py`) keep to the same contract: windows exist inside MHA only, so
every site sees the whole grid. They take no prefix tokens: N is h * w throughout.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

# Shapes: B images, N tokens (prefix, then patches), D channels.

_PLACES = ("pre", "parallel", "parallel_stream", "out", "post")
SITES = ("input", *(f"{side}_{place}" for side in ("attn", "ffn") for place in _PLACES))


class Block(nn.Module):
    """A timm block taken apart: its modules keep their names, its forward passes through `sites`.

    Attributes:
        dim: channels D of its stream.
    """

    def __init__(self, base: Any) -> None:
        """Take over the children of a timm block.

        Args:
            base: the timm block, of a plain ViT here; its modules are shared, not copied.
        """
        super().__init__()
        self.dim: int = base.norm1.normalized_shape[0]
        self.norm1, self.attn = base.norm1, base.attn
        self.ls1, self.drop_path1 = getattr(base, "ls1", nn.Identity()), base.drop_path1
        self.norm2, self.mlp = base.norm2, base.mlp
        self.ls2, self.drop_path2 = getattr(base, "ls2", nn.Identity()), base.drop_path2
        self.sites = nn.ModuleDict()

    def add_site(self, site: str, module: nn.Module) -> None:
        """Put `module` at a named site.

        Raises:
            ValueError: the site does not exist or is taken.
        """
        if site not in SITES:
            raise ValueError(f"site must be one of {', '.join(SITES)}, but got {site!r}.")
        if site in self.sites:
            raise ValueError(
                f"site {site} must be free, but holds {type(self.sites[site]).__name__}; attach one method."
            )
        self.sites[site] = module

    def attend(self, v_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute MHA v for the tokens (B, N, D) of a `grid`; blocks with windows override it."""
        return self.attn(v_BND)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform the token stream (B, N, D); `grid` is (h, w) in patches; N may change at `input`."""
        if "input" in self.sites:
            x_BND = self.sites["input"](x_BND, grid)
        x_BND = self._residual("attn", x_BND, grid, self.norm1, self.attend, self.ls1, self.drop_path1)
        return self._residual("ffn", x_BND, grid, self.norm2, self._feed_forward, self.ls2, self.drop_path2)

    def _feed_forward(self, v_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute FFN v; token by token, so the grid plays no part."""
        return self.mlp(v_BND)

    def _residual(
        self,
        side: str,
        x_BND: Tensor,
        grid: tuple[int, int],
        norm: nn.Module,
        layer: Callable[[Tensor, tuple[int, int]], Tensor],
        scale: nn.Module,
        drop_path: nn.Module,
    ) -> Tensor:
        """Add one sub-layer (attention or feed-forward) to the stream, with its sites."""
        sites = self.sites
        v_BND = norm(x_BND)
        inner_BND = sites[f"{side}_pre"](v_BND, grid) if f"{side}_pre" in sites else v_BND
        y_BND = scale(layer(inner_BND, grid))
        if f"{side}_out" in sites:
            y_BND = sites[f"{side}_out"](y_BND, grid)
        y_BND = drop_path(y_BND)
        if f"{side}_parallel" in sites:
            y_BND = y_BND + sites[f"{side}_parallel"](v_BND, grid)
        if f"{side}_parallel_stream" in sites:
            y_BND = y_BND + sites[f"{side}_parallel_stream"](x_BND, grid)
        x_BND = x_BND + y_BND
        return sites[f"{side}_post"](x_BND, grid) if f"{side}_post" in sites else x_BND
