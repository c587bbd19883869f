"""What the doctor finds: facts of nodes compared, stores that refuse, leftovers of dead studies, a real cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from ray_nodes import environment, head, worker

from sigma_ray.mlflow_client import connect
from sigma_ray.tracking import Ledger
from trainables import checkups, doctor, inspection, leftovers, node_checks

HERE = {
    "software": {"python": "3.11.7", "torch": "2.15.0", "ray": "2.60.0", "sigma_ray": "c0ffee", "sources": "1"},
    "weights": "12 bytes, SHA-256 abc",
    "data": None,
}
NO_GPU = {"driver": [], "torch": 0, "cuda": None, "error": ""}
THERE = {**HERE, "bundled": "", "gpus": NO_GPU, "clock": 100.0}
TWO_GPUS = {"driver": ["H200, 570.1, 143771 MiB"] * 2, "torch": 2, "cuda": "12.8", "error": ""}


def compared(given=0.0, **changes):
    return list(node_checks.compare("node n", HERE, {**THERE, **changes}, (99.0, 101.0), given))


def not_ok(findings) -> dict:
    return {finding.check: finding for finding in findings if finding.status != "ok"}


def test_a_node_as_here_is_fine():
    assert not_ok(compared()) == {} and len(compared()) == 2
    (gpus,) = [one for one in compared(2.0, gpus=TWO_GPUS) if one.check == "gpus"]
    assert gpus.status == "ok" and "2 x H200, 570.1" in gpus.detail


@pytest.mark.parametrize(
    ("changes", "status", "check", "says"),
    [
        ({"software": {**HERE["software"], "torch": "2.14.0"}}, "problem", "software", "torch 2.14.0 (here 2.15.0)"),
        ({"software": {**HERE["software"], "sources": "2"}}, "problem", "software", "sources 2 (here 1)"),
        ({"bundled": "scenes.safetensors is damaged"}, "problem", "bundled weights", "is damaged"),
        ({"weights": "missing"}, "problem", "weights", "node n has missing"),
        ({"gpus": {**TWO_GPUS, "torch": 0, "cuda": None}}, "problem", "gpus", "PyTorch can use 0"),
        ({"gpus": {**NO_GPU, "error": "nvidia-smi: no driver"}}, "problem", "gpus", "no driver"),
        ({"gpus": TWO_GPUS}, "warning", "gpus", "hands out 0 GPUs, the driver has 2"),
        ({"clock": 161.0}, "warning", "clock", "differs by 60 s"),
        ({"clock": 39.0}, "warning", "clock", "differs by 60 s"),
    ],
)
def test_what_differs_is_named_with_a_way_out(changes, status, check, says):
    (finding,) = not_ok(compared(**changes)).values()
    assert (finding.status, finding.check) == (status, check) and says in finding.detail and finding.remedy


def test_a_clock_is_read_within_the_time_that_the_question_took():
    assert not_ok(compared(clock=103.0)) == {}


def test_gpus_that_pytorch_cannot_use(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.1, 143771 MiB'\n")
    script.chmod(0o755)
    found = inspection.gpus()
    assert found["driver"] == ["NVIDIA H200, 570.1, 143771 MiB"] and found["error"] == ""
    script.write_text("#!/bin/sh\necho 'no devices were found'\nexit 6\n")
    assert inspection.gpus()["error"] == "nvidia-smi: no devices were found"


def test_files_and_folders_are_described_by_content(tmp_path):
    assert inspection.describe_file(str(tmp_path / "none")) == "missing"
    assert inspection.describe_folder(str(tmp_path / "none")) == "missing"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("12")
    one = inspection.describe_folder(str(tmp_path))
    assert one.startswith("1 files, 2 bytes, ")
    assert inspection.describe_file(str(tmp_path / "a" / "x")).startswith("2 bytes, SHA-256 6b51d431df5d")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert inspection.describe_folder(str(tmp_path)) != one
    assert inspection.bundled() == ""


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_store_takes_a_run_that_leaves_nothing(uri, tmp_path):
    assert not_ok(doctor.guarded("tracking", lambda: checkups.tracking(uri))) == {}
    experiment = connect(uri).get_experiment_by_name(checkups.EXPERIMENT)
    assert connect(uri).search_runs([experiment.experiment_id]) == []
    shutil.rmtree(tmp_path / "mlartifacts")
    (tmp_path / "mlartifacts").write_text("a file where artifacts should go")
    refused = not_ok(doctor.guarded("tracking", lambda: checkups.tracking(uri)))["tracking"]
    assert "must take files, but refuses" in refused.detail and refused.remedy.startswith("check its folder")
    away = not_ok(doctor.guarded("tracking", lambda: checkups.tracking("http://127.0.0.2:1")))["tracking"]
    assert "cannot be used" in away.detail and "start it" in away.remedy


def test_dead_studies_are_repaired_and_living_ones_left_alone(uri, tmp_path):
    output = tmp_path / "results"
    for study in ("dead", "alive"):
        ledger = Ledger(uri, study, output / study / "spool")
        ledger.start("key", "arm", 0, {})
        assert ledger.flush(60)
        ledger._spool.close(1)  # the driver dies: its runs seem to run
        (output / study / ".lock").touch()
    (output / "dead" / "command.json").write_text("{}")

    def status(study):
        experiment = connect(uri).get_experiment_by_name(study)
        runs = connect(uri).search_runs([experiment.experiment_id])
        return {run.info.status for run in runs if "trial_key" in run.data.tags}

    with FileLock(output / "alive" / ".lock"):
        found = list(leftovers.studies(uri, output))
    texts = [finding.detail for finding in found]
    assert "alive is running" in texts and status("alive") == {"RUNNING"}
    assert any("of a dead driver were RUNNING in MLflow, and are KILLED now" in text for text in texts)
    assert status("dead") == {"KILLED"}
    (resume,) = not_ok(found).values()
    assert resume.detail == "dead was interrupted" and str(output) in resume.remedy
    (elsewhere,) = not_ok(leftovers.studies(uri, tmp_path / "other")).values()
    assert elsewhere.detail.startswith("alive: 1 runs are RUNNING") and status("alive") == {"RUNNING"}


def test_events_that_wait_are_brought_to_their_store(uri, tmp_path):
    folder = tmp_path / "results" / "late"
    away = Ledger("http://127.0.0.2:1", "late", folder / "spool")
    away.start("key", "arm", 0, {})
    away._spool.close(0.1)
    (folder / ".lock").touch()
    (warning,) = leftovers.studies(uri, tmp_path / "results")
    assert warning.status == "warning" and "wait for another tracking store" in warning.detail
    ledger = Ledger(uri, "late", folder / "spool")
    ledger._spool._deliver = out_of_reach
    ledger.start("key", "arm", 0, {})
    ledger._spool.close(0.1)
    texts = [finding.detail for finding in leftovers.studies(uri, tmp_path / "results")]
    assert "late: events of 1 interrupted commands were brought to MLflow" in texts


def out_of_reach(event, replayed):
    raise ConnectionError("the store is down")


def examine(home: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "studies.doctor", *flags]
    return subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=280)


def test_missing_paths_and_a_cluster_that_is_not_there(tmp_path):
    done = examine(tmp_path, "--weights", "no/such/file")
    assert (
        done.returncode == 2
        and done.stderr == "error: --weights must exist on this machine, but got no/such/file; check the path.\n"
    )
    done = examine(tmp_path, "--address", "127.0.0.2:1")
    assert done.returncode == 1 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith(" ")][-1] == ["problem", "ray"]
    assert "no Ray cluster answers at 127.0.0.2:1" in done.stdout and "ray start --head" in lines[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_this_machine_alone_is_fine(tmp_path):
    done = examine(tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}
    assert "is seen and written by 1 nodes" in done.stdout and "ray, sigma_ray" not in done.stdout


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs to mount folders for one process")
def test_a_cluster_with_open_doors_and_a_node_without_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "picture").write_text("x")
    mount = f'mount -t tmpfs none {tmp_path}/data && exec "$@"'
    with head(num_cpus=0) as address, worker(address, "unshare", "--mount", "sh", "-c", mount, "sh"):
        done = examine(tmp_path, "--address", address, "--data-root", "data")
    assert done.returncode == 1 and done.stderr == "", done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split()[1] for line in found if line.startswith("problem")] == ["data"]
    assert "has 0 files, 0 bytes" in done.stdout and "takes everybody who reaches its ports" in done.stdout
    assert "2 nodes, 1 CPUs" in done.stdout and "is seen and written by 2 nodes" in done.stdout
