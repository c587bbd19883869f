"""What dead studies left behind: runs that seem to run, events on their way, studies without an end, resources held."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sigma_ray.tracking import Ledger
from trainables import preflight, recorded, unfinished
from trainables.findings import Finding, ok, warning

if TYPE_CHECKING:
    from mlflow import MlflowClient

DELIVERY_S = 30.0


def studies(uri: str, output: Path) -> Iterator[Finding]:
    """Every study below `output`, repaired unless it is running; and runs in MLflow that seem to run elsewhere."""
    client = recorded.client_for(uri)
    seen = set()
    for folder in sorted(path for path in output.glob("*") if (path / ".lock").exists()):
        seen.add(folder.name)
        try:
            with preflight.study_lock(folder):
                yield from _repair(client, uri, folder)
        except preflight.RunningError:
            yield ok("studies", f"{folder.name} is running")
    yield from _elsewhere(client, seen)


def _repair(client: "MlflowClient", uri: str, folder: Path) -> Iterator[Finding]:
    """What is wrong with a study that nobody runs; the caller holds its lock, so that nobody starts it meanwhile."""
    name = folder.name
    waiting = len(list((folder / "spool").glob("*.jsonl")))
    if waiting or client.get_experiment_by_name(name):
        ledger = Ledger(uri, name, folder / "spool")
        try:
            stale = ledger.repair(DELIVERY_S)
        finally:
            ledger.close(timeout=1)
        left = len(list((folder / "spool").glob("*.jsonl")))
        if waiting > left:
            yield ok("studies", f"{name}: events of {waiting - left} interrupted commands were brought to MLflow")
        if left:
            yield warning(
                "studies",
                f"{name}: events of {left} commands wait for another tracking store",
                f"run the doctor with the --tracking-uri that {name} was run with",
            )
        if stale:
            yield ok("studies", f"{name}: {stale} runs of a dead driver were RUNNING in MLflow, and are KILLED now")
    if (folder / unfinished.COMMAND_FILE).exists():
        yield warning(
            "studies",
            f"{name} was interrupted",
            f"python -m studies.resume --output {folder.parent}",
        )


def _elsewhere(client: "MlflowClient", seen: set[str]) -> Iterator[Finding]:
    """Studies with runs that seem to run, but with no folder here that would tell whether they do."""
    for experiment in client.search_experiments():
        if experiment.name in seen:
            continue
        query = "attributes.status = 'RUNNING' AND tags.trial_key != ''"
        running = client.search_runs([experiment.experiment_id], query, max_results=1000)
        if running:
            yield warning(
                "studies",
                f"{experiment.name}: {len(running)} runs are RUNNING in MLflow, but it has no folder here",
                f"if nothing runs, give the doctor the --output that {experiment.name} had",
            )


def placement_groups() -> Iterator[Finding]:
    """Resources of the connected cluster that are held for dead processes."""
    from trainables import placement

    held = placement.orphans()
    if held:
        yield warning(
            "placement groups",
            f"{len(held)} hold resources for processes that are dead",
            "end the job that made them (`ray job list`, `ray job stop`); a running study frees its own",
        )
    else:
        yield ok("placement groups", "none is held for a dead process")
