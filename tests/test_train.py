"""The training loop, on a task that a head alone can learn: the colour of each quarter of the image."""

import dataclasses
import errno
import itertools
import math
import os
import socket
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors import safe_open

from sigma_ray import model as models
from sigma_ray import optim, train
from sigma_ray.checkpoint import Checkpoints
from sigma_ray.config import BackboneConfig, TrainConfig, TrialConfig, component, override_all
from sigma_ray.data import Info
from sigma_ray.data._decoded import mirror
from sigma_ray.failures import CheckpointError, DataError, NonFiniteLossError, OutOfMemoryError

CONFIG = TrialConfig(
    backbone=BackboneConfig(name="scenes_tiny", weights=None),
    adapter=component("adapter", "sigma", bottleneck_dim=4, dropout=0.3),
    head=component("head", "deconv", channels=32),
    data=component("data", "scenes"),
    train=TrainConfig(
        num_steps=6,
        batch_size=8,
        learning_rate=5e-3,
        warmup_steps=2,
        eval_interval=2,
        log_interval=4,
        precision="float32",
    ),
)
CPU_TIMES = {"seconds", "train/seconds", "peak_memory_bytes"}


class Table:
    """Images whose quarters are dark or bright, with the class as mask."""

    def __init__(self, seed, count, ignored=False):
        rng = np.random.default_rng(seed)
        classes = rng.integers(0, 3, (count, 2, 2)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        noise = rng.integers(0, 40, (count, 3, 16, 16))
        self.image = (classes[:, None] * 100 + noise).clip(0, 255).astype(np.uint8)
        self.mask = np.where(rng.random(classes.shape) < 0.2, 255, classes).astype(np.uint8) if ignored else classes

    def __len__(self):
        return len(self.image)

    def take(self, indices, columns):
        assert columns == ("mask",)
        return {"image": self.image[indices], "mask": self.mask[indices], "index": np.asarray(indices)}

    def augmented(self, indices, columns, draws):
        sample = self.take(indices, columns)
        return mirror({"image": sample["image"], "mask": sample["mask"]}, draws.mirrored, width=16)


class Toy:
    info = Info(num_classes=3, class_names=("a", "b", "c"), image_size=(16, 16))

    def __init__(self):
        self.tables = {"train": Table(0, 20), "val": Table(1, 7, True), "test": Table(2, 9, True)}

    def split(self, name):
        return self.tables[name]


def changed(**fields):
    return override_all(CONFIG, [(key.replace("__", "."), value) for key, value in fields.items()])


def fit(config=CONFIG, folder=None, report=None, data=None):
    """Metrics, model and the reported points."""
    model, points = models.build(config, Toy.info), []
    store = Checkpoints(folder) if folder else None
    metrics = train.fit(config, model, data or Toy(), report=report or points.extend, checkpoints=store)
    return metrics, model, points


def results(metrics):
    return {name: value for name, value in metrics.items() if name not in CPU_TIMES}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_falls_and_the_task_is_learned():
    config = changed(train__num_steps=40, train__eval_interval=20, train__learning_rate=1e-2, adapter__dropout=0.0)
    metrics, model, points = fit(config)
    losses = [point["train/loss"] for point in points if "train/loss" in point]
    assert losses[-1] < 0.5 * losses[0]
    assert metrics["test/miou"] > 0.6
    assert metrics["seconds"] >= metrics["train/seconds"] > 0
    assert metrics["head_parameters"] == sum(p.numel() for p in model.head.parameters())
    assert points[-1]["epoch"] == 40 * 8 / 20
    rates = {point["step"]: point["train/learning_rate"] for point in points if "train/loss" in point}
    assert rates[40] == pytest.approx(1e-2 * optim.learning_rate_factor(39, config.train))


@pytest.mark.parametrize("reports", [2, 3])
@pytest.mark.parametrize("adapter", ["sigma", "full"])
def test_a_broken_and_resumed_run_is_the_unbroken_one(tmp_path, reports, adapter):
    config = CONFIG if adapter == "sigma" else changed(adapter=adapter)
    whole, model, points = fit(config)
    calls = itertools.count(1)

    def die(new):
        if next(calls) == reports:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path, report=die)
    torch.rand(17)
    resumed, again, repeated = fit(config, tmp_path)
    assert results(resumed) == results(whole)
    assert same(again.trained_state(), model.trained_state())
    assert repeated == points


def test_a_finished_run_is_only_tested_again(tmp_path):
    first, model, _ = fit(folder=tmp_path)
    second, again, _ = fit(folder=tmp_path)
    assert results(first) == results(second)
    assert first["train/seconds"] == second["train/seconds"]
    assert same(again.trained_state(), model.trained_state())


def test_micro_batches_add_up_to_the_batch():
    whole = changed(adapter__dropout=0.0, train__select="last", train__num_steps=3)
    parts = override_all(whole, [("train.micro_batch_size", 3)])
    first, second = fit(whole), fit(parts)
    for name, value in first[1].trained_state().items():
        torch.testing.assert_close(second[1].trained_state()[name], value, atol=2e-4, rtol=1e-3)
    assert first[2][-2]["train/loss"] == pytest.approx(second[2][-2]["train/loss"], abs=1e-5)


