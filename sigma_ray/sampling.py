"""Data order: a pure function of seed and step, so that every arm sees the same samples and a resumed trial too."""

import functools

import torch
from torch import Tensor


def batch_indices(step: int, *, batch_size: int, num_samples: int, seed: int) -> Tensor:
    """Sample indices (batch_size,) of optimisation step `step`.

    The order is one random permutation of the data after another, cut into batches without regard to their borders.
    """
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = positions // num_samples, positions % num_samples
    return torch.stack(
        [
            _permutation(seed, epoch, num_samples)[offset]
            for epoch, offset in zip(epochs.tolist(), offsets.tolist(), strict=True)
        ]
    )


def draws(step: int, *, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """How the step's samples are augmented.

    Returns:
        which are mirrored left to right: (batch_size,) bool, each with probability 1/2; and a number for each,
        (batch_size,) int64, that whatever else is drawn for it starts from.
    """
    generator = _generator(seed, step, salt=1)
    mirrored = torch.rand(batch_size, generator=generator) < 0.5
    return mirrored, torch.randint(2**63 - 1, (batch_size,), generator=generator)


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_samples: int) -> Tensor:
    return torch.randperm(num_samples, generator=_generator(seed, epoch, salt=0))


def _generator(seed: int, position: int, *, salt: int) -> torch.Generator:
    mixed = (seed * 1_000_003 + position) * 2 + salt
    return torch.Generator().manual_seed(mixed * 0x9E3779B97F4A7C15 % 2**63)
