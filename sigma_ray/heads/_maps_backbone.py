"""A backbone of `transformers` that hands on maps it was given, so that the library's detectors can be heads.

Importing this file imports `transformers`: import it inside functions.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput


class MapsConfig(BackboneConfigMixin, PreTrainedConfig):
    """Channels of the maps that will be given."""

    model_type = "sigma_ray_maps"

    def __init__(self, map_channels: tuple[int, ...] = (256,), **options: Any) -> None:
        super().__init__(**options)
        self.map_channels = list(map_channels)
        self.stage_names = [f"stage{index}" for index in range(len(map_channels))]
        self.set_output_features_output_indices(out_features=list(self.stage_names), out_indices=None)


class MapsBackbone(BackboneMixin, PreTrainedModel):
    """Returns the maps that `given` holds, whatever the pixels."""

    config_class = MapsConfig
    main_input_name = "pixel_values"

    def __init__(self, config: MapsConfig) -> None:
        super().__init__(config)
        self.num_features = list(config.map_channels)
        self.maps: list[Tensor] = []
        self.post_init()

    def forward(self, pixel_values: Tensor, **options: Any) -> BackboneOutput:
        """The maps, fine to coarse."""
        maps: Any = tuple(self.maps)
        return BackboneOutput(feature_maps=maps)

    @contextlib.contextmanager
    def given(self, maps: list[Tensor]) -> Iterator[None]:
        """Hold `maps` for a while."""
        self.maps = maps
        try:
            yield
        finally:
            self.maps = []


AutoConfig.register(MapsConfig.model_type, MapsConfig, exist_ok=True)
AutoBackbone.register(MapsConfig, MapsBackbone, exist_ok=True)
