"""A trial of two workers, with Ray Train inside Tune, ends as that of one worker does."""

import pytest
from mlflow import MlflowClient
from test_tuner import SMALL, run, trial_runs

STEPS = [
    "--seeds",
    "1",
    "--set",
    "train.num_steps=6",
    "--set",
    "train.eval_interval=3",
    "--set",
    "train.log_interval=1",
]


def curves(folder, workers):
    """All values of the loss and of validation's mIoU, and the final metrics, of the demo's segmentation."""
    folder.mkdir()
    done = run("sigma", *SMALL, *STEPS, "--set", f"num_workers={workers}", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [[trial]] = trial_runs(folder).values()
    assert trial.info.status == "FINISHED"
    found = {}
    for metric in ("train/loss", "val/miou"):
        points = client.get_metric_history(trial.info.run_id, metric)
        found[metric] = [point.value for point in sorted(points, key=lambda point: point.step)]
    return found | {"test/miou": [trial.data.metrics["test/miou"]]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_end_where_one_does(tmp_path):
    one, two = curves(tmp_path / "1", 1), curves(tmp_path / "2", 2)
    assert [len(values) for values in one.values()] == [6, 2, 1]
    assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-3)
    for metric in ("val/miou", "test/miou"):
        assert two[metric] == pytest.approx(one[metric], abs=2e-3)
