"""A study on photographs with a pre-trained ViT, by flags only."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_on_camvid_with_deit(shared, tmp_path):
    weights = shared / "weights/deit_tiny_in1k/deit_tiny_patch16_224.safetensors"
    settings = {
        "data": "folder",
        "data.image_size": "64,80",
        "backbone.name": "deit_tiny_patch16_224",
        "train.num_steps": "40",
        "train.batch_size": "8",
        "train.eval_interval": "40",
        "train.learning_rate": "2e-3",
        "train.warmup_steps": "4",
    }
    command = [sys.executable, str(Path(__file__).parent / "tiny_study.py"), "sigma,fixed", "--seeds", "1"]
    command += ["--data-root", str(shared / "data/camvid"), "--weights", str(weights)]
    command += [part for path, value in settings.items() for part in ("--set", f"{path}={value}")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["arm"]: row for row in pq.read_table(tmp_path / "results/tiny/trials.parquet").to_pylist()}
    assert {row["status"] for row in rows.values()} == {"FINISHED"}
    # Sky, road and buildings are most of a street: whoever finds only those has 3 classes of 11.
    assert rows["sigma"]["test/miou"] > 0.15 and rows["fixed"]["test/miou"] > 0.05
