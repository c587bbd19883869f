"""ViT-Split: a task head copied from the last blocks and a prior head on frozen features (Li et al. 2025, ICCV).

The backbone runs without autograd. On its L block outputs f_l:

    task  = the last K_t blocks, copied and trained, on the frozen f_{L - K_t}, then the frozen final norm
    prior = mix(concat over K_p selected blocks of norm(f_l))
    map   = mix([prior, task])
    mix   = GELU(deformable 3x3 (GELU(1x1)))        offsets from a 3x3 convolution, no modulation, no bias

Selection: `uniform` takes every ((L - start - 1) / (K_p - 1))-th block from `start` on; `last` the last K_p;
`sparse_gate` learns K_p mixtures of all blocks: softmax of scores over blocks at temperature 0.5, of which the largest
K_p count (straight-through gradients), divided by their sum.

The authors train the task head at a tenth of the learning rate and construct a batch norm that their forward pass
never uses (2 d parameters of their totals); it is left out. `parts` takes the method apart. Parameters: K_t blocks +
(K_p d^2 + d) + (2 d^2 + d) + 2 (162 d + 18 + 9 d^2).
"""

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone, patches, to_map
from sigma_ray.checks import non_negative, one_of, positive

# Shapes: B images, N tokens (prefix, then patches), D channels, h x w patch grid, L blocks, K selected maps.

STARTS_EQUAL = False

