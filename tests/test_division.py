"""Training by two workers, and by micro-batches, against one worker with whole batches: the same for every head."""

import functools
import itertools

import numpy as np
import pytest
import torch
import workers
from hypothesis import given
from hypothesis import strategies as st
from small_heads import SMALL

from sigma_ray import batches, components, data, heads, tasks, train
from sigma_ray import model as models
from sigma_ray.config import BackboneConfig, TrainConfig, TrialConfig, component
from sigma_ray.data import Info

EXACT = {"detr": {"num_denoising": 0}, "segformer": {"dropout": 0.0}, "upernet": {"dropout": 0.0}}
"""Options that leave no random number in a head's loss, and make it a sum over images."""

HEADS = {  # mask_rcnn is left out: how many regions its mask loss counts depends on its predictions
    task: [n for n in heads.names() if components.config_class("head", n).task == task and n != "mask_rcnn"]
    for task in tasks.TASKS
}


class Uneven:
    """Eight scenes: most show no object, and each has another share of pixels without a label or a depth."""

    info = Info(num_classes=10, class_names=tuple("abcdefghij"), image_size=(64, 64), max_depth=20.0)

    def __init__(self):
        drawn = data.load("scenes").render(range(8))
        for i in range(8):
            drawn["mask"][i, :, : 64 - 9 * i] = 255
            drawn["depth"][i, :, : 64 - 9 * i] = 0
        drawn["labels"][[0, 1, 3, 4, 6]] = -1
        drawn["masks"] = drawn.pop("instance")[:, None] == np.arange(1, 9)[:, None, None]
        self.sample = drawn

    def split(self, name):
        return self if name == "train" else Few(self)

    def __len__(self):
        return 8

    def take(self, indices, columns):
        found = {name: self.sample[name][indices] for name in ("image", *columns)}
        return found | {"index": np.asarray(indices), "size": np.full((len(indices), 2), 64)}

    def augmented(self, indices, columns, draws):
        return {name: self.sample[name][indices] for name in ("image", *columns)}


class Few:
    """The last three of the scenes."""

    def __init__(self, scenes):
        self.scenes = scenes

    def __len__(self):
        return 3

    def take(self, indices, columns):
        return self.scenes.take(np.asarray(indices) + 5, columns) | {"index": np.asarray(indices)}


def config_of(name, num_workers=1, **options):
    head = component("head", name, **(SMALL.get(name, {}) | EXACT.get(name, {})))
    return TrialConfig(
        backbone=BackboneConfig(name="scenes_tiny", weights="bundled"),
        adapter=component("adapter", "sigma", bottleneck_dim=4),
        head=head,
        data=component("data", "scenes"),
        task=components.config_class("head", name).task,
        train=TrainConfig(
            num_steps=3, batch_size=8, learning_rate=1e-3, precision="float32", log_interval=1, select="last",
            horizontal_flip=False, **options,
        ),
        num_workers=num_workers,
    )  # fmt: skip


def same_points(*shape, device=None, generator=None, rand=torch.rand):
    """In place of `torch.rand`: the same points for every mask. What has a generator is drawn from it as ever."""
    if generator is not None:
        return rand(*shape, generator=generator)
    shape = torch.Size(shape[0] if isinstance(shape[0], tuple) else shape)
    count = torch.arange(shape[-2] * shape[-1], device=device) * 0.6180339887 % 1
    return count.view(shape[-2:]).repeat(*shape[:-2], 1, 1)


def fit(name, num_workers=1, divisor=1, **options):
    """Weights, losses, and final metrics."""
    scenes, points = Uneven(), []
    config = config_of(name, num_workers, **options)
    model = models.build(config, scenes.info)
    with pytest.MonkeyPatch.context() as patch:
        if name == "mask2former":
            patch.setattr(torch, "rand", same_points)
        metrics = train.fit(config, model, scenes, report=points.extend, memory_divisor=divisor)
    losses = [point["train/loss"] for point in points if "train/loss" in point]
    return {"state": model.trained_state(), "losses": losses, "metrics": metrics}


def work(names, rank, folder):
    """Every head by two workers, and by micro-batches of two workers."""
    runs = {(name, divisor): fit(name, 2, divisor) for name in names for divisor in (1, 3)}
    if "deconv" in names:
        runs["deconv", "checkpointed"] = fit("deconv", 2, gradient_checkpointing=True)
    return runs


def flat(state):
    return torch.cat([value.flatten().float() for value in state.values()])


def assert_agree(found, wanted, start):
    """Losses to a thousandth, and weights to a hundredth of the way that they went."""
    assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-3)
    way = flat(wanted["state"]) - flat(start)
    assert (flat(found["state"]) - flat(wanted["state"])).norm() < 0.01 * way.norm()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "names",
    [["deconv"], *(pytest.param(names, marks=pytest.mark.slow) for names in HEADS.values())],
    ids=["quick", *HEADS],
)
def test_workers_and_micro_batches_train_what_one_worker_does(names, tmp_path):
    first, second = workers.run(functools.partial(work, names), tmp_path, timeout=300)
    for name in names:
        start, wanted = models.build(config_of(name), Uneven.info).trained_state(), fit(name)
        assert_agree(fit(name, micro_batch_size=3), wanted, start)
        for key in [key for key in first if key[0] == name]:
            assert all(torch.equal(value, second[key]["state"][part]) for part, value in first[key]["state"].items())
            assert_agree(first[key], wanted, start)


@given(
    workers=st.integers(1, 4),
    each=st.integers(1, 9),
    micro=st.none() | st.integers(1, 40),
    evaluation=st.integers(1, 40),
    divisor=st.integers(1, 40),
)
def test_sizes_fall_to_one_and_no_further(workers, each, micro, evaluation, divisor):
    train_config = TrainConfig(
        num_steps=1, batch_size=workers * each, micro_batch_size=micro, eval_batch_size=evaluation
    )
    config = TrialConfig(**{**vars(config_of("deconv")), "train": train_config, "num_workers": workers})
    usual, divided = batches.sizes(config), batches.sizes(config, divisor)
    assert usual == (min(micro or each, each), evaluation)
    for size, whole in zip(divided, usual, strict=True):
        assert (size - 1) * divisor < whole <= size * divisor
    assert batches.can_divide(config, divisor) == (max(divided) > 1)


def test_halving_again_and_again_ends():
    config = config_of("deconv", micro_batch_size=6, eval_batch_size=4)
    steps = list(itertools.takewhile(lambda n: batches.can_divide(config, n), (2**power for power in range(9))))
    assert [batches.sizes(config, n) for n in [*steps, 2 * steps[-1]]] == [(6, 4), (3, 2), (2, 1), (1, 1)]
