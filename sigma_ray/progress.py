"""How far a trial is, and how that goes into a checkpoint and comes out of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sigma_ray import optim, parallel, rng
from sigma_ray.checkpoint import Snapshot
from sigma_ray.config import TrialConfig, identity
from sigma_ray.failures import CheckpointError, StorageError
from sigma_ray.model import Model


@dataclass(kw_only=True)
class Progress:
    """What a trial has done so far; saved with every checkpoint."""

    step: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    best_step: int = -1
    best_value: float = math.nan
    points: list[dict[str, float]] = field(default_factory=list)

    def improves(self, value: float, mode: str) -> bool:
        """Whether a validation metric beats the best so far, where more is better ("max") or less; any beats NaN."""
        if math.isnan(self.best_value):
            return not math.isnan(value)
        return value > self.best_value if mode == "max" else value < self.best_value


def pack(
    config: TrialConfig,
    model: Model,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    best: Mapping[str, Tensor],
    random: Mapping[str, Tensor],
) -> Snapshot:
    """Everything that `unpack` needs; `best` are the tensors of the best step, `random` all ranks' generators."""
    parts = {
        "model": model.trained_state(),
        "best": best if progress.best_step != progress.step else {},
        "optimiser": optim.state_tensors(optimiser, model),
        "rng": random,
    }
    tensors = {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}
    return Snapshot(progress.step, tensors, {"key": _key(config), "progress": vars(progress)})


def unpack(
    snapshot: Snapshot,
    config: TrialConfig,
    model: Model,
    optimiser: torch.optim.Optimizer,
    rank: int,
    device: torch.device,
) -> tuple[Progress, dict[str, Tensor]]:
    """Put model, optimiser and this rank's generators back; return the progress and the best tensors so far.

    Raises:
        CheckpointError: the snapshot is another trial's.
    """
    if snapshot.values["key"] != _key(config):
        raise CheckpointError("the folder holds another trial's checkpoint; move it away")
    progress = Progress(**snapshot.values["progress"])
    state = {name: value.to(device) for name, value in snapshot.part("model").items()}
    model.load_trained_state(state)
    best = {name: value.to(device) for name, value in snapshot.part("best").items()}
    optim.load_state_tensors(optimiser, model, snapshot.part("optimiser"), device)
    rng.restore(snapshot.part("rng"), rank, device)
    return progress, state if progress.best_step == progress.step else best


def agree(step: int) -> None:
    """Require all workers to have read the checkpoint of one step.

    Raises:
        StorageError: they have not, as when a shared file system lags behind. It may pass.
    """
    steps = set(parallel.gathered([step]))
    if len(steps) > 1:
        raise StorageError(f"the workers read checkpoints of different steps {sorted(steps)}", transient=True)


def _key(config: TrialConfig) -> str:
    """What must be the same for a checkpoint to be continued."""
    return json.dumps(identity(config), sort_keys=True)
