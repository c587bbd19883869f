"""From a plan to a report: what is missing is trained by Ray Tune, everything is recorded in the ledger."""

import dataclasses
import functools
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma_ray import components, data, fingerprint, report, tracking
from sigma_ray.config import to_dict, trial_key
from sigma_ray.provenance import commit
from sigma_ray.study import Plan
from trainables import preflight
from trainables.trial import EXAMPLES_FILE, Spec, label

if TYPE_CHECKING:
    from trainables.cli import Flags

MAX_CRASHES = 2
"""How often a trial whose process died is started again, from its checkpoint."""


def run_study(plan: Plan, flags: "Flags") -> int:
    """Bring `plan` to its end and report it.

    Returns:
        The exit code: 0 when every trial has finished, 1 when some have not.

    Raises:
        ValueError: something the user gave is refused; nothing has been started.
    """
    folder = preflight.output_folder(Path(flags.output) / plan.study.name)
    with preflight.study_lock(folder):
        tracking.check(flags.tracking_uri)
        address = preflight.ray_address(flags.address)
        first = plan.trials[0].config
        opened = data.open_data(components.name_of(first.data), first.data)
        specs = make_specs(plan, opened.fingerprint, folder)
        ledger = tracking.Ledger(flags.tracking_uri, plan.study.name, folder / "spool")
        try:
            return _run(plan, flags, specs, ledger, folder, address, opened.info)
        finally:
            ledger.close(timeout=10)


def make_specs(plan: Plan, data_fingerprint: str, folder: Path) -> dict[str, Spec]:
    """Every trial of the plan by label, with its key and its folder."""
    weights: dict[Any, str] = {}
    specs = {}
    for trial in plan.trials:
        backbone = trial.config.backbone
        if backbone not in weights:
            weights[backbone] = fingerprint.of_weights(backbone.name, backbone.weights)
        key = trial_key(trial.config, data_fingerprint=data_fingerprint, weights_fingerprint=weights[backbone])
        specs[label(trial.arm, trial.seed)] = Spec(
            key=key,
            arm=trial.arm,
            seed=trial.seed,
            config=_portable(to_dict(trial.config)),
            folder=str(folder / "trials" / key),
        )
    return specs


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """Paths made absolute: a worker's working directory is not the driver's."""
    root, weights = config["data"].get("root"), config["backbone"]["weights"]
    if root:
        config["data"]["root"] = str(Path(root).absolute())
    if weights not in (None, "bundled", "hub"):
        config["backbone"]["weights"] = str(Path(weights).absolute())
    return config


def _run(
    plan: Plan,
    flags: "Flags",
    specs: Mapping[str, Spec],
    ledger: tracking.Ledger,
    folder: Path,
    address: str,
    info: data.Info,
) -> int:
    started = time.monotonic()
    ledger.repair()
    stored = ledger.finished()
    missing = {name: spec for name, spec in specs.items() if spec.key not in stored}
    failures: dict[str, str] = {}
    if missing:
        preflight.models({t.arm: t.config for t in plan.trials if label(t.arm, t.seed) in missing}.values(), info)
    ledger.open(_plan_record(plan, specs), environment())
    slots = 0
    if missing:
        failures, slots = train(plan, missing, specs, ledger, folder, address, flags.jobs)
    seconds = time.monotonic() - started
    if not ledger.flush(60):
        print(
            "error: MLflow does not answer; nothing is lost: run the same command again to send what waits on disk and "
            "to write the report.",
            file=sys.stderr,
        )
        return 1
    files = write_report(plan, specs, ledger, failures, folder, wall_seconds=seconds, slots=slots)
    finished = ledger.finished()
    failed = len([spec for spec in specs.values() if spec.key not in finished])
    if ledger.close("FAILED" if failed else "FINISHED", artifacts=files):
        _tidy(specs, finished, folder)
    _print_end(plan, len(missing), failed, folder, flags.tracking_uri)
    return 1 if failed else 0


def _tidy(specs: Mapping[str, Spec], finished: Mapping[str, Any], folder: Path) -> None:
    """Remove what only an unfinished trial needs: MLflow has the models, and nothing resumes a finished trial."""
    shutil.rmtree(folder / "ray", ignore_errors=True)
    for spec in specs.values():
        if spec.key in finished:
            shutil.rmtree(spec.folder, ignore_errors=True)


