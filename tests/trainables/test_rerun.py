"""Trials again: which failed, the failed ones once more, and one trial's curves beside those of the first time."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_tuner import QUICK, run, trial_runs

from trainables import rerun, retry

REPOSITORY = Path(__file__).parents[2]
ONE_SEED = [*QUICK, "--seeds", "1"]


def again(command: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-m", f"studies.{command}", *flags]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of which one trial diverges: its folder, and its runs by arm."""
    folder = tmp_path_factory.mktemp("study")
    done = run("sigma,diverges", *ONE_SEED, cwd=folder)
    assert done.returncode == 1 and "1 not finished" in done.stdout, done.stdout + done.stderr
    return folder


def by_arm(folder: Path) -> dict:
    return {same[0].data.tags["arm"]: same[0] for same in trial_runs(folder).values()}


def client(folder: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_retry_lists_failed_trials_and_runs_only_those(study):
    listed = again("retry", "tiny", cwd=study)
    assert listed.returncode == 1 and "diverges / seed 0: failed after 1 attempts: NonFiniteLossError" in listed.stdout
    assert "sigma / seed" not in listed.stdout
    before = by_arm(study)
    assert before["diverges"].data.tags["attempts"] == "1", "nothing ran"
    # The trial's end as after a crash, without its result.
    client(study).set_tag(before["sigma"].info.run_id, "status_reason", "its process ended")
    client(study).set_terminated(before["sigma"].info.run_id, "FAILED")
    tried = again("retry", "tiny", "--failed", cwd=study)
    assert tried.returncode == 1, tried.stdout + tried.stderr
    after = by_arm(study)
    assert {arm: one.info.status for arm, one in after.items()} == {"sigma": "FINISHED", "diverges": "FAILED"}
    assert {one.data.tags["attempts"] for one in after.values()} == {"2"}
    assert after["sigma"].data.metrics["test/miou"] == before["sigma"].data.metrics["test/miou"]
    client(study).set_terminated(after["sigma"].info.run_id, "FAILED")
    client(study).delete_run(after["diverges"].info.run_id)
    tried = again("retry", "tiny", "--failed", cwd=study)
    assert tried.returncode == 0 and "2 trials, 1 run now, 1 not finished" in tried.stdout, tried.stdout + tried.stderr
    assert set(by_arm(study)) == {"sigma"}, "what was never started is left to the study's own command"
    assert "no trial of its newest plan has failed" in again("retry", "tiny", cwd=study).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rerun_gives_the_same_curves(study):
    first = by_arm(study)["sigma"].info.run_id
    done = again("rerun", "--run", first, cwd=study)
    assert done.returncode == 0 and "bit-identical" in done.stdout, done.stdout + done.stderr
    assert "val/miou" in done.stdout and "system/" not in done.stdout
    assert not list((study / "results" / "tiny-rerun" / "trials").iterdir())
    # A curve that is not what the recorded configuration gives; and the trial is trained anew each time.
    other = client(study).create_run(by_arm(study)["sigma"].info.experiment_id, tags=by_arm(study)["sigma"].data.tags)
    client(study).log_metric(other.info.run_id, "val/miou", 0.5, step=3)
    done = again("rerun", "--run", other.info.run_id, cwd=study)
    assert done.returncode == 1 and "not the same" in done.stdout, done.stdout + done.stderr
    experiment = client(study).get_experiment_by_name("tiny-rerun")
    found = [one for one in client(study).search_runs([experiment.experiment_id]) if "rerun_of" in one.data.tags]
    assert {one.data.tags["rerun_of"] for one in found} == {first, other.info.run_id}
    assert {one.info.status for one in found} == {"FINISHED"}


@pytest.mark.slow
def test_other_trials_and_unknown_names_are_refused_in_one_line(study, monkeypatch, capsys):
    monkeypatch.chdir(study)
    sigma, parent = by_arm(study)["sigma"], by_arm(study)["sigma"].data.tags["mlflow.parentRunId"]
    (study / "other.safetensors").write_bytes(b"other weights")
    refusals = [
        (retry, ("huge",), "STUDY must be one that the tracking store has (tiny"),
        (retry, ("tiny", "--tracking-uri", "http://127.0.0.2:1"), "cannot be used"),
        (retry, ("tiny", "--jobs", "0"), "--jobs must be"),
        (rerun, ("--run", "nope"), "--run must be the id of a trial's run"),
        (rerun, ("--run", parent), "is that of a whole study"),
        (rerun, ("--run", sigma.info.run_id, "--tolerance", "-1"), "--tolerance must be"),
        (rerun, ("--run", sigma.info.run_id, "--weights", "other.safetensors"), "or the backbone's weights"),
        (rerun, ("--run", sigma.info.run_id, "--address", "127.0.0.2:1"), "no Ray cluster answers"),
    ]
    for module, flags, says in refusals:
        monkeypatch.setattr(sys, "argv", [module.__name__, *flags])
        with pytest.raises(SystemExit) as end:
            module.main()
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.startswith("error: ") and says in said, said
        assert said.count("\n") == 1


@pytest.mark.slow
def test_the_recorded_plan_is_the_plan(study):
    """What MLflow keeps is enough for the same trials and the same table."""
    from tiny_study import ARMS

    from sigma_ray.study import Study, make_plan
    from trainables import recorded

    kept = recorded.client_for(f"sqlite:///{study / 'mlflow.db'}")
    record = recorded.read(kept, recorded.newest(kept, "tiny").info.run_id, recorded.PLAN_FILE)
    settings = [tuple(one.split("=")) for flag, one in itertools.pairwise(ONE_SEED) if flag == "--set"]
    arms = [ARMS[name] for name in ("sigma", "diverges")]
    made = make_plan(
        Study(name="tiny", question="Does it run?", arms=lambda profile: arms),
        "demo",
        num_seeds=1,
        settings=[*settings, ("backbone.weights", "none")],
    )
    found = recorded.plan(json.loads(json.dumps(record)), "tiny")
    assert found.trials == made.trials and found.differences() == made.differences()
    assert (found.metric, found.mode, found.seeds, found.profile) == (made.metric, made.mode, made.seeds, made.profile)
    with pytest.raises(ValueError, match="must be one that this version wrote"):
        recorded.plan({**record, "trials": [{"arm": "a"}]}, "tiny")


def test_curves_are_compared_point_by_point():
    nan, inf = math.nan, math.inf
    first = {"a": [(1, 0.1), (2, 0.2)], "b": [(1, nan), (2, inf)], "c": [(1, 1.0)], "d": [(1, 0.0), (2, 1.0)]}
    second = {"a": [(1, 0.1), (2, 0.25)], "b": [(1, nan), (2, inf)], "c": [(1, nan)], "d": [(2, 1.0)], "e": [(1, 1.0)]}
    found = rerun.compare(first, second)
    assert found["a"].points == 2 and found["a"].largest == pytest.approx(0.05)
    assert (found["b"].largest, found["b"].lone) == (0, 0)
    assert found["c"].largest == inf
    assert (found["d"].points, found["d"].lone, found["d"].largest) == (1, 1, 0)
    assert (found["e"].points, found["e"].lone) == (0, 1)


def test_what_counts_as_the_same(capsys):
    small = {"a": rerun.Difference(points=3, lone=0, largest=1e-6)}
    exact = {"a": rerun.Difference(points=3, lone=0, largest=0.0)}
    missing = {"a": rerun.Difference(points=3, lone=1, largest=0.0)}
    cases = [(exact, 0.0, True, "bit-identical"), (small, 0.0, False, "not the same")]
    cases += [(small, 1e-5, True, "the same within 1e-05"), (missing, 1.0, False, "not the same")]
    for differences, tolerance, same, says in cases:
        assert rerun.show(differences, tolerance) is same
        assert capsys.readouterr().out.splitlines()[-1] == says
