"""Trials of a study that were started and ended without a result: which, why, and once more with the same settings."""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from sigma_ray import data, tracker_uri
from sigma_ray.tracking import Ledger, Row
from trainables import cli, recorded
from trainables.tuner import run_study


@dataclass(frozen=True, kw_only=True)
class Flags(cli.Place):
    """What to run again, and where: paths and addresses may be others than then.

    Attributes:
        study: name of the study, as its experiment in MLflow is called.
        failed: run them; without it they are only listed.
    """

    study: tyro.conf.Positional[str]
    failed: bool = False


def main() -> None:
    """Parse the command line, list or run, and exit: 0 nothing is left failed, 1 something is, 2 input refused."""
    with cli.errors_end_the_program():
        sys.exit(retry(cli.parse(Flags, "retry", __doc__)))


def retry(flags: Flags) -> int:
    """List the failed trials of the study's newest plan and, with `failed`, run them.

    Trials that were never started are left to the study's own command.

    Returns:
        0 where no trial is failed any more.

    Raises:
        ValueError: no such study, or data, weights or code are others than then.
    """
    client = recorded.client_for(flags.tracking_uri)
    record = recorded.read(client, recorded.newest(client, flags.study).info.run_id, recorded.PLAN_FILE)
    failed = failed_trials(flags.tracking_uri, flags.study, {one["key"]: one for one in record["trials"]})
    for name, row in failed.items():
        print(f"{name}: {row.status.lower()} after {row.tags.get('attempts', '?')} attempts: {row.reason}")
    if not failed:
        print(f"{flags.study}: no trial of its newest plan has failed")
        return 0
    if not flags.failed:
        print(f"{len(failed)} trials; --failed runs them again, each from its last checkpoint")
        return 1
    plan = recorded.plan(record, flags.study, recorded.edits(flags.data_root, flags.weights))
    recorded.specs(plan, record, data.open_for(plan.trials[0].config), Path(flags.output))
    run_study(plan, flags, only=set(failed))
    left = failed_trials(flags.tracking_uri, flags.study, {one["key"]: one for one in record["trials"]})
    return 1 if left else 0


def failed_trials(uri: str, study: str, planned: Mapping[str, Mapping[str, object]]) -> dict[str, Row]:
    """Those of the planned trials, by label, that ended without a result."""
    from trainables.trial import label

    with tempfile.TemporaryDirectory() as scratch:
        ledger = Ledger(tracker_uri.absolute(uri), study, Path(scratch))
        try:
            rows = ledger.trials()
        finally:
            ledger.close()
    kept = [row for key, row in rows.items() if key in planned and row.status in ("FAILED", "KILLED")]
    return {label(row.arm, row.seed): row for row in sorted(kept, key=lambda row: (row.seed, row.arm))}