Run = Callable[[Any, Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of ViT-Split.

    Attributes:
        num_task_blocks: number K_t of copied blocks.
        num_prior_blocks: number K_p of selected block outputs; a single one is the last block's.
        start: first block, counted from 0, that `uniform` may select.
        selection: `uniform`, `last` or `sparse_gate`.
        parts: `both` heads, `task` or `prior` alone, or `sum`: both, added instead of fused.
    """

    num_task_blocks: int = 3
    num_prior_blocks: int = 4
    start: int = 2
    selection: str = "uniform"
    parts: str = "both"

    def __post_init__(self) -> None:
        """Check the values."""
        positive("vit_split.num_task_blocks", self.num_task_blocks)
        positive("vit_split.num_prior_blocks", self.num_prior_blocks)
        non_negative("vit_split.start", self.start)
        one_of("vit_split.selection", self.selection, ("uniform", "last", "sparse_gate"))
        one_of("vit_split.parts", self.parts, ("both", "task", "prior", "sum"))


class Mix(nn.Module):
    """GELU(deformable 3x3 (GELU(1x1))): (B, C, h, w) -> (B, D, h, w)."""

    def __init__(self, in_channels: int, dim: int) -> None:
        """Make the layers; offsets start at torch's convolution initialisation, as the authors leave them."""
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, dim, 1)
        self.offset = nn.Conv2d(dim, 18, 3, padding=1)
        self.deform = DeformConv2d(dim, dim, 3, padding=1, bias=False)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Mix channels, then neighbourhoods."""
        x_BDhw = nn.functional.gelu(self.reduce(x_BChw))
        # torchvision's kernel takes one dtype and no bfloat16 on CPU.
        with torch.autocast(x_BDhw.device.type, enabled=False):
            mixed = self.deform(x_BDhw.float().contiguous(), self.offset(x_BDhw.float()))
        return nn.functional.gelu(mixed.to(x_BDhw.dtype))


class Gate(nn.Module):
    """K mixtures of L maps, each of its K largest shares."""

    def __init__(self, num_blocks: int, num_maps: int) -> None:
        """Make uniform random scores."""
        super().__init__()
        self.scores = nn.Parameter(torch.rand(num_blocks, num_maps))

    def weights(self) -> Tensor:
        """Return (L, K) weights, columns summing to 1."""
        shares = (self.scores / 0.5).softmax(dim=0)
        kept = torch.zeros_like(shares).scatter(0, shares.topk(shares.shape[1], dim=0).indices, 1.0)
        through = shares * kept + self.scores - self.scores.detach()
        return through / through.sum(dim=0, keepdim=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Mix L maps into K."""
        return list(torch.einsum("lk,l...->k...", self.weights().to(maps[0].dtype), torch.stack(maps)))


class Split(nn.Module):
    """Task head, prior head and their fusion, at the backbone's `output` site."""

    def __init__(self, backbone: Backbone, cfg: Config) -> None:
        """Copy the last blocks of `backbone`, and make the prior head."""
        super().__init__()
        dim, depth = backbone.embed_dim, len(backbone.blocks)
        self.selected = _selection(cfg, depth)
        self.split = depth - cfg.num_task_blocks - 1
        blocks: Any = backbone.blocks
        self.task = self.gate = self.prior = self.fusion = None
        if cfg.parts != "prior":
            self.task = nn.ModuleList(copy.deepcopy(block) for block in list(blocks)[-cfg.num_task_blocks :])
            self.task.requires_grad_(True)
            for module in self.task.modules():
                module.frozen = False  # type: ignore[assignment]
        if cfg.parts != "task":
            self.gate = Gate(depth, cfg.num_prior_blocks) if cfg.selection == "sparse_gate" else None
            self.prior = Mix(cfg.num_prior_blocks * dim, dim)
        if cfg.parts == "both":
            self.fusion = Mix(2 * dim, dim)

    @property
    def reads(self) -> list[int]:
        """Blocks whose token streams the heads read, ascending."""
        prior = self.selected if self.prior is not None else []
        return sorted({*prior, *([self.split] if self.task is not None else [])})

    def forward(self, streams: Mapping[int, Tensor], norm: nn.Module, grid: tuple[int, int], run: Run) -> Tensor:
        """Compute the feature map (B, D, h, w) of the token streams (B, N, D) after the blocks that it reads.

        `run(block, x_BND, grid)` runs a block as the backbone would, with checkpointed gradients if so.
        """
        maps = []
        if self.prior is not None:
            maps.append(self._prior(streams, norm, grid))
        if self.task is not None:
            x_BND = streams[self.split].detach()
            for block in self.task:
                x_BND = run(block, x_BND, grid)
            maps.append(to_map(norm(patches(x_BND, grid)), grid))
        if self.fusion is not None:
            return self.fusion(torch.cat(maps, dim=1))
        return sum(maps[1:], maps[0])

    def _prior(self, streams: Mapping[int, Tensor], norm: nn.Module, grid: tuple[int, int]) -> Tensor:
        """Mix the selected frozen maps."""
        maps = [to_map(norm(patches(streams[index].detach(), grid)), grid) for index in self.selected]
        assert self.prior is not None
        return self.prior(torch.cat(self.gate(maps) if self.gate is not None else maps, dim=1))


def _selection(cfg: Config, depth: int) -> list[int]:
    """Return the blocks, counted from 0, whose outputs the prior head reads."""
    if cfg.selection == "sparse_gate":
        return list(range(depth))
    if cfg.selection == "last" or cfg.num_prior_blocks == 1:
        return list(range(depth - cfg.num_prior_blocks, depth))
    step = (depth - cfg.start - 1) / (cfg.num_prior_blocks - 1)
    return [cfg.start + round(index * step) for index in range(cfg.num_prior_blocks)]


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put the heads at the backbone's output; its blocks stay frozen and its own map is not used.

    Raises:
        ValueError: stages of different width, fewer blocks than asked for, or a method is attached already.
    """
    why = "it mixes the outputs of blocks that differ in width and resolution"
    _inject.only_on(backbone, "vit_split", ("vit", "sam"), why)
    depth = len(backbone.blocks)
    selected = _selection(cfg, depth)
    distinct = all(a < b for a, b in itertools.pairwise(selected)) and selected[0] >= 0
    prior_fits = cfg.parts == "task" or (cfg.num_prior_blocks <= depth and distinct)
    if (cfg.parts != "prior" and cfg.num_task_blocks >= depth) or not prior_fits:
        raise ValueError(
            f"vit_split must find its blocks among the {depth} of {backbone.name}, but got num_task_blocks="
            f"{cfg.num_task_blocks}, num_prior_blocks={cfg.num_prior_blocks}, start={cfg.start}; lower them."
        )
    _inject.claim(backbone, "vit_split")
    backbone.sites["output"] = Split(backbone, cfg).to(next(backbone.parameters()).device)
    backbone.train(backbone.training)
