"""Backbone weights: the bundled file, the hub, or a local file, checked before they are used."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from timm.models import get_pretrained_cfg, load_state_dict
from torch import Tensor

from sigma_ray.families.base import Backbone
from sigma_ray.fingerprint import file_sha256
from sigma_ray.vits import FRIENDLY

BUNDLED = Path(__file__).parent / "weights"

# Pooling and classifier tensors that a dense backbone has no use for.
_HEAD = ("head.", "head_dist.", "fc_norm.", "attn_pool.", "head_drop.")


def bundled_file(name: str) -> Path:
    """Find the weights that ship with the package, and verify their SHA-256 against the card beside them.

    Raises:
        ValueError: this backbone has no bundled weights, they are missing, or they are damaged.
    """
    path, card = BUNDLED / f"{name}.safetensors", BUNDLED / f"{name}.json"
    if name != "scenes_tiny":
        raise ValueError(
            f"bundled weights exist only for scenes_tiny, but the backbone is {name}; pass --weights hub or a file."
        )
    if not path.is_file() or not card.is_file():
        raise ValueError(f"bundled weights must exist, but {path} or its .json is missing; reinstall the package.")
    expected, found = json.loads(card.read_text())["sha256"], file_sha256(path)
    if found != expected:
        raise ValueError(
            f"bundled weights must have SHA-256 {expected}, but {path} has {found}; reinstall the package."
        )
    return path


def load_file(backbone: Backbone, model: Any, path: Path) -> str:
    """Load a timm-compatible weight file into `backbone` and return its SHA-256.

    Positions, and what else the family resamples (`fit_weights`), are brought to the sizes of timm's `model`;
    classifier and pooling tensors are dropped; everything else must fit one to one. `.pth` files are read with
    `weights_only=True`.

    Raises:
        ValueError: the file is missing, unreadable, or does not fit.
    """
    if not path.is_file():
        raise ValueError(f"weights must be 'bundled', 'hub' or an existing file, but got {str(path)!r}.")
    try:
        state = backbone.fit_weights(load_state_dict(str(path), weights_only=True), model)
    except Exception as error:  # the readers raise a different type for every kind of damage
        raise ValueError(
            f"weights must be a readable .safetensors or .pth state dict that fits {backbone.name}, "
            f"but {path} failed: {_first_line(error)}; use the file that timm publishes for this backbone."
        ) from error
    state = {key: value for key, value in state.items() if not key.startswith(_HEAD)}
    problems = misfits(backbone.state_dict(), state)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"weights do not fit backbone {backbone.name}: {path}: {'; '.join(problems[:3])}{more}; "
            "pass the file of the same timm model, or name the backbone that the file belongs to."
        )
    with torch.no_grad():
        backbone.load_state_dict(state)
    return file_sha256(path)


def misfits(expected: dict[str, Tensor], found: dict[str, Any]) -> list[str]:
    """List how two state dicts differ in names and shapes, one short phrase per tensor."""
    missing = [f"missing {key} {tuple(expected[key].shape)}" for key in expected if key not in found]
    unexpected = [f"unexpected {key} {tuple(getattr(found[key], 'shape', ()))}" for key in found if key not in expected]
    shapes = [
        f"{key} is {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    return shapes + missing + unexpected


def hub_file(name: str) -> Path:
    """Find the weights that timm publishes for a backbone in the local hub cache, or download them into it.

    Raises:
        ValueError: timm publishes none, or the hub cannot be reached.
    """
    repository, filename = _hub_place(name)
    cached = try_to_load_from_cache(repository, filename)
    if isinstance(cached, str):
        return Path(cached)
    try:
        # Asked first: without a network it fails at once, where the download retries for most of a minute.
        get_hf_file_metadata(hf_hub_url(repository, filename), timeout=10)
        return Path(hf_hub_download(repository, filename))
    except Exception as error:  # the hub's client raises the types of whichever HTTP library it was built on
        raise ValueError(
            f"weights of {name} must come from the Hugging Face hub, which gave {_first_line(error)}; "
            f"where there is a network fetch {hf_hub_url(repository, filename)} and pass --weights FILE."
        ) from error


def missing(name: str, weights: str | None) -> str:
    """What of a backbone's weights is not on this machine, and how to get it; empty if nothing.

    Raises:
        ValueError: timm publishes no weights for it.
    """
    if weights == "hub":
        place = _hub_place(name)
        if isinstance(try_to_load_from_cache(*place), str):
            return ""
        return f"{hf_hub_url(*place)} is not in the hub's cache; a run downloads it, or give a copy with --weights FILE"
    if weights in (None, "bundled") or Path(weights).is_file():
        return ""
    return f"{weights} does not exist"


def _hub_place(name: str) -> tuple[str, str]:
    """Repository and file of a backbone's weights on the hub."""
    cfg = get_pretrained_cfg(FRIENDLY.get(name, name))
    if cfg is None or not cfg.hf_hub_id:
        raise ValueError(f"weights 'hub' must exist for the backbone, but timm publishes none for {name}; pass a file.")
    return cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors"


def _first_line(error: Exception) -> str:
    """Shorten an error to its type and first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
