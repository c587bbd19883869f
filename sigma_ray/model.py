"""A trial's model: frozen backbone with its adapter, and the task head."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from sigma_ray import adapters, components, heads
from sigma_ray import backbone as backbones
from sigma_ray.config import TrialConfig
from sigma_ray.data import Info


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

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss against `mask` (B, H, W), or without one the prediction (B, C, H, W).

        `images` is (B, 3, H, W), uint8, or what `features` made of them. Loss and prediction share one entry because
        DDP only watches `forward`.
        """
        if images.dtype == torch.uint8:
            size: Any = images.shape[-2:]
            maps = self.backbone(self._normalised(images))
        else:
            size = torch.Size(self.image_size or ())
            maps = self.backbone.from_prefix(images, *size)
        return self.head.predict(maps, size) if mask is None else self.head.loss(maps, {"mask": mask}, size)

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
    torch.manual_seed(config.seed)
    head = heads.load(components.name_of(config.head)).build(
        config.head,
        in_channels=backbone.out_channels,
        strides=(backbone.stride,),
        info=info,
    )
    torch.manual_seed(config.seed)
    adapters.attach(backbone, components.name_of(config.adapter), **dataclasses.asdict(config.adapter))
    return Model(backbone, head, info.image_size)
