"""Adapter methods, one file each; the file's name is the method's name.

A method file holds a `Config` (plain values), modules that take plain numbers, `attach(backbone, config)` and
`STARTS_EQUAL`: whether a freshly attached method leaves the backbone's output exactly as it was. One that can be folded
into plain weights has `merge(backbone)` too.
"""

import dataclasses
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from sigma_ray import components
from sigma_ray.backbone import Backbone


def names() -> list[str]:
    """List the methods, in alphabetical order."""
    return components.names("adapter")


def load(name: str) -> ModuleType:
    """Import the module of a method.

    Raises:
        ValueError: no such method; the message lists those there are.
    """
    if name not in names():
        raise ValueError(f"adapter must be one of {', '.join(names())}, but got {name!r}.")
    return import_module(f"{__name__}.{name}")


def attach(backbone: Backbone, name: str, **options: object) -> Backbone:
    """Attach a method in place; afterwards exactly its own parameters require grad.

    Args:
        backbone: a frozen backbone that carries no method yet.
        name: one of `names()`.
        **options: fields of the method's `Config`.

    Returns:
        the same backbone.

    Raises:
        ValueError: unknown method, unknown or invalid option, or a method is attached already.
    """
    method = load(name)
    fields = method.Config.__dataclass_fields__
    unknown = [option for option in options if option not in fields]
    if unknown:
        known = ", ".join(fields) or "none"
        raise ValueError(f"options of adapter {name} must be among: {known}; but got {', '.join(unknown)}.")
    config = method.Config(**{key: tuple(v) if isinstance(v, list) else v for key, v in options.items()})
    backbone.weights_id()  # of the weights before anything trains them
    method.attach(backbone, config)
    backbone.adapter_options = dataclasses.asdict(config)
    return backbone


def merge(backbone: Backbone) -> Backbone:
    """Fold the attached method into the backbone's own weights, in place; it then costs nothing and carries no method.

    Returns:
        the same backbone, frozen, with timm's parameter names.

    Raises:
        ValueError: no method is attached, or it has no such form.
    """
    able = [name for name in names() if hasattr(load(name), "merge")]
    if backbone.adapter not in able:
        raise ValueError(f"merge needs one of {', '.join(able)} attached, but the backbone has {backbone.adapter}.")
    with torch.no_grad():
        load(backbone.adapter).merge(backbone)
    backbone.requires_grad_(False)
    backbone.adapter, backbone.adapter_options, backbone.weights_sha256 = None, {}, None
    backbone.set_frozen(True)
    return backbone


def trainable_parameters(backbone: Backbone) -> int:
    """Count the trainable parameters on the backbone's side, shared ones once; heads are not included."""
    return sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)


def adapter_state(backbone: Backbone) -> dict[str, Tensor]:
    """Return the method's own tensors by name, not copied: what it trains, adds, or buffers."""
    return {name: tensor.detach() for name, tensor in _own(backbone).items()}


def load_adapter_state(backbone: Backbone, state: dict[str, Tensor]) -> None:
    """Restore what `adapter_state` returned into a backbone with the same method attached.

    Raises:
        ValueError: names or shapes differ.
    """
    own = _own(backbone)
    wrong = [f"missing {name}" for name in own if name not in state]
    wrong += [f"unexpected {name}" for name in state if name not in own]
    wrong += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"adapter state must fit {backbone.adapter} on {backbone.name}, but: "
            f"{'; '.join(wrong[:3])}{more}; attach the method with the options that it was saved with."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _own(backbone: Backbone) -> dict[str, Tensor]:
    """Collect the tensors that a checkpoint of the method needs, a shared one under its first name."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in backbone.named_modules():
        added = not getattr(module, "frozen", False)
        tensors = {name: p for name, p in module._parameters.items() if p is not None and (added or p.requires_grad)}
        if added:
            kept = module._buffers.keys() - module._non_persistent_buffers_set
            tensors |= {name: b for name, b in module._buffers.items() if b is not None and name in kept}
        for name, tensor in tensors.items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                own[f"{prefix}.{name}" if prefix else name] = tensor
    return own
