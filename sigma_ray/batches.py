"""The batches of a trial: a pure function of seed and step, so that every arm sees the same and a resumed trial too."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from sigma_ray import sampling
from sigma_ray.config import TrialConfig
from sigma_ray.data import Draws, Split
from sigma_ray.data._decoded import Decoded
from sigma_ray.data.loader import Prefetcher
from sigma_ray.evaluate import targets_of, to_device
from sigma_ray.feature_cache import FeatureTable


def sizes(config: TrialConfig, memory_divisor: int = 1) -> tuple[int, int]:
    """Images at a time on a worker, in training and in evaluation, at a share of the usual memory.

    What is configured is divided and rounded up, so that 1 is the least. The global batch stays as it is.
    """
    share = config.train.batch_size // config.num_workers
    usual = min(config.train.micro_batch_size or share, share), config.train.eval_batch_size
    training, evaluation = (math.ceil(size / memory_divisor) for size in usual)
    return training, evaluation


def can_divide(config: TrialConfig, memory_divisor: int) -> bool:
    """Whether a larger divisor than `memory_divisor` would still lower `sizes`."""
    return sizes(config, memory_divisor) != (1, 1)


class Batches:
    """One rank's share of every global batch, augmented."""

    def __init__(
        self, split: Split, columns: Sequence[str], config: TrialConfig, rank: int, world: int, device: torch.device
    ) -> None:
        """Read `columns` of the training `split`, for `rank` of `world` workers."""
        self.split, self.columns, self.device = split, columns, device
        self.seed, self.size, self.flip = config.seed, config.train.batch_size, config.train.horizontal_flip
        self.share = slice(rank * self.size // world, (rank + 1) * self.size // world)

    @contextmanager
    def steps(self, start: int, stop: int) -> Iterator[Iterator[tuple[Tensor, dict[str, Tensor]]]]:
        """Yield an iterator over the batches of steps `start` .. `stop` - 1.

        Each is images (B, 3, H, W) uint8, or features that stand for them, and targets. Pictures that are decoded anew
        for every step are made ahead on other threads; what lies decoded on disk is read when it is needed.
        """
        if isinstance(self.split, Decoded | FeatureTable) or start >= stop:
            yield (self._on_device(self.sample(step)) for step in range(start, stop))
            return
        with Prefetcher(self.sample, start=start, stop=stop) as samples:
            yield (self._on_device(sample) for sample in samples)

    def sample(self, step: int) -> dict[str, np.ndarray]:
        """This rank's samples of a step; a pure function of it."""
        indices = sampling.batch_indices(step, batch_size=self.size, num_samples=len(self.split), seed=self.seed)
        mirrored, seeds = sampling.draws(step, batch_size=self.size, seed=self.seed)
        if not self.flip:
            mirrored = torch.zeros_like(mirrored)
        draws = Draws(mirrored=mirrored[self.share].numpy(), seeds=seeds[self.share].numpy())
        return self.split.augmented(indices[self.share].numpy(), self.columns, draws)

    def _on_device(self, sample: dict[str, np.ndarray]) -> tuple[Tensor, dict[str, Tensor]]:
        return to_device(sample["image"], self.device), targets_of(sample, self.device)
