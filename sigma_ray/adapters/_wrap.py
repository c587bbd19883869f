"""Layers that stand in for frozen ones, and how they are merged back into plain weights."""

import copy
from typing import Any

from torch import Tensor, nn

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone


class Wrapped(nn.Module):
    """A stand-in for the layer `base`; a subclass computes with it and can fold itself into a copy of it."""

    def __init__(self, base: Any) -> None:
        """Take over `base`, whose parameters stay as they are."""
        super().__init__()
        self.base = base

    def merged(self) -> nn.Module:
        """Return a plain layer, with parameters of its own, that computes the same.

        Raises:
            NotImplementedError: the method has no such form.
        """
        raise NotImplementedError(type(self).__name__)


def unwrap(model: nn.Module) -> None:
    """Replace every `Wrapped` layer of `model` by its merged form, in place."""
    for name, child in list(model.named_children()):
        if isinstance(child, Wrapped):
            setattr(model, name, child.merged())
        else:
            unwrap(child)


def with_weights(base: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """Copy a layer and give it other, frozen weights; `bias` may be new to it."""
    layer = copy.deepcopy(base)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def zeros_bias(base: Any) -> Tensor:
    """Return the layer's bias, or the zeros that it amounts to."""
    return base.bias if base.bias is not None else base.weight.new_zeros(len(base.weight))


def fold_inputs(backbone: Backbone) -> None:
    """Fold the affine modules before attention and feed-forward into qkv and fc1, which read them, and take them out.

    A module has `affine()`, which returns M (D, D) and c (D) such that it maps a token v to v + M v + c.

    Raises:
        ValueError: the backbone attends in windows, which are padded after c is added; folded, it would reach the
            padding.
    """
    why = "windows are padded after its bias is added"
    _inject.only_on(backbone, f"{backbone.adapter}, merged,", ("vit",), why)
    blocks: Any = backbone.blocks
    for block in blocks:
        for side, owner, name in (("attn", block.attn, "qkv"), ("ffn", block.mlp, "fc1")):
            (matrix, shift), base = block.sites[f"{side}_pre"].affine(), getattr(owner, name)
            weight, bias = base.weight + base.weight @ matrix, zeros_bias(base) + base.weight @ shift
            setattr(owner, name, with_weights(base, weight, bias))
            del block.sites[f"{side}_pre"]
