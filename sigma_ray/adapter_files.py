"""Adapter files: what was trained (adapter, and head if wanted) in one safetensors file, never the frozen backbone.

    save_adapter("sigma.safetensors", backbone)
    backbone = load("dinov2_base", weights="hub")
    load_adapter("sigma.safetensors", backbone)          # attaches the method with its options, then fills it

The file's metadata says what it belongs to: method and options, backbone and SHA-256 of its frozen weights (of the
file, or of random weights themselves), the normalisation of its images, the task, and the version of sigma_ray.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sigma_ray import adapters
from sigma_ray.backbone import Backbone
from sigma_ray.config import component
from sigma_ray.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What a file holds. Tensor names begin with `backbone.` or `head.`; `extra` is whatever else was saved."""

    method: str
    options: dict[str, Any]
    backbone: str
    weights: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    task: str
    version: str
    extra: dict[str, str]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of "backbone" or "head", without that prefix."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_adapter(
    path: Path | str,
    backbone: Backbone,
    *,
    head: nn.Module | None = None,
    task: str = "",
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write the method attached to `backbone`, and the head, in one step: a crash leaves no half file.

    Raises:
        ValueError: no method is attached.
    """
    if backbone.adapter is None:
        raise ValueError(f"save_adapter needs a method attached to {backbone.name}, but it has none; attach one.")
    tensors = {f"backbone.{name}": tensor for name, tensor in adapters.adapter_state(backbone).items()}
    tensors |= {f"head.{name}": tensor for name, tensor in (head.state_dict() if head is not None else {}).items()}
    metadata = {
        **(extra or {}),
        "method": backbone.adapter,
        "options": json.dumps(backbone.adapter_options),
        "backbone": backbone.name,
        "weights": backbone.weights_id(),
        "normalisation": json.dumps([backbone.mean, backbone.std]),
        "task": task,
        "sigma_ray": version("sigma-ray"),
    }
    write_atomically(Path(path), save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata))


def read_adapter(path: Path | str) -> AdapterFile:
    """Read a file that `save_adapter` wrote.

    Raises:
        ValueError: missing, damaged, or another kind of file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        mean, std = json.loads(meta.pop("normalisation"))
        return AdapterFile(
            method=meta.pop("method"),
            options=json.loads(meta.pop("options")),
            backbone=meta.pop("backbone"),
            weights=meta.pop("weights"),
            mean=tuple(mean),
            std=tuple(std),
            task=meta.pop("task"),
            version=meta.pop("sigma_ray"),
            extra=meta,
            tensors=tensors,
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        detail = f"lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ValueError(f"an adapter file must be one that save_adapter wrote, but {path} {detail}.") from error


def load_adapter(path: Path | str, backbone: Backbone, *, head: nn.Module | None = None) -> AdapterFile:
    """Attach the file's method to `backbone` with its options (unless it is attached) and restore its tensors.

    Args:
        path: the file.
        backbone: the one that the adapter was trained on, with the same frozen weights.
        head: filled from the file too, if given.

    Returns:
        what the file says.

    Raises:
        ValueError: unreadable file, another backbone or other frozen weights, another method attached, or a head that
            does not fit.
    """
    found = read_adapter(path)
    if found.backbone != backbone.name:
        raise ValueError(f"{path} belongs to backbone {found.backbone}, but was to be loaded onto {backbone.name}.")
    if found.weights != backbone.weights_id():
        raise ValueError(
            f"{path} belongs to {found.backbone} with weights {found.weights}, but the weights loaded are "
            f"{backbone.weights_id()}; load those that it was trained on."
        )
    if head is not None:
        _check_head(path, head, found.part("head"))
    if backbone.adapter is None:
        adapters.attach(backbone, found.method, **found.options)
    # As checked options: those that an older file does not know have their defaults.
    elif backbone.adapter != found.method or component("adapter", found.method, **found.options) != component(
        "adapter", backbone.adapter, **backbone.adapter_options
    ):
        raise ValueError(
            f"{path} holds {found.method} with {found.options}, but the backbone has {backbone.adapter} with "
            f"{backbone.adapter_options}; load a fresh backbone."
        )
    adapters.load_adapter_state(backbone, found.part("backbone"))
    if head is not None:
        head.load_state_dict(found.part("head"))
    return found


def _check_head(path: Path | str, head: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Refuse another head before anything is changed."""
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    wrong = [name for name in {**wanted, **shapes} if wanted.get(name) != shapes.get(name)]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"the head must be the one saved in {path}, but {len(wrong)} of its tensors differ: {name} is "
            f"{wanted.get(name)} and {shapes.get(name)} in the file."
        )
