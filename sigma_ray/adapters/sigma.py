"""SIGMA: scale-adaptive fusion with semantic modulation in a bottleneck (arXiv 2605.27893).

One module after attention and one after feed-forward in every block, on the patch tokens X (B, N, d):

    H = LN(X) W_d + b_d                                    down to r channels                        (3)
    U = H laid out as a map
    [g_1..g_K, s_1..s_K] = H W_m + b_m                     scales and shifts, for each token         (7)
    F_i = (1 + g_i) * DW_{k_i}(U) + s_i                    depth-wise, same padding, K = 3 kernels   (4), (8)
    S = mean_i F_i + U
    Z = (1 + g) * PW(S) + s                                1x1; g and s learnable vectors            (5), (9)
    Y = X + GELU(Z) W_u + b_u                                                                        (6)

Published: the parts and their order (LN, down, DW 3/5/7, residual, PW, GELU, up; learned scales and shifts
on the three DW outputs and on the PW output), the placement, and the parameter counts at r = 16, 32, 64,
128. Reconstructed, because the equations are lost in every copy at hand: the symbols above; that the PW
output's scale and shift are static (the counts allow no fourth dynamic pair); the mean over branches and
the module's own skip after the residual add (both from its parent, Mona); prefix tokens passing by; the
initialisation. The other readings are options.

Parameters per module: 3d + 2dr + 96r + 7r^2; 24 modules on a ViT-B: 724,992 / 1,480,704 / 3,250,176 /
7,821,312 for r = 16 / 32 / 64 / 128. W_u and b_u start at zero: the network starts exactly as the frozen
backbone. W_m, b_m, g, s start at zero too: modulation starts as the identity.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, odd, one_of, positive

# Shapes: B images, N tokens (prefix, then patches) or M patch tokens, D backbone and R bottleneck channels.

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of SIGMA; the defaults reproduce the published parameter counts.

    Attributes:
        bottleneck_dim: width r.
        kernel_sizes: depth-wise kernels, odd; as many branches and dynamic groups.
        modulation: `dynamic3_static1` (branches by the token, PW output by learned vectors), `dynamic3` (PW
            output not modulated), `dynamic4` (PW output by the token too; misses the published counts) or
            `none`.
        pw_input: `sum` of the branches, or `concat`: PW maps Kr -> r on [F_1 + U, ..., F_K + U], the token
            gives the K + 1 scales only, the K + 1 shifts are static (matches the counts; needs `dynamic4` or
            `none`).
        mod_input: what W_m sees, the `token` or the patch tokens' mean (`pooled`).
        dw_reduce: `mean` or `sum` of the branches.
        pw_residual: add S to Z, Mona's second skip.
        fusion: False removes DW and PW; H is modulated by one dynamic pair (unless `none`), then GELU and up.
        prefix: prefix tokens `bypass` the module, or pass through it as 1x1 maps (`center_tap`), each
            its own mean where `mod_input` is pooled.
        position: on the stream (`post_residual`) or on the sub-layer's output (`pre_residual`).
        attn: attach after attention.
        ffn: attach after feed-forward.
        blocks: `all` blocks, the `first_half`, the `last_half`, or `every_second`, the last one included.
        dropout: share of activations dropped before W_u in training.
    """

    bottleneck_dim: int = 32
    kernel_sizes: tuple[int, ...] = (3, 5, 7)
    modulation: str = "dynamic3_static1"
    pw_input: str = "sum"
    mod_input: str = "token"
    dw_reduce: str = "mean"
    pw_residual: bool = False
    fusion: bool = True
    prefix: str = "bypass"
    position: str = "post_residual"
    attn: bool = True
    ffn: bool = True
    blocks: str = "all"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values, and that they make sense together."""
        positive("sigma.bottleneck_dim", self.bottleneck_dim)
        odd("sigma.kernel_sizes", self.kernel_sizes)
        one_of("sigma.modulation", self.modulation, ("dynamic3_static1", "dynamic3", "dynamic4", "none"))
        one_of("sigma.pw_input", self.pw_input, ("sum", "concat"))
        one_of("sigma.mod_input", self.mod_input, ("token", "pooled"))
        one_of("sigma.dw_reduce", self.dw_reduce, ("mean", "sum"))
        one_of("sigma.prefix", self.prefix, ("bypass", "center_tap"))
        one_of("sigma.blocks", self.blocks, ("all", "first_half", "last_half", "every_second"))
        one_of("sigma.position", self.position, ("post_residual", "pre_residual"))
        fraction("sigma.dropout", self.dropout)
        if not (self.attn or self.ffn):
            raise ValueError("sigma.attn or sigma.ffn must be True, but both are False; use adapter fixed instead.")
        if self.pw_input == "concat":
            one_of("sigma.modulation with pw_input=concat", self.modulation, ("dynamic4", "none"))
            if self.pw_residual or self.dw_reduce == "sum":
                raise ValueError(
                    "sigma.pw_residual and dw_reduce=sum need pw_input=sum, but it is concat; set it to sum."
                )
        if not self.fusion and (self.pw_residual or self.pw_input == "concat" or self.dw_reduce == "sum"):
            raise ValueError(
                "sigma.pw_residual, pw_input, dw_reduce must be False, sum, mean when fusion is False, "
                f"but got {self.pw_residual}, {self.pw_input}, {self.dw_reduce}; reset them."
            )


class Modulation(nn.Module):
    """The scale and shift of each group: dynamic ones projected from tokens (7), static ones learned."""

    def __init__(self, dim: int, num_scales: int, num_shifts: int, static_scales: int, static_shifts: int) -> None:
        """Make the projection of `dim` channels and the static vectors, all zero at the start."""
        super().__init__()
        self.num_scales, self.num_shifts = num_scales, num_shifts
        self.project = _inject.zero_linear(dim, (num_scales + num_shifts) * dim)
        self.scales = nn.Parameter(torch.zeros(static_scales, dim)) if static_scales else None
        self.shifts = nn.Parameter(torch.zeros(static_shifts, dim)) if static_shifts else None

    def forward(self, h_BMR: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (scale, shift) of each group: (B, M, R), or (R,) where static."""
        dynamic = self.project(h_BMR).chunk(self.num_scales + self.num_shifts, dim=-1)
        scales = [*dynamic[: self.num_scales], *(self.scales if self.scales is not None else ())]
        shifts = [*dynamic[self.num_scales :], *(self.shifts if self.shifts is not None else ())]
        return list(zip(scales, shifts, strict=True))


