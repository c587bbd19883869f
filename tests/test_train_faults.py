"""What goes wrong while a trial trains and does not end it: full disks, damaged checkpoints, untimely kills."""

import errno
import itertools
import os

import pytest
from test_train import CONFIG, Toy, changed, fit, results, same

from sigma_ray import model as models
from sigma_ray import train
from sigma_ray.checkpoint import Checkpoints


def run(folder, config=CONFIG, **options):
    model, points, told = models.build(config, Toy.info), [], []
    store = Checkpoints(folder)
    metrics = train.fit(config, model, Toy(), report=points.extend, checkpoints=store, warn=told.append, **options)
    return metrics, model, points, told


def test_a_run_killed_between_evaluations_goes_on_from_where_it_was_saved(tmp_path, monkeypatch):
    config = changed(train__num_steps=9, train__eval_interval=7, train__log_interval=2)
    whole, model, points = fit(config)
    steps, step = itertools.count(1), train._Loop.step

    def die(loop, *batch):
        if next(steps) == 6:
            raise KeyboardInterrupt
        step(loop, *batch)

    with monkeypatch.context() as patched:
        patched.setattr(train._Loop, "step", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, config, save_now=lambda: True)
    assert Checkpoints(tmp_path).load().step == 4  # no evaluation yet, hence no best step either
    resumed, again, repeated, _ = run(tmp_path, config)
    assert results(resumed) == results(whole) and repeated == points
    assert same(again.trained_state(), model.trained_state())
    assert resumed["train/seconds"] > 0


def test_a_disk_that_is_full_for_a_while_costs_a_warning(tmp_path, monkeypatch):
    whole, model, _ = fit()
    replace, calls = os.replace, itertools.count(1)

    def full(*paths):
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*paths)

    monkeypatch.setattr(os, "replace", full)
    metrics, other, _, told = run(tmp_path)
    assert results(metrics) == results(whole) and same(other.trained_state(), model.trained_state())
    assert len(told) == 1 and told[0].startswith("no checkpoint at step 4 ([Errno 28] No space left")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002.safetensors",
        "step-00000006.safetensors",
    ]


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_cost_steps_not_results(tmp_path, damaged):
    whole, model, points = fit(folder=tmp_path)
    files = sorted(tmp_path.glob("step-*"), reverse=True)
    for path in files[:damaged]:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    metrics, again, repeated, told = run(tmp_path)
    assert len(told) == damaged and all("checksum is wrong" in warning for warning in told)
    assert results(metrics) == results(whole) and repeated == points
    assert same(again.trained_state(), model.trained_state())