def train(
    plan: Plan,
    missing: Mapping[str, Spec],
    specs: Mapping[str, Spec],
    ledger: tracking.Ledger,
    folder: Path,
    address: str,
    jobs: int | None,
) -> tuple[dict[str, str], int]:
    """Run the missing trials with Ray Tune.

    Returns:
        Reasons of failed trials by key, and how many trials ran at a time.
    """
    _quiet()
    import ray
    from ray import tune
    from ray.tune import FailureConfig, RunConfig, TuneConfig

    from trainables.console import Console
    from trainables.design_search import DesignSearch
    from trainables.events import Events
    from trainables.trial import run

    workers = next(iter(specs.values())).config["num_workers"]
    # Stopping a trial of several workers needs the dashboard's State API to free their placement group.
    # And each such trial has a process beside its workers that only waits: it gets a share of one extra CPU.
    several = {"include_dashboard": True, "num_cpus": max(os.cpu_count() or 1, workers) + 1}
    local = (several if workers > 1 else {"include_dashboard": False}) if address == "local" else {}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        available = ray.cluster_resources()
        resources, slots = _slots(available, workers, jobs)
        done = {(s.arm, s.seed) for name, s in specs.items() if name not in missing}
        with Console(plan, done=done, slots=min(slots, len(missing))) as console:
            events = Events(ledger, console, specs)
            tuner = tune.Tuner(
                tune.with_resources(functools.partial(run, specs=dict(missing)), resources),
                tune_config=TuneConfig(
                    search_alg=DesignSearch(
                        folder / "optuna.log",
                        plan.study.name,
                        [(s.arm, s.seed) for s in missing.values()],
                        [arm.name for arm in plan.arms],
                        plan.study.mode,
                    ),
                    num_samples=len(missing),
                    max_concurrent_trials=slots,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=RunConfig(
                    name=f"run-{ledger.invocation[:8]}",
                    storage_path=str(folder / "ray"),
                    verbose=0,
                    callbacks=[events],
                    failure_config=FailureConfig(max_failures=MAX_CRASHES),
                ),
            )
            tuner.fit()
    finally:
        ray.shutdown()
    for problem in events.problems:
        print(f"warning: {problem}", file=sys.stderr)
    for spec in missing.values():
        if spec.key not in events.outcome:
            events.outcome[spec.key] = "interrupted"
            ledger.kill(spec.key, "interrupted")
    return {key: reason for key, reason in events.outcome.items() if reason != "finished"}, slots


def _slots(available: Mapping[str, float], workers: int, jobs: int | None) -> tuple[dict[str, float], int]:
    """Resources of one trial's driver process, and how many trials fit the cluster at a time."""
    cpus, gpus = available.get("CPU", 0), available.get("GPU", 0)
    if workers == 1:
        resources = {"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": 1.0}
        slots = int(min(cpus, gpus) if gpus else cpus)
    else:
        # The trial's workers take their CPUs and GPUs in a placement group that Tune does not see.
        resources = {"CPU": 0.01}
        slots = int((gpus if gpus >= workers else cpus - 0.5) // workers)
    if slots < 1:
        raise ValueError(
            f"num_workers must fit the cluster, but {workers} workers need more than its {cpus:.0f} CPUs; "
            "lower num_workers or add nodes."
        )
    return resources, min(slots, jobs) if jobs else slots


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
    metric = plan.study.metric.replace("test/", "val/")
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


def _plan_record(plan: Plan, specs: Mapping[str, Spec]) -> dict[str, Any]:
    return {
        "question": plan.study.question,
        "profile": plan.profile,
        "metric": plan.study.metric,
        "baseline": plan.arms[0].name,
        "seeds": list(plan.seeds),
        "differences": plan.differences(),
        "trials": [dataclasses.asdict(spec) for spec in specs.values()],
    }


def _print_end(plan: Plan, trained: int, failed: int, folder: Path, uri: str) -> None:
    relative = os.path.relpath(folder)
    state = "all finished" if not failed else f"{failed} not finished (see {relative}/table.md)"
    print(f"\n{len(plan.trials)} trials, {trained} run now, {state}")
    print(f"Table    {relative}/table.md\nFigures  {relative}/figures/\nTrials   {relative}/trials.parquet")
    print(f"Browse   {tracking.mlflow_ui_command(uri)}")


def _quiet() -> None:
    """Ray's and Tune's own output off; the console shows what matters."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
