"""The order of the data."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ray.sampling import batch_indices, draws

SIZES = {"num_samples": st.integers(1, 60), "batch_size": st.integers(1, 40), "seed": st.integers(0, 2**31)}


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_batches_run_through_permutations(num_samples, batch_size, seed):
    epochs = 3
    steps = -(-epochs * num_samples // batch_size)
    order = torch.cat(
        [batch_indices(step, batch_size=batch_size, num_samples=num_samples, seed=seed) for step in range(steps)]
    )
    for epoch in order[: epochs * num_samples].view(epochs, num_samples):
        assert sorted(epoch.tolist()) == list(range(num_samples))


@settings(max_examples=20, deadline=None)
@given(**SIZES, step=st.integers(0, 1000), factor=st.integers(1, 5))
def test_the_order_does_not_depend_on_how_it_is_cut(num_samples, batch_size, seed, step, factor):
    def take(step, size):
        return batch_indices(step, batch_size=size, num_samples=num_samples, seed=seed)

    parts = [take(step * factor + part, batch_size) for part in range(factor)]
    torch.rand(3)  # another draw from the global generator changes nothing
    assert torch.equal(take(step, batch_size * factor), torch.cat(parts))


def test_epochs_and_seeds_differ():
    def take(step, seed):
        return tuple(batch_indices(step, batch_size=50, num_samples=50, seed=seed).tolist())

    assert len({take(step, seed) for step in range(10) for seed in range(10)}) == 100


def test_half_of_the_samples_are_mirrored_and_every_one_has_a_seed_of_its_own():
    drawn = [draws(step, batch_size=100, seed=seed) for step in range(50) for seed in range(2)]
    mirrored, seeds = (torch.cat(part) for part in zip(*drawn, strict=True))
    assert abs(mirrored.float().mean().item() - 0.5) < 0.02
    assert len(seeds.unique()) == len(seeds) and seeds.min() >= 0
    for again, first in zip(draws(3, batch_size=100, seed=1), drawn[7], strict=True):
        assert torch.equal(again, first)
