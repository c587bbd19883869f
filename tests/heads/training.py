"""A few training steps of a head, as tests of every task need them."""

import torch


def losses(head, maps, targets, size, *, steps, lr):
    """The loss before each step of AdamW on one batch."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=lr)
    values = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = head.loss(maps, targets, size)
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    return values