def modulate(f_BMR: Tensor, pair: tuple[Tensor, Tensor] | None) -> Tensor:
    """Compute (1 + scale) * f + shift; without a pair, f."""
    if pair is None:
        return f_BMR
    scale, shift = pair
    return torch.addcmul(f_BMR + shift, scale, f_BMR)


def make_modulation(dim: int, num_branches: int, modulation: str, concat: bool, fusion: bool) -> Modulation | None:
    """Choose the groups of the variant: `num_branches` depth-wise ones, then the point-wise one."""
    if modulation == "none":
        return None
    if not fusion:
        return Modulation(dim, 1, 1, 0, 0)
    if concat:
        return Modulation(dim, num_branches + 1, 0, 0, num_branches + 1)
    num_dynamic = num_branches + (modulation == "dynamic4")
    num_static = int(modulation == "dynamic3_static1")
    return Modulation(dim, num_dynamic, num_dynamic, num_static, num_static)


class Fusion(nn.Module):
    """Depth-wise filters of several sizes, modulated, summed and mixed: equations (4), (5), (8), (9)."""

    def __init__(self, dim: int, kernel_sizes: tuple[int, ...], concat: bool, mean: bool, residual: bool) -> None:
        """Make filters of `dim` channels; `concat`, `mean` and `residual` are `Config`'s options."""
        super().__init__()
        self.concat, self.residual = concat, residual
        self.weight = 1 / len(kernel_sizes) if mean else 1.0
        self.filters = nn.ModuleList(nn.Conv2d(dim, dim, k, padding=k // 2, groups=dim) for k in kernel_sizes)
        self.mix = nn.Linear(len(kernel_sizes) * dim if concat else dim, dim)

    def forward(self, u_BMR: Tensor, grid: tuple[int, int], pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return Z (B, M, R) from U (B, M, R); `pairs` as from `Modulation`, possibly fewer or none."""
        # Contiguous tokens are a channels-last map as they lie; 1.3 times faster than a copy to (B, R, h, w).
        u_map = u_BMR.contiguous().unflatten(1, grid).permute(0, 3, 1, 2)
        branches = [
            modulate(conv(u_map).permute(0, 2, 3, 1).flatten(1, 2), pairs[i] if pairs else None)
            for i, conv in enumerate(self.filters)
        ]
        if self.concat:
            s_BMR = torch.cat([branch + u_BMR for branch in branches], dim=-1)
        else:
            s_BMR = torch.add(u_BMR, sum(branches[1:], branches[0]), alpha=self.weight)
        z_BMR = modulate(self.mix(s_BMR), pairs[-1] if len(pairs) > len(branches) else None)
        return z_BMR + s_BMR if self.residual else z_BMR


class Sigma(nn.Module):
    """One SIGMA module with its own skip."""

    def __init__(
        self,
        dim: int,
        bottleneck_dim: int,
        fusion: Fusion | None,
        modulation: Modulation | None,
        pooled: bool,
        center_tap: bool,
        dropout: float,
    ) -> None:
        """Make a module of `bottleneck_dim` channels on `dim`, which starts as the identity."""
        super().__init__()
        self.pooled, self.center_tap = pooled, center_tap
        self.norm = nn.LayerNorm(dim)
        self.down = _inject.small_linear(dim, bottleneck_dim)
        self.fusion, self.modulation = fusion, modulation
        self.dropout = nn.Dropout(dropout)
        self.up = _inject.zero_linear(bottleneck_dim, dim)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform the token stream (B, N, D) of a patch `grid` (h, w)."""
        num_prefix = x_BND.shape[1] - grid[0] * grid[1]
        # All tokens go down together: leaving the prefix out here would copy the D-channel stream both ways.
        h_BNR = self.down(self.norm(x_BND))
        z_BMR = self._transform(h_BNR[:, num_prefix:], grid)
        if self.center_tap and num_prefix:
            prefix = self._transform(h_BNR[:, :num_prefix].flatten(0, 1).unsqueeze(1), (1, 1))
            z_BMR = torch.cat([prefix.view(len(x_BND), num_prefix, -1), z_BMR], dim=1)
            num_prefix = 0
        update = self.up(self.dropout(F.gelu(z_BMR)))
        return x_BND + (F.pad(update, (0, 0, num_prefix, 0)) if num_prefix else update)

    def _transform(self, u_BMR: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute Z from U."""
        source = u_BMR.mean(dim=1, keepdim=True) if self.pooled else u_BMR
        pairs = self.modulation(source) if self.modulation is not None else []
        if self.fusion is None:
            return modulate(u_BMR, pairs[0] if pairs else None)
        return self.fusion(u_BMR, grid, pairs)


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put a module after attention and after feed-forward in every block, or after one of them.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "sigma")
    width, num_branches, concat = cfg.bottleneck_dim, len(cfg.kernel_sizes), cfg.pw_input == "concat"

    def make(dim: int) -> Sigma:
        fusion = None
        if cfg.fusion:
            fusion = Fusion(width, cfg.kernel_sizes, concat, cfg.dw_reduce == "mean", cfg.pw_residual)
        return Sigma(
            dim,
            width,
            fusion,
            make_modulation(width, num_branches, cfg.modulation, concat, cfg.fusion),
            pooled=cfg.mod_input == "pooled",
            center_tap=cfg.prefix == "center_tap",
            dropout=cfg.dropout,
        )

    place = "post" if cfg.position == "post_residual" else "out"
    sides = [side for side, wanted in (("attn", cfg.attn), ("ffn", cfg.ffn)) if wanted]
    _inject.insert(backbone, [f"{side}_{place}" for side in sides], make, cfg.blocks)
