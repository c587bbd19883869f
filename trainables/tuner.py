"""From a plan to a report: what is missing is trained by Ray Tune, everything is recorded in the ledger."""

import functools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma_ray import data, fingerprint, tracking
from sigma_ray.config import to_dict, trial_key
from sigma_ray.study import Plan
from trainables import cluster, preflight, results, storage, unfinished
from trainables.trial import Spec, label

if TYPE_CHECKING:
    from trainables.cli import Place
    from trainables.design_search import DesignSearch
    from trainables.events import Events


def run_study(plan: Plan, flags: "Place", *, only: Collection[str] | None = None) -> int:
    """Bring `plan` to its end and report it.

    Args:
        plan: the trials.
        flags: how to run them.
        only: labels of the trials that may run; the others stay as they are.

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
            with unfinished.noted(folder):
                return _run(plan, flags, specs, ledger, folder, address, opened, only)
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
    flags: "Place",
    specs: Mapping[str, Spec],
    ledger: tracking.Ledger,
    folder: Path,
    address: str,
    opened: data.Data,
    only: Collection[str] | None,
) -> int:
    started = time.monotonic()
    ledger.repair()
    stored = ledger.finished()
    wanted = specs if only is None else only
    missing = {name: spec for name, spec in specs.items() if spec.key not in stored and name in wanted}
    failures: dict[str, str] = {}
    slots = 0
    if missing:
        first = plan.trials[0].config
        with cluster.Session(address, first.num_workers) as session:
            preflight.models({t.arm: t.config for t in plan.trials if label(t.arm, t.seed) in missing}.values(), opened)
            room = session.room(first, flags.jobs)
            slots = room.slots(session.resources())
            prepare(folder)
            ledger.open(results.plan_record(plan, specs), results.environment())
            failures = train(plan, missing, specs, ledger, folder, session, room)
    else:
        ledger.open(results.plan_record(plan, specs), results.environment())
    seconds = time.monotonic() - started
    if not ledger.flush(60):
        raise ConnectionError(ledger.problem)
    files = results.write_report(plan, specs, ledger, failures, folder, wall_seconds=seconds, slots=slots)
    finished = ledger.finished()
    failed = len([spec for spec in specs.values() if spec.key not in finished])
    if stored_all := ledger.close("FAILED" if failed else "FINISHED", artifacts=files):
        tidy(specs, finished, folder)
    results.print_end(plan, len(missing), failed, folder, flags.tracking_uri)
    if not stored_all:
        raise ConnectionError(ledger.problem)
    return 1 if failed else 0


def prepare(folder: Path) -> None:
    """Make the folder of a study's trials, on storage that all nodes of the connected cluster share.

    Raises:
        ValueError: they do not.
    """
    (folder / "trials").mkdir(exist_ok=True)
    storage.check(folder)


def tidy(specs: Mapping[str, Spec], finished: Mapping[str, Any], folder: Path) -> None:
    """Remove what only unfinished trials need: MLflow has the models, and nothing resumes a finished trial."""
    shutil.rmtree(folder / "trials" / "workers", ignore_errors=True)
    storage.clear(folder)
    for spec in specs.values():
        if spec.key in finished:
            shutil.rmtree(spec.folder, ignore_errors=True)


def train(
    plan: Plan,
    missing: Mapping[str, Spec],
    specs: Mapping[str, Spec],
    ledger: tracking.Ledger,
    folder: Path,
    session: cluster.Session,
    room: cluster.Room,
) -> dict[str, str]:
    """Run the missing trials with Ray Tune, as many at a time as fit; the reasons of failed ones by trial key."""
    from trainables.console import Console
    from trainables.design_search import DesignSearch
    from trainables.events import Events

    done = {(s.arm, s.seed) for name, s in specs.items() if name not in missing}
    with Console(plan, done=done, slots=len(missing)) as console:

        def limit() -> int:
            console.slots = min(room.slots(session.resources()), len(missing))
            return console.slots

        search = DesignSearch(
            folder / "optuna.log",
            plan.study.name,
            [(s.arm, s.seed) for s in missing.values()],
            [arm.name for arm in plan.arms],
            plan.mode,
            limit,
        )
        events = Events(ledger, console, specs)
        _tune(missing, search, events, room, limit())
    for problem in events.problems:
        print(f"warning: {problem}", file=sys.stderr)
    for key in events.started - set(events.outcome):
        ledger.kill(key, "interrupted")
    reasons = {spec.key: events.outcome.get(spec.key, "interrupted") for spec in missing.values()}
    return {key: reason for key, reason in reasons.items() if reason != "finished"}


def _tune(
    missing: Mapping[str, Spec], search: "DesignSearch", events: "Events", room: cluster.Room, slots: int
) -> None:
    """Let Ray Tune run what `search` hands out, and tell `events`."""
    from ray import tune
    from ray.tune import FailureConfig, RunConfig, TuneConfig

    from trainables.attempts import run
    from trainables.events import MAX_CRASHES

    # Trials that wait are what makes an autoscaler start nodes; Tune's own choice would let one wait at a time.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    with tempfile.TemporaryDirectory(prefix="sigma_ray-") as private:
        # Tune's own files, pickles among them, stay with the driver: nothing of a study is ever resumed from them.
        tune.Tuner(
            tune.with_resources(functools.partial(run, specs=dict(missing), gpus=room.gpus), room.resources),
            tune_config=TuneConfig(
                search_alg=search,
                num_samples=len(missing),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                name="study",
                storage_path=private,
                verbose=0,
                callbacks=[events],
                failure_config=FailureConfig(max_failures=MAX_CRASHES),
            ),
        ).fit()
