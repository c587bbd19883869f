"""Random-generator states of all workers, for checkpoints."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def gather(device: torch.device) -> dict[str, Tensor]:
    """Every rank's generator states as "<rank>/cpu" and, on CUDA, "<rank>/device"; called on every rank."""
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["device"] = torch.cuda.get_rng_state(device)
    if not (dist.is_available() and dist.is_initialized()):
        return {f"0/{name}": state for name, state in own.items()}
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, {name: state.numpy() for name, state in own.items()})
    return {
        f"{rank}/{name}": torch.from_numpy(np.asarray(state))
        for rank, states in enumerate(gathered)
        for name, state in states.items()
    }


def restore(states: Mapping[str, Tensor], rank: int, device: torch.device) -> None:
    """Set this rank's generators to what `gather` saved."""
    torch.set_rng_state(states[f"{rank}/cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[f"{rank}/device"], device)
