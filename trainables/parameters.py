"""Trainable parameters of every method beside the published counts. Needs no Ray: it only instantiates models."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from sigma_ray import components
from sigma_ray.failures import UnsupportedError

REFERENCE = "dinov2_base"
ADE20K_CLASSES, COCO_CLASSES = 150, 80


@dataclass(frozen=True)
class Published:
    """A count from a paper, in millions, for a method with `options` on a backbone.

    `head` adds a head's parameters: `deconv` (ViT-Split's linear head, ADE20K) or `atss` (ViTDet pyramid and ATSS,
    COCO). `without` leaves out parameters whose names contain one of its texts. A `difference` of two printed totals
    may be off by one in the last of its `digits`. `reason` says why a count cannot match.
    """

    method: str
    millions: float
    options: Mapping[str, Any]
    source: str
    backbone: str = REFERENCE
    image_size: tuple[int, int] | None = None
    head: str = ""
    without: tuple[str, ...] = ()
    digits: int = 2
    difference: bool = False
    reason: str = ""

    def matches(self, parameters: int) -> bool:
        """Whether a count prints as the published one."""
        slack = 10.0**-self.digits if self.difference else 0.0
        return abs(round(parameters / 1e6, self.digits) - self.millions) <= slack + 1e-9


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to count.

    Attributes:
        backbone: count every method's defaults on this backbone (VFM or timm name) instead of the papers' rows.
        json: print JSON instead of a table.
    """

    backbone: str | None = None
    json: bool = False


def count(entry: Published) -> int:
    """Trainable parameters of an entry: the backbone's side, and the head's if it names one."""
    import torch

    from sigma_ray import adapters
    from sigma_ray import backbone as backbones

    with torch.device("meta"):  # shapes without memory: nothing is initialised
        backbone = backbones.load(entry.backbone, None, image_size=entry.image_size)
        adapters.attach(backbone, entry.method, **entry.options)
        total = adapters.trainable_parameters(backbone) + _head(entry.head, backbone)
        for name, parameter in backbone.named_parameters():
            if parameter.requires_grad and any(f".{text}" in f".{name}" for text in entry.without):
                total -= parameter.numel()
    return total


def _head(kind: str, backbone: Any) -> int:
    """Parameters of a head on the backbone's last map."""
    from sigma_ray import heads
    from sigma_ray.config import component
    from sigma_ray.data import Info

    channels = backbone.out_channels[-1]
    if kind == "deconv":
        config = component("head", "deconv", num_groups=32)
        head = heads.load("deconv").build(
            config,
            in_channels=(channels,),
            strides=(backbone.stride,),
            info=Info(image_size=(518, 518), num_classes=ADE20K_CLASSES),
        )
    elif kind == "atss":
        info = Info(image_size=(512, 512), num_classes=COCO_CLASSES)
        head = heads.load("atss").build(
            component("head", "atss"), in_channels=(channels,), strides=(backbone.stride,), info=info
        )
    return sum(p.numel() for p in head.parameters()) if kind else 0


def rows(published: Sequence[Published], backbone: str | None) -> list[dict[str, Any]]:
    """One row per published count, then methods that have none with their defaults; or all defaults on `backbone`.

    Raises:
        ValueError: an unknown backbone.
    """
    if backbone is None:
        known = {entry.method for entry in published}
        return [_row(entry) for entry in (*published, *_defaults(REFERENCE, known))]
    table = []
    for entry in _defaults(backbone, set()):
        try:
            table.append(_row(entry))
        except UnsupportedError as error:
            print(f"note: {error}", file=sys.stderr)
    return table


def _defaults(backbone: str, known: set[str]) -> list[Published]:
    names = [name for name in components.names("adapter") if name not in known]
    return [Published(name, float("nan"), {}, "", backbone=backbone) for name in names]


def _row(entry: Published) -> dict[str, Any]:
    ours, comparable = count(entry), entry.millions == entry.millions
    return {
        "method": entry.method,
        "options": dict(entry.options),
        "backbone": entry.backbone,
        "head": entry.head,
        "trainable_parameters": ours,
        "published_millions": entry.millions if comparable else None,
        "match": entry.matches(ours) if comparable else None,
        "source": entry.source,
        "reason": entry.reason,
    }


def main(published: Sequence[Published]) -> None:
    """Print the table; exit 2 when the backbone is refused."""
    flags = tyro.cli(Flags, prog="python -m studies.parameter_table", description=__doc__)
    try:
        table = rows(published, flags.backbone)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if flags.json:
        print(json.dumps(table, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    view = Table("method", "options", "backbone", "trainable", "published", "match", "source")
    for row in table:
        options = ", ".join(f"{key}={value}" for key, value in row["options"].items())
        paper = "" if row["published_millions"] is None else f"{row['published_millions']:g} M"
        match = {None: "", True: "yes", False: f"no: {row['reason']}"}[row["match"]]
        trainable = f"{row['trainable_parameters']:,}" + (f" with {row['head']} head" if row["head"] else "")
        view.add_row(row["method"], options, row["backbone"], trainable, paper, match, row["source"])
    Console(highlight=False, soft_wrap=True).print(view)
