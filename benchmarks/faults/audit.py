"""What must be true when everything that could break has broken, and the study has ended all the same."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.driver import Driver, recorded
from benchmarks.faults.nodes import Cluster


def of_records(uri: str, reference_uri: str, expected: int) -> list[str]:
    """Every trial FINISHED once with the undisturbed trial's numbers, bit by bit; no run left RUNNING."""
    trials, others = recorded(uri)
    undisturbed = {trial.name: trial for trial in recorded(reference_uri)[0]}
    found = [f"{len(trials)} trials recorded, not {expected}"] if len(trials) != expected else []
    found += [f"{name}: {n} runs" for name, n in Counter(trial.name for trial in trials).items() if n > 1]
    found += [f"run {run.info.run_name} still {run.info.status}" for run in others if run.info.status == "RUNNING"]
    for trial in trials:
        if trial.status != "FINISHED":
            found.append(f"{trial.name}: {trial.status} ({trial.reason})")
            continue
        same = undisturbed[trial.name]
        for name in sorted({*trial.final, *same.final}):
            if repr(trial.final.get(name)) != repr(same.final.get(name)):
                found.append(f"{trial.name}: {name} is {trial.final.get(name)}, undisturbed {same.final.get(name)}")
            if repr(trial.curves.get(name)) != repr(same.curves.get(name)):
                found.append(f"{trial.name}: curve {name} differs: {trial.curves.get(name)}, {same.curves.get(name)}")
    return found


def of_folder(folder: Path) -> list[str]:
    """Files below a study's folder that only an unfinished study needs."""
    waste = ("trials/*", "trials/**/.*", "spool/*.jsonl", "spool/*.delivered", "spool/*.tmp", "ray", "command.json")
    return sorted({f"left on disk: {path.relative_to(folder)}" for wild in waste for path in folder.glob(wild)})


def of_processes(cluster: Cluster, drivers: Sequence[Driver]) -> list[str]:
    """Processes that outlived what they belong to: call it while the cluster still runs and no driver does."""
    deadline = time.monotonic() + 10
    while cluster.trials() and time.monotonic() < deadline:
        time.sleep(0.2)  # Ray ends the processes of a driver that has gone
    found = [f"of a driver: {process}" for driver in drivers for process in driver.members()]
    found += [f"of a trial: {process}" for process in cluster.trials()]
    known = {process.pid for node in cluster.nodes for process in node.members()} | {os.getpid()}
    return found + [f"of nobody: {process}" for process in cluster.marked() if process.pid not in known]


def of_cluster(cluster: Cluster) -> list[str]:
    """Reservations that nobody uses any more."""
    return [f"placement group {group} is leaked" for group in cluster.placement_groups()]
