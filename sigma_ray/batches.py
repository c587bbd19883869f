"""The batches of a trial: a pure function of seed and step, so that every arm sees the same and a resumed trial too."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sigma_ray import sampling
from sigma_ray.config import TrialConfig
from sigma_ray.data import Draws, Split
from sigma_ray.evaluate import targets_of


class Batches:
    """One rank's share of every global batch, augmented."""

    def __init__(
        self, split: Split, columns: Sequence[str], config: TrialConfig, rank: int, world: int, device: torch.device
    ) -> None:
        """Read `columns` of the training `split`, for `rank` of `world` workers."""
        self.split, self.columns, self.device = split, columns, device
        self.seed, self.size, self.flip = config.seed, config.train.batch_size, config.train.horizontal_flip
        self.share = slice(rank * self.size // world, (rank + 1) * self.size // world)

    def __getitem__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (B, 3, H, W) uint8, or features that stand for them, and targets of a step."""
        indices = sampling.batch_indices(step, batch_size=self.size, num_samples=len(self.split), seed=self.seed)
        mirrored, seeds = sampling.draws(step, batch_size=self.size, seed=self.seed)
        if not self.flip:
            mirrored = torch.zeros_like(mirrored)
        draws = Draws(mirrored=mirrored[self.share].numpy(), seeds=seeds[self.share].numpy())
        sample = self.split.augmented(indices[self.share].numpy(), self.columns, draws)
        images = torch.from_numpy(sample["image"]).to(self.device, non_blocking=True)
        return images, targets_of(sample, self.device)
