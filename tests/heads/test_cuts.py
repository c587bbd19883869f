"""A step's loss and gradient do not depend on how its batch is cut; a new head is tested at once."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_heads import SMALL

from sigma_ray import heads
from sigma_ray.data import Info
from sigma_ray.parallel import Step

SIZE, BATCH, CLASSES = (32, 48), 4, 3
INFO = Info(image_size=SIZE, num_classes=CLASSES, ignore_index=255, min_depth=0.1, max_depth=10.0)
EXACT = {"detr": {"num_denoising": 0}, "segformer": {"dropout": 0.0}, "upernet": {"dropout": 0.0}}


def targets():
    """Labels as unevenly spread as can be: one image has none, others have one, two and three objects."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.randint(0, CLASSES, (BATCH, *SIZE), generator=generator)
    mask[0], mask[1, 3:], mask[2, :, 30:] = 255, 255, 255
    depth = torch.rand(BATCH, *SIZE, generator=generator) * 9 + 0.5
    depth[mask == 255] = 0
    boxes = torch.tensor([[2.0, 2, 14, 12], [20, 6, 45, 28], [4, 14, 20, 31]]).repeat(BATCH, 1, 1)
    labels = torch.arange(3).repeat(BATCH, 1)
    labels[torch.arange(3) >= torch.arange(BATCH)[:, None]] = -1
    x0, y0, x1, y1 = boxes[..., None, None].unbind(2)
    y, x = torch.arange(SIZE[0])[:, None] + 0.5, torch.arange(SIZE[1]) + 0.5
    masks = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    return {"mask": mask, "depth": depth, "boxes": boxes, "labels": labels, "masks": masks}


def build(name):
    module = heads.load(name)
    torch.manual_seed(0)
    config = module.Config(**(SMALL.get(name, {}) | EXACT.get(name, {})))
    return module.build(config, in_channels=(16,), strides=(8.0,), info=INFO).train()


def gradient(head, maps, target, cuts):
    """Summed loss of the parts between `cuts`, and its gradient by the maps and by every parameter."""
    maps = maps.clone().requires_grad_()
    head.zero_grad()
    step, total = Step(target, BATCH), 0.0
    for start, stop in itertools.pairwise([0, *sorted(cuts), BATCH]):
        rows = slice(start, stop)
        part = {name: values[rows] for name, values in target.items()}
        loss = head.loss([maps[rows]], part, SIZE, step.part(rows))
        loss.backward()
        total += loss.detach()
    return [total, maps.grad, *(p.grad for p in head.parameters() if p.requires_grad)]


def same_points(*shape, device=None):
    """In place of `torch.rand`: the same points for every mask."""
    shape = torch.Size(shape[0] if isinstance(shape[0], tuple) else shape)
    count = torch.arange(shape[-2] * shape[-1], device=device) * 0.6180339887 % 1
    return count.view(shape[-2:]).repeat(*shape[:-2], 1, 1)


NAMES = [name for name in heads.names() if name != "mask_rcnn"]


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_gives_the_gradient_of_the_whole_batch(name, monkeypatch):
    head, target = build(name), targets()
    maps = torch.randn(BATCH, 16, 4, 6, generator=torch.Generator().manual_seed(1))
    if name == "mask2former":
        monkeypatch.setattr(torch, "rand", same_points)
    whole = gradient(head, maps, target, ())

    @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sets(st.integers(1, BATCH - 1), min_size=1))
    def check(cuts):
        for value, wanted in zip(gradient(head, maps, target, cuts), whole, strict=True):
            torch.testing.assert_close(value, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item() + 1e-6)

    check()


def test_no_head_has_batch_normalisation():
    kinds = {type(module) for name in heads.names() for module in build(name).modules()}
    assert not [kind for kind in kinds if issubclass(kind, torch.nn.modules.batchnorm._NormBase)]


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2, 3)])
def test_mask_rcnn_weighs_images_and_objects(cuts):
    """All regions count, and all images are the same but the first, which is empty: it has some regions fewer."""
    head, target = build("mask_rcnn"), targets()
    target = {name: torch.stack([values[0], *[values[3]] * 3]) for name, values in target.items()}
    maps = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(1)).repeat(BATCH, 1, 1, 1)
    head.proposals.fg_bg_sampler.batch_size_per_image = head.regions.fg_bg_sampler.batch_size_per_image = 10_000
    parts, whole = (
        torch.cat([value.flatten() for value in gradient(head, maps, target, tried)]) for tried in (cuts, ())
    )
    assert (parts - whole).norm() < 0.02 * whole.norm()
