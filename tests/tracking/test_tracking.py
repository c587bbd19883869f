"""The ledger: what is recorded is read back, one run per key, true statuses."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import CONFIG, one_trial

from sigma_ray.tracking import Ledger


def test_a_trial_is_read_back_as_it_was_recorded(ledger: Ledger) -> None:
    """Arm, seed, params, metrics, tags and curve of a finished trial."""
    invocation = ledger.open({"trials": ["k0"]}, {"python": "3.11"})
    one_trial(ledger, seed=2)
    row = ledger.finished()["k0"]
    assert (row.arm, row.seed, row.status, row.reason) == ("sigma", 2, "FINISHED", "finished")
    assert row.params == {name: str(value) for name, value in CONFIG.items()}
    assert row.metrics == {"val/miou": 0.3, "test/miou": 2.5}
    assert row.tags["invocation"] == invocation
    assert row.tags["attempts"] == "1"
    assert row.tags["commit"]
    assert row.tags["mlflow.parentRunId"] == ledger.parent_run_id
    assert ledger.history(row.run_id, "val/miou") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert ledger.close()


def test_the_parent_run_holds_plan_environment_and_report(ledger: Ledger, tmp_path: Path) -> None:
    """Artifacts of an invocation, read in place from another working directory."""
    (tmp_path / "table.md").write_text("| Arm |")
    ledger.open({"trials": ["k0"]}, {"python": "3.11"})
    assert ledger.flush(30)
    parent = ledger.parent_run_id
    assert parent is not None
    assert ledger.close("FAILED", [tmp_path / "table.md"])
    assert ledger.close()
    assert json.loads(ledger.download(parent, "plan.json").read_text()) == {"trials": ["k0"]}
    assert json.loads(ledger.download(parent, "environment.json").read_text()) == {"python": "3.11"}
    report = ledger.download(parent, "table.md")
    assert report.read_text() == "| Arm |"
    assert tmp_path / "mlartifacts" in report.parents
    assert ledger._runs.client.get_run(parent).info.status == "FAILED"


def test_a_second_attempt_continues_the_same_run(ledger: Ledger, uri: str, tmp_path: Path) -> None:
    """Re-reported steps are skipped, new ones added, attempts counted, parent and status renewed."""
    ledger.open({}, {})
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.log("k0", [{"step": 10, "val/miou": 0.1}, {"step": 20, "val/miou": 0.2}])
    ledger.fail("k0", "out of memory")
    assert ledger.trials()["k0"].status == "FAILED"
    assert ledger.trials()["k0"].reason == "out of memory"
    assert ledger.finished() == {}
    ledger.close()
    second = Ledger(uri, "study", tmp_path / "spool")
    invocation = second.open({}, {})
    second.start("k0", "sigma", 0, CONFIG | {"new": 1})
    second.log("k0", [{"step": 10, "val/miou": 9.0}, {"step": 20, "val/miou": 9.0}])
    second.log("k0", [{"step": 20, "val/miou": 9.0, "train/loss": 1.0}, {"step": 30, "val/miou": 0.3}])
    second.finish("k0", {"val/miou": 0.3})
    row = second.finished()["k0"]
    assert row.tags["attempts"] == "2" and row.tags["attempt.1"] == "out of memory"
    assert row.tags["invocation"] == invocation
    assert second.history(row.run_id, "val/miou") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert second.history(row.run_id, "train/loss") == [(20, 1.0)]
    assert len([run for run in second._runs.all() if "trial_key" in run.data.tags]) == 1
    second.close()


def test_a_final_value_does_not_bend_the_curve(ledger: Ledger) -> None:
    """The final validation score is that of the best step; the curve keeps its own last point."""
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.log("k0", [{"step": 10, "val/miou": 0.4}, {"step": 20, "val/miou": 0.3}, {"step": 25, "loss": 1.0}])
    ledger.finish("k0", {"val/miou": 0.4, "test/miou": 0.5})
    row = ledger.finished()["k0"]
    assert row.metrics["val/miou"] == 0.4
    assert ledger.history(row.run_id, "val/miou") == [(10, 0.4), (20, 0.3)]
    assert ledger.history(row.run_id, "test/miou") == [(25, 0.5)]
    ledger.close()


def test_values_that_databases_dislike_are_kept(ledger: Ledger) -> None:
    """NaN and the infinities come back as themselves."""
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.log("k0", [{"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf}])
    ledger.finish("k0", {"a": math.nan, "b": math.inf})
    row = ledger.finished()["k0"]
    assert math.isnan(row.metrics["a"])
    assert row.metrics["b"] == math.inf
    assert row.metrics["c"] == -math.inf
    assert [step for step, _ in ledger.history(row.run_id, "a")] == [1]
    ledger.close()


def test_a_trial_keeps_its_files(ledger: Ledger, tmp_path: Path) -> None:
    """Files and folders are stored under their names; one that vanished does not stop the rest."""
    (tmp_path / "adapter.safetensors").write_bytes(b"weights")
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.finish("k0", {}, [tmp_path / "gone", tmp_path / "adapter.safetensors"])
    row = ledger.finished()["k0"]
    assert ledger.download(row.run_id, "adapter.safetensors").read_bytes() == b"weights"
    ledger.close()


def test_a_refused_event_does_not_stop_those_behind_it(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """A metric name that MLflow never accepts, and a trial that never started."""
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.log("k0", [{"step": 1, "bad?name": 1.0}])
    ledger.log("unknown", [{"step": 1, "val/miou": 1.0}])
    ledger.finish("k0", {"test/miou": 0.5})
    assert ledger.finished()["k0"].metrics == {"test/miou": 0.5}
    assert caplog.text.count("refused") == 2
    ledger.close()


def test_a_deleted_experiment_is_an_error_that_says_so(ledger: Ledger, uri: str, tmp_path: Path) -> None:
    """Its trials must be neither revived nor silently trained again under the same name."""
    one_trial(ledger)
    ledger.finished()
    ledger._runs.client.delete_experiment(ledger._runs.experiment)
    ledger.close()
    with pytest.raises(ValueError, match="is deleted; restore it"):
        Ledger(uri, "study", tmp_path / "spool").finished()


def test_importing_the_ledger_does_not_import_mlflow() -> None:
    """The command line answers fast."""
    code = "import sys, sigma_ray.tracking; assert not {'mlflow', 'torch', 'requests'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
