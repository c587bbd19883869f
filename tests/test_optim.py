"""Schedules against torch's, parameter groups, and the optimiser's state through named tensors."""

import copy

import pytest
import torch

from sigma_ray import model as models
from sigma_ray import optim
from sigma_ray.config import BackboneConfig, TrainConfig, TrialConfig, component
from sigma_ray.data import Info

INFO = Info(num_classes=3, class_names=("a", "b", "c"), image_size=(16, 16))


def trial(**fields):
    return TrialConfig(
        backbone=BackboneConfig(name="scenes_tiny", weights=None),
        adapter=component("adapter", "full"),
        head=component("head", "deconv", channels=16),
        data=component("data", "scenes"),
        train=TrainConfig(num_steps=1, **fields),
    )


@pytest.mark.parametrize("schedule", ["cosine", "poly", "step", "constant"])
def test_learning_rates_are_those_of_torchs_schedulers(schedule):
    steps = {"decay_steps": (12, 20), "decay_factor": 0.3} if schedule == "step" else {}
    config = TrainConfig(num_steps=30, warmup_steps=5, schedule=schedule, **steps)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    lib = torch.optim.lr_scheduler
    theirs = {
        "cosine": lambda: lib.CosineAnnealingLR(optimiser, 25),
        "poly": lambda: lib.PolynomialLR(optimiser, 25, power=0.9),
        "step": lambda: lib.MultiStepLR(optimiser, [7, 15], gamma=0.3),  # counted from the end of the warm-up
        "constant": lambda: lib.ConstantLR(optimiser, factor=1.0),
    }[schedule]()
    wanted = [0.2, 0.4, 0.6, 0.8, 1.0]
    for _ in range(26):
        wanted.append(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()
    assert [optim.learning_rate_factor(step, config) for step in range(31)] == pytest.approx(wanted, abs=1e-9)


def test_optimiser_groups_scale_the_backbone_and_spare_vectors():
    config = trial(learning_rate=5e-3, backbone_lr_scale=0.1, weight_decay=0.3)
    model = models.build(config, INFO)
    groups = {id(p): g for g in optim.optimiser(model, config.train).param_groups for p in g["params"]}
    assert len(groups) == sum(p.requires_grad for p in model.parameters())
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert groups[id(p)]["lr"] == pytest.approx(5e-3 * (0.1 if name.startswith("backbone.") else 1))
            vector = p.ndim < 2 or name in ("backbone.cls_token", "backbone.pos_embed")
            assert groups[id(p)]["weight_decay"] == (0 if vector else 0.3)


def test_the_state_travels_as_named_tensors():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(net, by):
        by.zero_grad()
        net(torch.ones(2, 3)).square().sum().backward()
        by.step()

    step(model, optimiser)
    twin = copy.deepcopy(model)
    other = torch.optim.AdamW(twin.parameters(), lr=0.1)
    saved = {name: value.clone() for name, value in optim.state_tensors(optimiser, model).items()}
    assert set(saved) == {f"{n}/{k}" for n, _ in model.named_parameters() for k in ("step", "exp_avg", "exp_avg_sq")}
    optim.load_state_tensors(other, twin, saved, torch.device("cpu"))
    step(model, optimiser)
    step(twin, other)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
