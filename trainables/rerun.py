"""A trial once more from its recorded configuration, and its curves beside those of the first time."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sigma_ray import checks, data, tracker_uri
from sigma_ray.study import Plan
from sigma_ray.tracking import Ledger
from trainables import cli, cluster, preflight, recorded, results
from trainables.trial import Spec, label
from trainables.tuner import prepare, tidy, train

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SUFFIX = "-rerun"
MEASURED = ("seconds", "train/seconds", "peak_memory_bytes")
"""Metrics of the machine, not of the trial; so is everything below `system/`."""

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Flags(cli.Place):
    """What to train again, and where: paths and addresses may be others than then.

    Attributes:
        run: MLflow's id of a trial's run.
        tolerance: largest absolute difference at which a curve counts as the same; on a CPU 0 is what to expect.
    """

    run: str
    tolerance: float = 0.0

    def check(self) -> None:
        """Raise ValueError where a number makes no sense."""
        super().check()
        checks.non_negative("--tolerance", self.tolerance)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two curves of a metric: points of both, points that only one of them has, largest absolute difference."""

    points: int
    lone: int
    largest: float


def main() -> None:
    """Parse the command line, train, compare, and exit: 0 the same, 1 not, 2 input refused."""
    with cli.errors_end_the_program():
        sys.exit(rerun(cli.parse(Flags, "rerun", __doc__)))


def rerun(flags: Flags) -> int:
    """Train the run's trial in a fresh run and print how the curves differ.

    Returns:
        0 where no curve differs by more than the tolerance.

    Raises:
        ValueError: no such trial, or data, weights or code are others than then.
        ConnectionError: MLflow went away.
    """
    client = recorded.client_for(flags.tracking_uri)
    original = _trial_run(client, flags)
    parent = original.data.tags.get("mlflow.parentRunId", "")
    study = client.get_experiment(original.info.experiment_id).name.removesuffix(SUFFIX) + SUFFIX
    record = _only(recorded.read(client, parent, recorded.PLAN_FILE), original.data.tags["trial_key"])
    plan = recorded.plan(record, study, recorded.edits(flags.data_root, flags.weights))
    folder = preflight.output_folder(Path(flags.output) / study)
    with preflight.study_lock(folder):
        address = preflight.ray_address(flags.address)
        opened = data.open_for(plan.trials[0].config)
        (spec,) = recorded.specs(plan, record, opened, folder).values()
        ledger = Ledger(flags.tracking_uri, study, folder / "spool")
        try:
            fresh_id = _train(plan, spec, ledger, folder, address, opened)
            client.set_tag(fresh_id, "rerun_of", flags.run)
            print(f"{label(spec.arm, spec.seed)}: run {flags.run} again as {fresh_id}")
            differences = compare(_curves(ledger, client, flags.run), _curves(ledger, client, fresh_id))
        finally:
            ledger.close(timeout=10)
    same = show(differences, flags.tolerance)
    if not same:
        _show_environments(recorded.read(client, parent, recorded.ENVIRONMENT_FILE), results.environment())
    return 0 if same else 1


def _trial_run(client: "MlflowClient", flags: Flags) -> "Run":
    try:
        run = client.get_run(flags.run)
    except Exception as error:  # MLflow raises its own types, and those of the store's client
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--run must be the id of a trial's run in {tracker_uri.redact(flags.tracking_uri)}, but got {flags.run!r} "
            f"({reason}); `trials.parquet` of a study has them as run_id."
        ) from None
    if not {"trial_key", "mlflow.parentRunId"} <= run.data.tags.keys():
        raise ValueError(
            f"--run must be the id of a trial's run, but {flags.run} is that of a whole study; pick a child."
        )
    return run


def _only(record: Mapping, key: str) -> dict:
    """The record of a plan of which one trial is left."""
    trials = [one for one in record["trials"] if one["key"] == key]
    arm, seed = trials[0]["arm"], trials[0]["seed"]
    differences = {arm: record["differences"][arm]}
    return {**record, "trials": trials, "seeds": [seed], "differences": differences, "baseline": arm}


def _train(plan: Plan, spec: Spec, ledger: Ledger, folder: Path, address: str, opened: data.Data) -> str:
    """Train under a key that no ended run has; MLflow's id of the new run."""
    ledger.repair()
    ended = {key for key, row in ledger.trials().items() if row.status in ("FINISHED", "FAILED")}
    key = next(k for k in (f"{spec.key}-{n}" for n in range(1, len(ended) + 2)) if k not in ended)
    spec = dataclasses.replace(spec, key=key, folder=str(folder / "trials" / key))
    specs, config = {label(spec.arm, spec.seed): spec}, plan.trials[0].config
    with cluster.Session(address, config.num_workers) as session:
        preflight.models([config], opened)
        room = session.room(config, None)
        prepare(folder)
        ledger.open(results.plan_record(plan, specs), results.environment())
        failures = train(plan, specs, specs, ledger, folder, session, room)
    ledger.close("FAILED" if failures else "FINISHED", timeout=60)
    row = ledger.trials().get(key)
    if row and row.status == "FINISHED":
        tidy(specs, {key: row}, folder)
    if row is None:
        raise ConnectionError("MLflow does not answer; nothing is lost: the same command goes on from here.")
    return row.run_id


def _curves(ledger: Ledger, client: "MlflowClient", run_id: str) -> dict[str, Curve]:
    """Every curve and final value of a run that says something about the trial."""
    names = client.get_run(run_id).data.metrics
    kept = [name for name in names if name not in MEASURED and not name.startswith("system/")]
    return {name: ledger.history(run_id, name) for name in sorted(kept)}


def compare(first: Mapping[str, Curve], second: Mapping[str, Curve]) -> dict[str, Difference]:
    """How the curves of two runs differ, by metric; two NaNs are the same, and so are equal infinities."""
    found = {}
    for name in {**first, **second}:
        one, other = dict(first.get(name, ())), dict(second.get(name, ()))
        both = one.keys() & other.keys()
        largest = max((_distance(one[step], other[step]) for step in both), default=0.0)
        found[name] = Difference(points=len(both), lone=len(one.keys() ^ other.keys()), largest=largest)
    return found


def _distance(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    return math.inf if math.isnan(a) or math.isnan(b) else abs(a - b)


def show(differences: Mapping[str, Difference], tolerance: float) -> bool:
    """Print the differences; whether all lie within the tolerance, with no point missing."""
    for name, found in differences.items():
        lone = f", {found.lone} in one run only" if found.lone else ""
        print(f"{name:<28} {found.points:>5} points{lone}, largest difference {found.largest:g}")
    exact = all(found.largest == 0 and not found.lone for found in differences.values())
    same = all(found.largest <= tolerance and not found.lone for found in differences.values())
    print("bit-identical" if exact else f"the same within {tolerance:g}" if same else "not the same")
    return same


def _show_environments(then: Mapping[str, object], now: Mapping[str, object]) -> None:
    for name in sorted({**then, **now}):
        if then.get(name) != now.get(name):
            print(f"{name}: {then.get(name)} then, {now.get(name)} now")
