"""What a study leaves behind: the record of its plan, and a report from what the ledger holds."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sigma_ray import report, tracking
from sigma_ray.config import CODE_VERSION
from sigma_ray.provenance import commit
from sigma_ray.study import Plan
from trainables.trial import EXAMPLES_FILE, Spec


def write_report(
    plan: Plan,
    specs: Mapping[str, Spec],
    ledger: tracking.Ledger,
    failures: Mapping[str, str],
    folder: Path,
    *,
    wall_seconds: float,
    slots: int,
) -> list[Path]:
    """Write tables and figures from what the ledger holds, and print the table."""
    recorded = ledger.trials()
    rows, curves, examples = [], {}, {}
    metric = plan.metric.replace("test/", "val/")
    for spec in specs.values():
        row = recorded.get(spec.key)
        if row is None or row.status != "FINISHED":
            rows.append(_unfinished_row(spec, row, failures.get(spec.key, "")))
            continue
        validation = {name: ledger.history(row.run_id, name) for name in row.metrics if name.startswith("val/")}
        rows.append(_finished_row(spec, row, validation))
        curves[spec.arm, spec.seed] = validation[metric]
        if spec.seed == plan.seeds[0]:
            examples[spec.arm] = ledger.download(row.run_id, EXAMPLES_FILE)
    return report.write(plan, rows, curves, examples, folder, wall_seconds=wall_seconds, slots=slots)


def _finished_row(spec: Spec, row: tracking.Row, validation: Mapping[str, list[tuple[int, float]]]) -> report.TrialRow:
    """A finished trial's row; validation metrics are those of the selected step."""
    metrics = {name: value for name, value in row.metrics.items() if "/" in name and not name.startswith("system/")}
    metrics |= {name: dict(points)[int(row.metrics["selected_step"])] for name, points in validation.items()}
    return report.TrialRow(
        arm=spec.arm,
        seed=spec.seed,
        status=row.status,
        trial_key=spec.key,
        run_id=row.run_id,
        trainable_parameters=int(row.metrics["trainable_parameters"]),
        seconds=row.metrics["seconds"],
        peak_memory_bytes=int(row.metrics["peak_memory_bytes"]),
        metrics=metrics,
        reason=row.missing_files,
    )


def _unfinished_row(spec: Spec, row: tracking.Row | None, reason: str) -> report.TrialRow:
    return report.TrialRow(
        arm=spec.arm,
        seed=spec.seed,
        status=row.status if row else "FAILED",
        trial_key=spec.key,
        run_id=row.run_id if row else "",
        reason=reason or (row.reason if row else "never started"),
    )


def environment() -> dict[str, Any]:
    """What a reader needs to know about the software and the machine."""
    names = ("torch", "timm", "ray", "mlflow", "optuna", "numpy", "mmsegmentation")
    versions = {name: version(name) for name in names}
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        **versions,
    }


def plan_record(plan: Plan, specs: Mapping[str, Spec]) -> dict[str, Any]:
    """The plan as plain values, from which `recorded.plan` makes it again: question, arms, every configuration."""
    return {
        "question": plan.study.question,
        "code_version": CODE_VERSION,
        "profile": plan.profile,
        "metric": plan.metric,
        "mode": plan.mode,
        "paper": {arm.name: dict(arm.paper) for arm in plan.arms},
        "paper_note": plan.study.paper_note,
        "baseline": plan.arms[0].name,
        "seeds": list(plan.seeds),
        "differences": plan.differences(),
        "trials": [dataclasses.asdict(spec) for spec in specs.values()],
    }


def print_end(plan: Plan, trained: int, failed: int, folder: Path, uri: str) -> None:
    """Say how it went and where to look."""
    relative = os.path.relpath(folder)
    state = "all finished" if not failed else f"{failed} not finished (see {relative}/table.md)"
    print(f"\n{len(plan.trials)} trials, {trained} run now, {state}")
    print(f"Table    {relative}/table.md\nFigures  {relative}/figures/\nTrials   {relative}/trials.parquet")
    print(f"Browse   {tracking.mlflow_ui_command(uri)}")
