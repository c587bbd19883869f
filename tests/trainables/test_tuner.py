"""Whole studies, for real: Ray, Optuna, MLflow on sqlite, processes that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.timeout(600)

SCRIPT = Path(__file__).parent / "tiny_study.py"
SMALL = [
    "--weights",
    "none",
    "--seeds",
    "2",
    "--set",
    "data.num_train=64",
    "--set",
    "data.num_val=16",
    "--set",
    "data.num_test=16",
    "--set",
    "train.warmup_steps=2",
]
QUICK = [*SMALL, "--set", "train.num_steps=6", "--set", "train.eval_interval=3"]
LONGER = [*SMALL, "--seeds", "1", "--set", "train.num_steps=60", "--set", "train.eval_interval=10"]


def command(arms: str, *flags: str) -> list[str]:
    return [sys.executable, str(SCRIPT), arms, *flags]


def run(arms: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command(arms, *flags), cwd=cwd, env=environment, capture_output=True, text=True, timeout=400)


def runs(folder: Path) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    return client.search_runs([experiment.experiment_id], max_results=1000)


def trial_runs(folder: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for one in runs(folder):
        if "trial_key" in one.data.tags:
            found.setdefault(one.data.tags["trial_key"], []).append(one)
    return found


def history(folder: Path, metric: str, attempts: str = "2") -> list[dict]:
    """Points of a trial (by default the one that was interrupted), in the order in which they were stored."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    again = next(s[0] for s in trial_runs(folder).values() if s[0].data.tags["attempts"] == attempts)
    return [{"step": p.step, "value": p.value} for p in client.get_metric_history(again.info.run_id, metric)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    first = run("sigma,fixed", *QUICK, cwd=folder)
    started = time.monotonic()
    second = run("sigma,fixed", *QUICK, cwd=folder)
    return folder, first, second, time.monotonic() - started


def test_study_ends_with_results(study):
    folder, first, _, _ = study
    assert first.returncode == 0, first.stdout + first.stderr
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in first.stdout
    table = pq.read_table(folder / "results/tiny/trials.parquet").to_pylist()
    assert [(row["arm"], row["seed"]) for row in table] == [("sigma", 0), ("fixed", 0), ("sigma", 1), ("fixed", 1)]
    for row in table:
        assert row["status"] == "FINISHED" and 0 < row["test/miou"] < 1 and 0 < row["val/miou"] < 1
        assert row["seconds"] > 0 and row["peak_memory_bytes"] > 1e8
        assert (row["trainable_parameters"] == 0) == (row["arm"] == "fixed")
    summary = pq.read_table(folder / "results/tiny/summary.parquet").to_pydict()
    for arm, mean in zip(summary["arm"], summary["mean"], strict=True):
        assert mean == pytest.approx(np.mean([row["test/miou"] for row in table if row["arm"] == arm]))
    for name in ("metric_vs_parameters", "training_curves", "predictions"):
        assert (folder / f"results/tiny/figures/{name}.png").stat().st_size > 10_000
    assert "fixed" in (folder / "results/tiny/table.md").read_text()


def test_ray_and_mlflow_keep_quiet(study):
    _, first, _, _ = study
    assert first.stderr == ""
    assert all(word not in first.stdout for word in ("pid=", "INFO", "WARNING", "ray.io", "Traceback"))


def test_tracking_holds_one_finished_run_per_trial(study):
    folder, _, _, _ = study
    by_key = trial_runs(folder)
    assert len(by_key) == 4 and all(len(same) == 1 for same in by_key.values())
    one = next(same[0] for same in by_key.values() if same[0].data.tags["arm"] == "sigma")
    assert one.info.status == "FINISHED" and one.data.tags["attempts"] == "1"
    assert one.data.params["adapter.bottleneck_dim"] == "8" and "test/miou" in one.data.metrics
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    assert {f.path for f in client.list_artifacts(one.info.run_id)} >= {"model.safetensors", "predictions.safetensors"}
    assert [p.step for p in client.get_metric_history(one.info.run_id, "val/miou")] == [3, 6]
    assert any(name.startswith("system/") for name in one.data.metrics)


def test_model_file_holds_adapter_and_head_only(study):
    from mlflow import MlflowClient
    from safetensors import safe_open

    folder, _, _, _ = study
    one = next(same[0] for same in trial_runs(folder).values() if same[0].data.tags["arm"] == "sigma")
    path = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").download_artifacts(one.info.run_id, "model.safetensors")
    with safe_open(path, framework="pt") as file:
        names, metadata = list(file.keys()), file.metadata()
    assert all(name.startswith("head.") or ".sites." in name for name in names)
    assert metadata["backbone"] == "scenes_tiny" and json.loads(metadata["config"])["adapter"]["name"] == "sigma"


def test_second_run_trains_nothing(study):
    folder, _, second, seconds = study
    assert second.returncode == 0 and "0 run now" in second.stdout, second.stdout + second.stderr
    assert "started" not in second.stdout and seconds < 30
    assert all(same[0].data.tags["attempts"] == "1" for same in trial_runs(folder).values())


def test_optuna_study_holds_the_design(study):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder, _, _, _ = study
    storage = JournalStorage(JournalFileBackend(str(folder / "results/tiny/optuna.log")))
    (name,) = optuna.get_all_study_names(storage)
    assert name.startswith("tiny-")
    trials = optuna.load_study(study_name=name, storage=storage).get_trials()
    assert sorted((t.params["arm"], t.params["seed"]) for t in trials) == [
        ("fixed", 0),
        ("fixed", 1),
        ("sigma", 0),
        ("sigma", 1),
    ]
    assert all(t.state == optuna.trial.TrialState.COMPLETE for t in trials)


def test_failed_trial_leaves_the_others_alone(tmp_path):
    result = run("sigma,diverges", *QUICK, cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    table = {
        (row["arm"], row["seed"]): row for row in pq.read_table(tmp_path / "results/tiny/trials.parquet").to_pylist()
    }
    assert {table["sigma", seed]["status"] for seed in (0, 1)} == {"FINISHED"}
    for seed in (0, 1):
        assert table["diverges", seed]["status"] == "FAILED"
        assert "NonFiniteLossError" in table["diverges", seed]["reason"]
    assert "NonFiniteLossError" in result.stdout
    assert {one.info.status for one in runs(tmp_path) if "trial_key" not in one.data.tags} == {"FAILED"}


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("started", marks=pytest.mark.chaos),
        pytest.param("step 10/60", marks=pytest.mark.slow),
        pytest.param("[1/2]", marks=pytest.mark.chaos),
    ],
)
def test_killed_driver_is_continued(tmp_path, moment):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    arguments = command("sigma,fixed", *LONGER)
    with (tmp_path / "out").open("w") as out:
        # A process group of its own, as an interactive shell gives every command.
        driver = subprocess.Popen(
            arguments, cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + 200
    while moment not in (tmp_path / "out").read_text():
        assert driver.poll() is None and time.monotonic() < deadline, (tmp_path / "out").read_text()
        time.sleep(0.02)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    # Ray's two agents can outlive their raylet; they hold no resources and no trial. Nothing else may be left.
    agents = [p for p in alive if p.name().endswith("Agent")]
    for agent in agents:
        agent.kill()
    assert len(agents) == len(alive), alive
    finished = {key for key, same in trial_runs(tmp_path).items() if same[0].info.status == "FINISHED"}
    result = run("sigma,fixed", *LONGER, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    by_key = trial_runs(tmp_path)
    assert len(by_key) == 2 and all(len(same) == 1 for same in by_key.values())
    assert {one.info.status for same in by_key.values() for one in same} == {"FINISHED"}
    assert not [one for one in runs(tmp_path) if one.info.status == "RUNNING"]
    assert all(by_key[key][0].data.tags["attempts"] == "1" for key in finished)
    if moment == "step 10/60":
        assert [same[0] for same in by_key.values() if same[0].data.tags["attempts"] == "2"]
        # What had a checkpoint at step 10 goes on from there: its steps are stored once, in order, without a gap.
        steps = [one["step"] for one in history(tmp_path, "val/miou")]
        assert steps == [10, 20, 30, 40, 50, 60]
