"""Generator states are saved and put back (several ranks: test_train.py)."""

import torch

from sigma_ray import rng

CPU = torch.device("cpu")


def test_restored_generators_repeat_what_followed():
    torch.manual_seed(3)
    states = rng.gather(CPU)
    first = torch.rand(5)
    rng.restore(states, 0, CPU)
    assert torch.equal(torch.rand(5), first)
    assert states.keys() == {"0/cpu"}
