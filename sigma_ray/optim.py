"""The optimiser of a trial, its learning-rate schedule, and its state as named tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sigma_ray.config import TrainConfig
from sigma_ray.model import Model

NOT_DECAYED = ("cls_token", "reg_token", "pos_embed", "rel_pos_h", "rel_pos_w", "relative_position_bias_table")
"""Tables of the pre-trained backbones that are positions or tokens, not maps."""


def optimiser(model: Model, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors (biases, norms, tokens, scales) and positions are not decayed.

    Parameters that come with the pre-trained backbone, or are copies of its, get `backbone_lr_scale` times the rate.
    """
    groups = []
    pretrained = {
        id(p) for module in model.backbone.modules() if hasattr(module, "frozen") for p in module._parameters.values()
    }
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for inside, scale in ((True, config.backbone_lr_scale), (False, 1.0)):
        for decayed in (True, False):
            params = [
                p for name, p in trained.items() if (id(p) in pretrained) is inside and _decays(name, p) is decayed
            ]
            decay = config.weight_decay if decayed else 0.0
            groups.append({"params": params, "lr": config.learning_rate * scale, "weight_decay": decay})
    # One kernel for all tensors: an adapter's are many and small, and a loop over them took 6 % of a step on CPU.
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.squeeze().ndim > 1 and name.rpartition(".")[2] not in NOT_DECAYED


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up to 1, then cosine to 0, polynomial (power 0.9) to 0, steps down, or constant."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "step":
        return config.decay_factor ** sum(step >= at for at in config.decay_steps)
    share = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    share = min(share, 1.0)
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * share)) / 2
    return (1 - share) ** 0.9 if config.schedule == "poly" else 1.0


def set_learning_rates(optimiser: torch.optim.Optimizer, full: list[float], factor: float) -> None:
    """Give every group its full rate times `factor`."""
    for group, rate in zip(optimiser.param_groups, full, strict=True):
        group["lr"] = rate * factor


def state_tensors(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's moments and step counts as "<parameter>/<key>"."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }


def load_state_tensors(
    optimiser: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], device: torch.device
) -> None:
    """The inverse of `state_tensors`; all goes to `device`: a fused optimiser wants step counts there too."""
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        optimiser.state[parameters[name]][key] = value.to(device)
