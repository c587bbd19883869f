"""From a plan to a report: what is missing is trained by Ray Tune, everything is recorded in the ledger."""

import functools
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma_ray import data, fingerprint, tracking
from sigma_ray.config import to_dict, trial_key
from sigma_ray.study import Plan
from trainables import cluster, preflight, results
from trainables.trial import Spec, label

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
    tracking.check(flags.tracking_uri)
    folder = preflight.output_folder(Path(flags.output) / plan.study.name)
    with preflight.study_lock(folder):
        address = preflight.ray_address(flags.address)
        first = plan.trials[0].config
        opened = data.open_for(first)
        for split, notes in opened.notes.items():
            for note in notes:
                print(f"note: {split}: {note}", file=sys.stderr)
        specs = make_specs(plan, opened.fingerprint, folder)
        ledger = tracking.Ledger(flags.tracking_uri, plan.study.name, folder / "spool")
        try:
            return _run(plan, flags, specs, ledger, folder, address, opened)
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
    opened: data.Data,
) -> int:
    started = time.monotonic()
    ledger.repair()
    stored = ledger.finished()
    missing = {name: spec for name, spec in specs.items() if spec.key not in stored}
    failures: dict[str, str] = {}
    slots = 0
    if missing:
        workers = next(iter(specs.values())).config["num_workers"]
        with cluster.Session(address, workers) as session:
            preflight.models({t.arm: t.config for t in plan.trials if label(t.arm, t.seed) in missing}.values(), opened)
            resources, slots = cluster.slots(session.resources(), workers, flags.jobs)
            ledger.open(results.plan_record(plan, specs), results.environment())
            failures = train(plan, missing, specs, ledger, folder, resources, slots)
    else:
        ledger.open(results.plan_record(plan, specs), results.environment())
    seconds = time.monotonic() - started
    if not ledger.flush(60):
        print(f"error: {ledger.problem}", file=sys.stderr)
        return 1
    files = results.write_report(plan, specs, ledger, failures, folder, wall_seconds=seconds, slots=slots)
    finished = ledger.finished()
    failed = len([spec for spec in specs.values() if spec.key not in finished])
    if stored_all := ledger.close("FAILED" if failed else "FINISHED", artifacts=files):
        _tidy(specs, finished, folder)
    results.print_end(plan, len(missing), failed, folder, flags.tracking_uri)
    if not stored_all:
        print(f"error: {ledger.problem}", file=sys.stderr)
    return 1 if failed or not stored_all else 0


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
    resources: dict[str, float],
    slots: int,
) -> dict[str, str]:
    """Run the missing trials with Ray Tune, `slots` at a time; the reasons of failed ones by trial key."""
    from ray import tune
    from ray.tune import FailureConfig, RunConfig, TuneConfig

    from trainables.console import Console
    from trainables.design_search import DesignSearch
    from trainables.events import Events
    from trainables.trial import run

    done = {(s.arm, s.seed) for name, s in specs.items() if name not in missing}
    with Console(plan, done=done, slots=min(slots, len(missing))) as console:
        events = Events(ledger, console, specs)
        search = DesignSearch(
            folder / "optuna.log",
            plan.study.name,
            [(s.arm, s.seed) for s in missing.values()],
            [arm.name for arm in plan.arms],
            plan.mode,
        )
        tuner = tune.Tuner(
            tune.with_resources(functools.partial(run, specs=dict(missing)), resources),
            tune_config=TuneConfig(
                search_alg=search,
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
    for problem in events.problems:
        print(f"warning: {problem}", file=sys.stderr)
    for spec in missing.values():
        if spec.key not in events.outcome:
            events.outcome[spec.key] = "interrupted"
            ledger.kill(spec.key, "interrupted")
    return {key: reason for key, reason in events.outcome.items() if reason != "finished"}