@pytest.mark.parametrize("log_interval", [1, 50])
def test_a_loss_that_is_not_finite_ends_the_trial_unsaved(tmp_path, log_interval, monkeypatch):
    config = changed(train__log_interval=log_interval)
    forward, calls = models.Model.forward, itertools.count(1)

    def spoilt(self, images, targets=None, *share):
        value = forward(self, images, targets, *share)
        return value * math.nan if targets is not None and next(calls) == 4 else value

    monkeypatch.setattr(models.Model, "forward", spoilt)
    with pytest.raises(NonFiniteLossError, match=r"nan.*train\.learning_rate") as caught:
        fit(config, tmp_path)
    assert "\n" not in str(caught.value)
    snapshot = Checkpoints(tmp_path).load()
    assert snapshot.step == 2
    assert all(value.isfinite().all() for value in snapshot.tensors.values())


@pytest.mark.parametrize(("select", "wanted"), [("best", 4), ("last", 6)])
def test_the_selected_weights_are_the_tested_ones(select, wanted, monkeypatch):
    values, states, tested = iter([0.2, 0.9, 0.5, 0.1]), {}, []

    def scripted(model, table, **_):
        state = {name: value.clone() for name, value in model.trained_state().items()}
        states[2 * len(states) + 2] = state
        tested.append(state)
        return {"miou": next(values)}

    monkeypatch.setattr(train, "evaluate", scripted)
    metrics, model, _ = fit(changed(train__select=select))
    assert metrics["selected_step"] == wanted
    assert metrics["val/miou"] == {4: 0.9, 6: 0.5}[wanted]
    assert metrics["test/miou"] == 0.1
    assert same(tested[-1], states[wanted])
    assert same(model.trained_state(), states[wanted])
    assert not same(states[4], states[6])


def test_a_checkpoint_holds_no_frozen_tensor(tmp_path):
    _, model, _ = fit(folder=tmp_path)
    with safe_open(max(tmp_path.glob("step-*")), framework="pt") as file:
        stored = {name.partition("/")[2] for name in file.keys() if name.startswith("model/")}  # noqa: SIM118
        every = set(file.keys())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert stored == set(model.trained_state()) >= trained
    assert len(frozen) > 50
    assert not [name for name in every for part in frozen if f"/{part}" in name]


def test_another_trials_checkpoint_is_refused(tmp_path):
    fit(folder=tmp_path)
    with pytest.raises(CheckpointError, match="another trial's"):
        fit(dataclasses.replace(CONFIG, seed=1), tmp_path)


def fails(error):
    raise error


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        (lambda: fails(OSError("disk")), DataError),
        (lambda: fails(torch.OutOfMemoryError("a\nb")), OutOfMemoryError),
        (lambda: fails(RuntimeError("CUDA error: out of memory\nb")), OutOfMemoryError),
        (lambda: fails(RuntimeError("could not create a primitive")), OutOfMemoryError),
        (lambda: fails(OSError(errno.ENOMEM, "Cannot allocate memory")), OutOfMemoryError),
        (lambda: fails(MemoryError()), OutOfMemoryError),
        (lambda: torch.empty(1 << 55), OutOfMemoryError),
        (lambda: np.empty(1 << 55), OutOfMemoryError),
        (lambda: torch.empty(3) @ torch.empty(2), RuntimeError),
    ],
)
def test_expected_failures_have_names(action, wanted, monkeypatch):
    data = Toy()

    def take(indices, columns, draws):
        action()

    monkeypatch.setattr(data.tables["train"], "augmented", take)
    with pytest.raises(wanted) as caught:
        fit(data=data)
    assert "\n" not in str(caught.value)


def test_a_random_backbone_and_the_head_follow_from_the_seed():
    first, second = models.build(CONFIG, Toy.info), models.build(CONFIG, Toy.info)
    assert same(first.state_dict(), second.state_dict())
    lora = models.build(changed(adapter="lora"), Toy.info)
    assert same(first.head.state_dict(), lora.head.state_dict())
    other = models.build(changed(seed=1), Toy.info)
    assert not same(first.head.state_dict(), other.head.state_dict())


PARALLEL = override_all(CONFIG, [("adapter.dropout", 0.0), ("train.select", "last")])


def score(model, **options):
    return train.evaluate(
        model,
        Toy().split("test"),
        task="segmentation",
        columns=("mask",),
        info=Toy.info,
        device=torch.device("cpu"),
        batch_size=2,
        **options,
    )


def second_worker(_, port, folder):
    torch.set_num_threads(1)
    work(1, port, folder)


def work(rank, port, folder):
    """One of two workers; each leaves its results in `folder`."""
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        metrics, model, points = fit(override_all(PARALLEL, [("num_workers", 2)]), folder / "checkpoints")
        shown = score(model, shard=(rank, 2))
    finally:
        dist.destroy_process_group()
    torch.save(
        {"metrics": metrics, "state": model.trained_state(), "points": points, "test": shown}, folder / f"{rank}.pt"
    )


def test_two_workers_agree_with_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    other = mp.spawn(second_worker, args=(port, tmp_path), nprocs=1, join=False)
    work(0, port, tmp_path)
    other.join()
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    metrics, model, points = fit(PARALLEL)
    assert same(both[0]["state"], both[1]["state"])
    for name, value in model.trained_state().items():
        torch.testing.assert_close(both[0]["state"][name], value, atol=1e-4, rtol=1e-4)
    for one, two in zip(points, both[0]["points"], strict=True):
        assert two == pytest.approx(one, abs=2e-3 if "val/miou" in one else 1e-4)
    assert both[0]["metrics"]["test/miou"] == pytest.approx(metrics["test/miou"], abs=2e-3)
    model.load_trained_state(both[0]["state"])
    alone = score(model)
    assert both[0]["test"] == both[1]["test"] == alone
    assert Checkpoints(tmp_path / "checkpoints").load().tensors.keys() >= {"rng/0/cpu", "rng/1/cpu"}
