"""Evaluation: two workers give the numbers of one, to the last bit, in every task."""

import os
import socket
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sigma_ray import data, profiles, tasks
from sigma_ray import model as models
from sigma_ray.config import override_all
from sigma_ray.evaluate import evaluate, targets_of

SETTINGS = [("data.num_train", 4), ("data.num_val", 13), ("data.num_test", 4)]


def metrics_of(task, shard=(0, 1)):
    """Metrics of an untrained model on 13 scenes, in batches of 3."""
    config = override_all(profiles.load("demo", task), SETTINGS)
    opened = data.open_for(config)
    model, columns = models.build(config, opened.info), tasks.columns(task, config.head)
    return evaluate(
        model,
        opened.split("val"),
        task=task,
        columns=columns,
        info=opened.info,
        device=torch.device("cpu"),
        batch_size=3,
        shard=shard,
    )


def work(rank, port, folder):
    """One of two workers; leaves its metrics in `folder`."""
    torch.set_num_threads(1)
    os.environ["SIGMA_RAY_CACHE"] = str(folder / "cache")
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        torch.save({task: metrics_of(task, (rank, 2)) for task in tasks.TASKS}, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def second(_, port, folder):
    work(1, port, folder)


def test_two_workers_give_the_numbers_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = {task: metrics_of(task) for task in tasks.TASKS}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    other = mp.spawn(second, args=(port, tmp_path), nprocs=1, join=False)
    work(0, port, tmp_path)
    other.join()
    torch.set_num_threads(threads)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for task, values in alone.items():
            assert tasks.get(task).metric in values
            np.testing.assert_equal(found[task], values)  # NaN equals NaN: a size that no object has


@pytest.mark.parametrize("stacked", [True, False])
def test_class_ids_do_not_overflow(stacked):
    masks = np.full((2, 4, 5), 149, np.uint8)
    found = targets_of({"image": masks, "mask": masks if stacked else list(masks)}, torch.device("cpu"))
    assert set(found) == {"mask"}
    assert [(one * 150).max().item() for one in found["mask"]] == [149 * 150] * 2
