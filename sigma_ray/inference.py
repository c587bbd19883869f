"""Predictions for images of any size."""

from typing import Any

from sigma_ray.data import Info


def predict(model: Any, images: Any, info: Info) -> Any:
    """Predictions."""
    return model(images)
