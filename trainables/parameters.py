"""Trainable parameters of every method beside the published counts. Needs no Ray: it only instantiates models."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from sigma_ray import components

REFERENCE = "dinov2_base"


@dataclass(frozen=True)
class Published:
    """A count from a paper, in millions, for a method with `options` on `REFERENCE`."""

    method: str
    millions: float
    options: Mapping[str, Any]
    source: str


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to count.

    Attributes:
        backbone: VFM or timm name; published counts are compared on dinov2_base alone.
        json: print JSON instead of a table.
    """

    backbone: str = REFERENCE
    json: bool = False


def count(backbone: str, method: str, options: Mapping[str, Any]) -> int:
    """Trainable parameters on the backbone's side, heads not included."""
    import torch

    from sigma_ray import adapters
    from sigma_ray import backbone as backbones

    with torch.device("meta"):  # shapes without memory: nothing is initialised
        return adapters.trainable_parameters(adapters.attach(backbones.load(backbone, None), method, **options))


def rows(published: Sequence[Published], backbone: str) -> list[dict[str, Any]]:
    """One row per published count; methods that have none follow with their defaults."""
    known = {entry.method for entry in published}
    others = [Published(name, float("nan"), {}, "") for name in components.names("adapter") if name not in known]
    table = []
    for entry in (*published, *others):
        ours = count(backbone, entry.method, entry.options)
        comparable = backbone == REFERENCE and entry.millions == entry.millions
        table.append(
            {
                "method": entry.method,
                "options": dict(entry.options),
                "trainable_parameters": ours,
                "published_millions": entry.millions if comparable else None,
                "match": f"{ours / 1e6:.2f}" == f"{entry.millions:.2f}" if comparable else None,
                "source": entry.source,
            }
        )
    return table


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

    view = Table("method", "options", "trainable", "published", "match", "source", title=f"Backbone {flags.backbone}")
    for row in table:
        options = ", ".join(f"{key}={value}" for key, value in row["options"].items())
        paper = "" if row["published_millions"] is None else f"{row['published_millions']:.2f} M"
        match = {None: "", True: "yes", False: "no"}[row["match"]]
        view.add_row(row["method"], options, f"{row['trainable_parameters']:,}", paper, match, row["source"])
    Console(highlight=False, soft_wrap=True).print(view)
