"""What the methods share: claiming a backbone, placing modules at its sites, and initialisations."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.backbone import Backbone
from sigma_ray.failures import UnsupportedError


def claim(backbone: Backbone, name: str) -> None:
    """Note that `name` is being attached; the first call of every method's `attach`.

    Raises:
        ValueError: another method, or the same one, is attached already.
    """
    if backbone.adapter is not None:
        raise ValueError(
            f"a backbone must carry one method, but it has {backbone.adapter} and {name} was to be attached; "
            "load a fresh backbone."
        )
    backbone.adapter = name


def only_on(backbone: Backbone, name: str, families: Iterable[str], why: str) -> None:
    """Refuse backbones of other families; called before `claim`.

    Raises:
        UnsupportedError: `name` cannot run on this backbone, with the reason.
    """
    if backbone.family not in families:
        raise UnsupportedError(f"{name} cannot run on {backbone.name}: {why}; choose another method or a plain ViT.")


def insert(backbone: Backbone, sites: Iterable[str], make: Callable[[int], nn.Module], which: str = "all") -> None:
    """Put a module of its own, `make(block.dim)`, at each of `sites` in some blocks, on the backbone's device.

    `which` is `all`, `first_half`, `last_half` or `every_second` (the last block included).
    """
    device = next(backbone.parameters()).device
    sites = tuple(sites)
    blocks: Any = list(backbone.blocks)
    half = len(blocks) // 2
    chosen = {
        "all": blocks,
        "first_half": blocks[:half],
        "last_half": blocks[half:],
        "every_second": blocks[::-2][::-1],
    }
    for block in chosen[which]:
        for site in sites:
            block.add_site(site, make(block.dim).to(device))


def small_linear(in_features: int, out_features: int, std: float = 0.02) -> nn.Linear:
    """Make a Linear with truncated-normal weights and zero bias."""
    linear = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """Make a Linear that starts as the zero map."""
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def kaiming_linear(in_features: int, out_features: int) -> nn.Linear:
    """Make a Linear with Kaiming-uniform(a = sqrt 5) weights and zero bias."""
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.bias)
    return linear


def xavier_linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """Make a Linear with Xavier-uniform weights and zero bias."""
    linear = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def quick_gelu(x: Tensor) -> Tensor:
    """Compute x sigmoid(1.702 x), the approximation of GELU that ConvPass and VFM-Adapter use."""
    return x * torch.sigmoid(1.702 * x)


def convolve(u_BNR: Tensor, kernel_BRR33: Tensor, grid: tuple[int, int]) -> Tensor:
    """Filter each image's patch map with its own 3x3 kernel, or all with the one there is: (B, N, R) -> (B, N, R).

    Each prefix token is a 1x1 map of its own, so it meets the kernel's centre tap only.
    """
    num_prefix = u_BNR.shape[1] - grid[0] * grid[1]
    u_BRHW = u_BNR[:, num_prefix:].unflatten(1, grid).permute(0, 3, 1, 2)
    if len(kernel_BRR33) == 1:
        mixed_BRHW = F.conv2d(u_BRHW, kernel_BRR33[0], padding=1)
    else:
        # One grouped convolution over all images' channels: a group is an image.
        together, kernels = u_BRHW.reshape(1, -1, *grid), kernel_BRR33.flatten(0, 1)
        mixed_BRHW = F.conv2d(together, kernels, padding=1, groups=len(u_BNR)).view(u_BRHW.shape)
    mixed_BMR = mixed_BRHW.flatten(2).transpose(1, 2)
    if not num_prefix:
        return mixed_BMR
    return torch.cat([u_BNR[:, :num_prefix] @ kernel_BRR33[..., 1, 1].transpose(1, 2), mixed_BMR], dim=1)


def xavier_vector(size: int) -> Tensor:
    """Draw (size,) from the Xavier-uniform distribution of a 1 x size matrix."""
    bound = math.sqrt(6 / (1 + size))
    return torch.empty(size).uniform_(-bound, bound)
