"""Training of every task end to end on scenes: it learns more than a trivial guess, also with two workers."""

import socket
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sigma_ray import data, profiles, tasks, train
from sigma_ray import model as models
from sigma_ray.config import override_all
from sigma_ray.data import Info
from sigma_ray.data._decoded import mirror

SMALL = [("data.num_train", 64), ("data.num_val", 16), ("data.num_test", 16), ("train.warmup_steps", 2)]


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_tasks_loss_falls(task, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path))
    settings = [("train.num_steps", 16), ("train.eval_interval", 16), ("train.log_interval", 2)]
    config = override_all(profiles.load("demo", task), [*SMALL, *settings])
    opened, points = data.open_for(config), []
    metrics = train.fit(config, models.build(config, opened.info), opened, report=points.extend)
    losses = [point["train/loss"] for point in points if "train/loss" in point]
    assert losses[-1] < 0.85 * losses[0]
    assert np.isfinite(metrics[f"test/{tasks.get(task).metric}"])


class HalfEmpty:
    """Scenes of which every second one shows nothing: a worker may get a batch without a box."""

    def __init__(self):
        drawn = data.load("scenes").render(range(8))
        self.sample = {name: drawn[name] for name in ("image", "boxes", "labels")}
        self.sample["labels"] = np.where(drawn["labels"] > 0, drawn["labels"] - 2, -1)
        self.sample["labels"][::2] = -1
        self.columns = ("boxes", "labels")

    info = Info(num_classes=8, class_names=tuple("abcdefgh"), image_size=(64, 64))

    def split(self, name):
        return self

    def __len__(self):
        return 8

    def take(self, indices, columns):
        found = {name: self.sample[name][indices] for name in ("image", *columns)}
        return found | {"index": np.asarray(indices), "size": np.full((len(indices), 2), 64)}

    def augmented(self, indices, columns, draws):
        found = self.take(indices, columns)
        return mirror({name: found[name] for name in ("image", *columns)}, draws.mirrored, width=64)


def work(rank, port, folder):
    """One of two workers, each with one image a step."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    settings = [("num_workers", 2), ("train.batch_size", 2), ("train.num_steps", 6), ("train.eval_interval", 6)]
    try:
        scenes = HalfEmpty()
        config = override_all(profiles.load("demo", "detection"), [*settings, ("train.warmup_steps", 0)])
        model = models.build(config, scenes.info)
        metrics = train.fit(config, model, scenes, report=lambda points: None)
        torch.save({"state": model.trained_state(), "ap": metrics["test/ap"]}, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def second(_, port, folder):
    work(1, port, folder)


@pytest.mark.slow
def test_two_workers_train_a_detector_though_one_may_see_no_box(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    other = mp.spawn(second, args=(port, tmp_path), nprocs=1, join=False)
    work(0, port, tmp_path)
    other.join()
    first, last = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["ap"] == last["ap"]
    assert all(torch.equal(value, last["state"][name]) for name, value in first["state"].items())
