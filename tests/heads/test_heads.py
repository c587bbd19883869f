"""What every head must keep to; a new file in `sigma_ray/heads/` is tested at once."""

import pytest
import torch
from safetensors.torch import save

from sigma_ray import components, heads
from sigma_ray.data import Info

SMALL = {
    "segformer": {"channels": 32},
    "mask2former": {
        "channels": 64,
        "num_queries": 20,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_points": 512,
    },
}
CLASSES, IGNORE = 5, 255
SIZE = (48, 64)


SEGMENTATION = [name for name in heads.names() if components.config_class("head", name).task == "segmentation"]


@pytest.fixture(params=SEGMENTATION)
def name(request):
    return request.param


def build(name, seed=0):
    module = heads.load(name)
    torch.manual_seed(seed)
    info = Info(image_size=SIZE, num_classes=CLASSES, ignore_index=IGNORE)
    return module.build(module.Config(**SMALL.get(name, {})), in_channels=(32,), strides=(8,), info=info)


def features():
    return [torch.randn(2, 32, 6, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()]


def targets():
    mask = torch.randint(0, CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(2))
    mask[:, :5] = IGNORE
    return {"mask": mask}


def test_heads_are_found():
    assert set(heads.names()) >= {"deconv", "segformer", "mask2former"}


def test_predictions_have_the_images_size(name):
    head = build(name).eval()
    with torch.no_grad():
        prediction = head.predict(features(), SIZE)
    assert prediction.shape == (2, CLASSES, *SIZE)
    assert prediction.dtype == torch.float32
    assert prediction.isfinite().all()


def test_the_gradient_reaches_features_and_every_parameter(name):
    head, maps = build(name).train(), features()
    loss = head.loss(maps, targets(), SIZE)
    assert loss.shape == ()
    loss.backward()
    assert maps[-1].grad.abs().sum() > 0
    # A parameter without a gradient would stop DistributedDataParallel at its second step.
    assert [key for key, p in head.named_parameters() if p.requires_grad and p.grad is None] == []


def test_masks_without_labels_are_harmless(name):
    head, maps = build(name).train(), features()
    loss = head.loss(maps, {"mask": torch.full((2, *SIZE), IGNORE)}, SIZE)
    loss.backward()
    assert loss.isfinite()
    assert maps[-1].grad.isfinite().all()


def test_a_few_steps_lower_the_loss(name):
    head, maps, mask = build(name).train(), features(), torch.zeros(2, *SIZE, dtype=torch.long)
    mask[..., 32:] = 1
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = head.loss(maps, {"mask": mask}, SIZE)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_same_seed_gives_the_same_head(name):
    first, second, third = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


def test_its_state_can_be_saved(name):
    assert save({key: value.contiguous() for key, value in build(name).state_dict().items()})


def test_widths_that_do_not_divide_are_refused():
    deconv, mask2former = heads.load("deconv"), heads.load("mask2former")
    with pytest.raises(ValueError, match=r"multiple of head\.num_groups"):
        deconv.Config(channels=20)
    with pytest.raises(ValueError, match="backbone's width"):
        deconv.build(deconv.Config(), in_channels=(20,), strides=(8,), info=Info(image_size=SIZE, num_classes=2))
    with pytest.raises(ValueError, match="multiple of 32"):
        mask2former.Config(channels=48)


def test_an_unknown_head_lists_the_choices():
    with pytest.raises(ValueError, match=r"deconv.*mask2former.*segformer"):
        heads.load("nope")
