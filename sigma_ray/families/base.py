"""What backbones of every family share: freezing, feature maps, sizes; the places where adapters attach."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sigma_ray.blocks import Block

# Shapes: B images, N tokens (prefix, then patches), D channels, S streams, h x w patch grid.

Stream = tuple[int, tuple[Tensor, tuple[int, int]]]
"""A block's number, the token stream after it, and its grid."""


class Backbone(nn.Module):
    """A frozen vision transformer that returns feature maps; parameter names are timm's.

    Attributes:
        family: `vit` (plain), `sam` or `swin`.
        name: the name it was loaded under.
        embed_dim: channels D of the token stream; of the last block's where widths differ.
        patch_size: side of a patch in pixels.
        stride: pixels per cell of the last block's map; image sides are multiples of it. `patch_size` but on Swin.
        num_prefix_tokens: class and register tokens before the patch tokens.
        mean: per-channel mean, in [0, 1] units, that images are normalised with.
        std: per-channel standard deviation, in [0, 1] units.
        weights_sha256: SHA-256 of the weight file, None for random weights.
        adapter: name of the attached method, None before `adapters.attach`.
        adapter_options: the fields of its `Config`.
        blocks: every block, in order.
        gradient_checkpointing: keep only the streams between blocks for the backward pass and compute the rest again:
            less memory, more time.
        norm: the final norm of the token stream; the identity where there is none.
        neck: what the map of the last block goes through; the identity where there is none.
        sites: holds at most `output`, called as `module(streams, norm, grid, run) -> (B, D, h, w)` with the token
            streams after the blocks that its `reads` lists, by their number; its map then replaces the list of
            feature maps (ViT-Split). Where there is a neck the map goes through it, as the last block's does.
    """

    family: str
    embed_dim: int
    stride: int
    num_prefix_tokens: int
    blocks: Sequence[Block]
    norm: nn.Module
    neck: nn.Module
    neck_channels: int
    sites: nn.ModuleDict

    def __init__(self, model: Any, name: str) -> None:
        """Take over the parts of a timm model, without its pooling and classifier, and freeze them."""
        super().__init__()
        self.name, self.patch_size = name, model.patch_embed.patch_size[0]
        cfg = model.pretrained_cfg
        self.mean = tuple(float(value) for value in cfg["mean"])
        self.std = tuple(float(value) for value in cfg["std"])
        self.weights_sha256: str | None = None
        self.adapter: str | None = None
        self.adapter_options: dict[str, Any] = {}
        self.gradient_checkpointing = False
        self._content = ""
        self._take(model)
        self.out_indices = (len(self.blocks) - 1,)
        self.requires_grad_(False)
        self.set_frozen(True)

    def weights_id(self) -> str:
        """Stand for the frozen weights: the SHA-256 of their file, else of themselves as they were at `attach`."""
        if self.weights_sha256 is None and self.adapter is None:
            self._content = content_hash(self.state_dict())
        return self.weights_sha256 or f"content:{self._content}"

    @staticmethod
    def fit_weights(state: dict[str, Any], model: Any) -> dict[str, Tensor]:
        """Convert published weights to the names of timm's `model`, and positions to its sizes."""
        raise NotImplementedError

    def _take(self, model: Any) -> None:
        """Take over the parts of a timm model, and set what `__init__` does not."""
        raise NotImplementedError

    def _begin(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn images into the token stream (B, N, D) before the first block, positions included."""
        raise NotImplementedError

    def _streams(self, images: Tensor, grid: tuple[int, int]) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Yield the token stream (B, N, D) after each block, and its grid; `grid` is that of the patches."""
        return self._onward(self._begin(images, grid), 0, grid)

    def _onward(self, x_BND: Tensor, start: int, grid: tuple[int, int]) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        for block in self.blocks[start:]:
            x_BND = self._run(block, x_BND, grid)
            yield x_BND, grid

    def _run(self, block: Block, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x_BND, grid, use_reentrant=False)
        return block(x_BND, grid)

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

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each map that `forward` returns."""
        last = len(self.blocks) - 1
        indices = (last,) if len(self.sites) else self.out_indices
        return tuple(self.neck_channels if index == last else self.blocks[index].dim for index in indices)

    @property
    def stages(self) -> tuple[int, ...]:
        """The last block of every stage; a plain ViT is one stage."""
        return (len(self.blocks) - 1,)

    def stride_of(self, index: int) -> int:
        """Pixels per cell of the map of block `index`."""
        del index
        return self.stride

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
            images: (B, 3, H, W), normalised with `mean` and `std`; H and W are multiples of `stride`.

        Returns:
            one map (B, D, h, w) for each of `out_indices`, after the final norm where it fits; the last block's also
            after the neck.

        Raises:
            ValueError: H or W is not a multiple of the stride.
        """
        grid = self.patch_grid(images.shape[-2], images.shape[-1])
        return self._maps(enumerate(self._streams(images, grid)), grid)

    def _maps(self, streams: Iterator[Stream], grid: tuple[int, int]) -> list[Tensor]:
        """Turn what the blocks give, each with its number, into maps; blocks after the last one needed do not run."""
        output = next(iter(self.sites.values()), None)
        wanted: Any = self.out_indices if output is None else output.reads
        last = wanted[-1]
        kept = {}
        for index, stream in streams:
            if index in wanted:
                kept[index] = stream
            if index == last:
                break
        if output is not None:
            return [
                self.neck(output({index: stream for index, (stream, _) in kept.items()}, self.norm, grid, self._run))
            ]
        maps = [self._map(stream, cells) for stream, cells in kept.values()]
        if last == len(self.blocks) - 1:
            maps[-1] = self.neck(maps[-1])
        return maps

    def cacheable_blocks(self) -> int:
        """Count the leading blocks whose output depends on the image alone: no gradient, nothing of a method in them.

        0 where the embedding is trained, and on Swin, whose stages differ in shape.
        """
        later = {id(p) for part in (*self.blocks, self.norm, self.neck, self.sites) for p in part.parameters()}
        if self.family == "swin" or any(p.requires_grad and id(p) not in later for p in self.parameters()):
            return 0
        for index, block in enumerate(self.blocks):
            modules: Iterator[Any] = block.modules()
            if any(not getattr(module, "frozen", False) for module in modules) or any(
                p.requires_grad for p in block.parameters()
            ):
                return index
        return len(self.blocks)

    def cached_streams(self) -> list[int]:
        """List the blocks, of the cacheable ones, whose output the rest of the forward pass reads."""
        count, output = self.cacheable_blocks(), next(iter(self.sites.values()), None)
        reads: Any = self.out_indices if output is None else output.reads
        onward = {count - 1} if reads[-1] >= count else set()
        return sorted({index for index in reads if index < count} | onward)

    def prefix(self, images: Tensor) -> Tensor:
        """Compute the streams (B, S, N, D) that `from_prefix` needs of images as `forward` takes them."""
        grid = self.patch_grid(images.shape[-2], images.shape[-1])
        wanted = self.cached_streams()
        streams = itertools.islice(self._streams(images, grid), wanted[-1] + 1)
        return torch.stack([stream for index, (stream, _) in enumerate(streams) if index in wanted], dim=1)

    def from_prefix(self, kept_BSND: Tensor, height: int, width: int) -> list[Tensor]:
        """Compute the maps of images of `height` x `width` pixels from their `prefix`."""
        grid, wanted = self.patch_grid(height, width), self.cached_streams()
        cached = [(index, (kept_BSND[:, n], grid)) for n, index in enumerate(wanted)]
        start = wanted[-1] + 1
        return self._maps(itertools.chain(cached, enumerate(self._onward(kept_BSND[:, -1], start, grid), start)), grid)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Count the patches (rows, columns) of an image given in pixels.

        Raises:
            ValueError: a side is not a multiple of the stride.
        """
        stride = self.stride
        if height % stride or width % stride:
            rows, columns = (max(1, round(side / stride)) for side in (height, width))
            unit = "patch size" if stride == self.patch_size else "stride"
            raise ValueError(
                f"image height and width must be multiples of the {unit} {stride}, "
                f"but got {height}x{width}; resize or pad to {rows * stride}x{columns * stride}."
            )
        return height // self.patch_size, width // self.patch_size

    def _map(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn the stream after a block into its map (B, D, h, w), without the neck."""
        return to_map(self.norm(patches(x_BND, grid)), grid)


def content_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names; of the names alone on the meta device."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def patches(x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Drop everything before the patch tokens: (B, N, D) -> (B, h * w, D)."""
    return x_BND[:, x_BND.shape[1] - grid[0] * grid[1] :]


def to_map(x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Lay patch tokens (B, h * w, D) out as a map (B, D, h, w), without a copy (channels-last strides)."""
    return x_BND.unflatten(1, grid).permute(0, 3, 1, 2)
