"""Is everything fit for a study (Ray, its nodes, tracking, storage, GPUs, weights, data), and is anything left over?"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from trainables import checkups, leftovers, node_checks
from trainables.findings import Finding, refused

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to look at; the same flags that the study will get.

    Attributes:
        address: Ray cluster; default: $RAY_ADDRESS, else this machine.
        tracking_uri: MLflow tracking store.
        output: folder for results.
        data_root: folder of a data set, which every node has to have.
        weights: file of backbone weights, which every node has to have.
        cluster: file for `ray up` to check.
    """

    address: str | None = None
    tracking_uri: str = "sqlite:///mlflow.db"
    output: str = "results"
    data_root: str | None = None
    weights: str | None = None
    cluster: str | None = None


def main() -> None:
    """Parse the command line, examine, print a line a check, and exit: 0 no problem, 1 some, 2 input refused."""
    flags = tyro.cli(Flags, prog="python -m studies.doctor", description=__doc__)
    try:
        _refuse_missing(flags)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if show(examine(flags)) else 0)


def examine(flags: Flags) -> Iterator[Finding]:
    """Every finding, as soon as it is made. Nothing raises: a check that breaks is itself a problem."""
    if flags.cluster is not None:
        file = flags.cluster
        yield from guarded("cluster file", lambda: checkups.cluster_file(file))
    tracking = list(guarded("tracking", lambda: checkups.tracking(flags.tracking_uri)))
    yield from tracking
    if all(finding.status != "problem" for finding in tracking):
        yield from guarded("studies", lambda: leftovers.studies(flags.tracking_uri, Path(flags.output)))
    with checkups.connected(flags.address) as (connected, findings):
        yield from findings
        if connected:
            yield from guarded("ray", checkups.ray_cluster)
            yield from guarded("storage", lambda: checkups.shared_storage(Path(flags.output)))
            yield from guarded("nodes", lambda: node_checks.every_node(flags.weights, flags.data_root))
            yield from guarded("placement groups", leftovers.placement_groups)


def guarded(check: str, examine: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an error in it, whatever its type, is the last of them."""
    try:
        yield from examine()
    except Exception as error:
        yield refused(check, error)


def show(findings: Iterable[Finding]) -> int:
    """Print findings as they come; return how many are problems."""
    from rich.console import Console
    from rich.text import Text

    console, problems = Console(highlight=False, soft_wrap=True), 0
    for finding in findings:
        problems += finding.status == "problem"
        line = Text.assemble(
            (f"{finding.status:<8}", COLOURS[finding.status]), f" {finding.check:<16} {finding.detail}"
        )
        console.print(line.append(f"\n{'':<26}-> {finding.remedy}" if finding.remedy else ""))
    return problems


def _refuse_missing(flags: Flags) -> None:
    """Paths that are not there are the input's fault, not the cluster's."""
    for flag, value, exists in (
        ("--cluster", flags.cluster, Path.is_file),
        ("--weights", flags.weights, Path.is_file),
        ("--data-root", flags.data_root, Path.is_dir),
    ):
        if value is not None and not exists(Path(value)):
            raise ValueError(f"{flag} must exist on this machine, but got {value}; check the path.")
