"""A trial's model: frozen backbone with its adapter, and the task head."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from sigma_ray import adapters, components, heads
from sigma_ray import backbone as backbones
from sigma_ray.config import TrialConfig
from sigma_ray.data import Info
from sigma_ray.parallel import WHOLE, Share

NUM_SPREAD = 4


class Model(nn.Module):
    """Backbone, adapter and head on 8-bit images, which it normalises itself.

    `image_size` (H, W) is that of images which come as cached features.
    """

    def __init__(self, backbone: backbones.Backbone, head: Any, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.image_size = image_size
        self.backbone, self.head = backbone, head
        mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, targets: dict[str, Tensor] | None = None, share: Share = WHOLE) -> Any:
        """The loss against `targets`, or without them the head's predictions; `sigma_ray.heads` describes both.

        `images` is (B, 3, H, W), uint8, or what `features` made of them; `share` is what they count for in a step's
        loss. Loss and prediction have one entry because DDP only watches `forward`.
        """
        if images.dtype == torch.uint8:
            size: Any = tuple(images.shape[-2:])
            maps = self.backbone(self._normalised(images))
        else:
            size = self.image_size
            maps = self.backbone.from_prefix(images, *size)
        return self.head.predict(maps, size) if targets is None else self.head.loss(maps, targets, size, share)

    def features(self, images: Tensor) -> Tensor:
        """What the frozen leading blocks make of images: (B, S, N, D), see `Backbone.prefix`."""
        return self.backbone.prefix(self._normalised(images))

    def _normalised(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.float(), self.scale)

    def trained_state(self) -> dict[str, Tensor]:
        """Every tensor that training changes: the adapter's and the head's, never the frozen backbone's."""
        state = {f"backbone.{name}": value for name, value in adapters.adapter_state(self.backbone).items()}
        return state | {f"head.{name}": value for name, value in self.head.state_dict().items()}

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `trained_state` returned; names and shapes must be the same."""
        parts: dict[str, dict[str, Tensor]] = {"backbone": {}, "head": {}}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        adapters.load_adapter_state(self.backbone, parts["backbone"])
        self.head.load_state_dict(parts["head"])

    def num_parameters(self) -> dict[str, int]:
        """Trainable parameters on the backbone's side (what papers count) and in the head."""
        head = sum(p.numel() for p in self.head.parameters() if p.requires_grad)
        return {"trainable_parameters": adapters.trainable_parameters(self.backbone), "head_parameters": head}


def build(config: TrialConfig, info: Info) -> Model:
    """The model of `config`, initialised from `config.seed`.

    The head is built before the adapter draws random numbers, so that every arm of a comparison starts from the same
    head.

    Raises:
        ValueError: weights that do not fit, an image size that the stride does not divide, an adapter that cannot
            attach.
    """
    torch.manual_seed(config.seed)  # a backbone with weights=None draws random numbers
    backbone = backbones.load(config.backbone.name, config.backbone.weights, image_size=info.image_size)
    backbone.out_indices = blocks_for(backbone, config.head.maps)
    channels = backbone.out_channels
    torch.manual_seed(config.seed)
    head = heads.load(components.name_of(config.head)).build(
        config.head,
        in_channels=channels,
        strides=tuple(float(backbone.stride_of(index)) for index in backbone.out_indices),
        info=info,
    )
    torch.manual_seed(config.seed)
    adapters.attach(backbone, components.name_of(config.adapter), **dataclasses.asdict(config.adapter))
    if backbone.out_channels not in (channels, channels[:1]):
        raise ValueError(
            f"head {components.name_of(config.head)} must be one for the maps of adapter {backbone.adapter}, which on "
            f"{backbone.name} have {backbone.out_channels} channels, but it needs {channels}; choose another head."
        )
    return Model(backbone, head, info.image_size)


def blocks_for(backbone: backbones.Backbone, maps: str) -> tuple[int, ...]:
    """The blocks whose maps a head reads.

    Args:
        backbone: the backbone.
        maps: "last" (block), "levels" (the last block of every stage: one of a plain ViT), or "spread" (the stages, or
            where there is one alone four evenly spread blocks: {2, 5, 8, 11} of 12).
    """
    depth = len(backbone.blocks)
    if maps == "last":
        return (depth - 1,)
    if maps == "levels" or len(backbone.stages) > 1:
        return backbone.stages
    count = min(NUM_SPREAD, depth)
    return tuple(depth * (index + 1) // count - 1 for index in range(count))
