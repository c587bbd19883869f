"""What depth heads share: loss and prediction, once they map features to metres."""

from torch import Tensor, nn

from sigma_ray.data import Info
from sigma_ray.parallel import WHOLE, Share
from sigma_ray.tasks import depth


class DepthHead(nn.Module):
    """Subclasses define `forward(features, size)`: depth (B, *size), float32, within the range that `info` names."""

    def __init__(self, info: Info) -> None:
        super().__init__()
        self.min_depth, self.max_depth = info.min_depth, info.max_depth

    def loss(
        self, features: list[Tensor], targets: dict[str, Tensor], size: tuple[int, int], share: Share = WHOLE
    ) -> Tensor:
        """Scale-invariant logarithmic loss against `depth` (B, *size)."""
        found, limits = self(features, size), {"min_depth": self.min_depth, "max_depth": self.max_depth}
        return depth.loss(found, targets["depth"], share, **limits)

    def predict(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Depth (B, *size) in metres."""
        return self(features, size)
