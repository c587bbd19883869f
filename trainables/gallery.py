"""Pictures of validation samples at the start, in the middle and at the end of a trial."""

from pathlib import Path
from typing import Any

from sigma_ray import tasks
from sigma_ray.config import TrialConfig


class Gallery:
    """Draws what a trial's model makes of a few samples."""

    def __init__(self, config: TrialConfig, data: Any, folder: Path, device: Any) -> None:
        """Draw samples of `data` as `config` has them, into files below `folder`."""
        self.config, self.data, self.folder, self.device = config, data, folder, device
        self.moments = [0, config.train.num_steps // 2, config.train.num_steps]

    def due(self, step: int) -> bool:
        """Whether pictures are to be drawn now; each moment counts once."""
        passed = [moment for moment in self.moments if moment <= step]
        self.moments = self.moments[len(passed) :]
        return bool(passed)

    def draw(self, model: Any, split: str) -> dict[str, Any]:
        """The first samples of a split as `sigma_ray.pictures.examples` has them."""
        from sigma_ray import pictures

        columns, task = tasks.columns(self.config.task, self.config.head), self.config.task
        return pictures.examples(
            model, self.data.split(split), task=task, columns=columns, info=self.data.info, device=self.device
        )

    def save(self, model: Any, step: int) -> str:
        """Write a grid of validation samples and return its path."""
        from sigma_ray import pictures
        from sigma_ray.files import write_atomically

        path = self.folder / "pictures" / f"val-step-{step:07d}.png"
        write_atomically(path, pictures.grid(self.draw(model, "val")))
        return str(path)
