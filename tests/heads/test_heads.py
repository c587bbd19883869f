"""What every head must keep to; a new file in `sigma_ray/heads/` is tested at once."""

import pytest
import torch
import training
from safetensors.torch import save
from small_heads import SMALL

from sigma_ray import components, heads
from sigma_ray.data import Info

CLASSES, IGNORE = 5, 255
SIZE = (48, 64)


SEGMENTATION = [name for name in heads.names() if components.config_class("head", name).task == "segmentation"]


@pytest.fixture(params=SEGMENTATION)
def name(request):
    return request.param


INFO = Info(image_size=SIZE, num_classes=CLASSES, ignore_index=IGNORE)


def build(name, seed=0, in_channels=(32,), strides=(8,), **options):
    module = heads.load(name)
    torch.manual_seed(seed)
    config = module.Config(**(SMALL.get(name, {}) | options))
    return module.build(config, in_channels=in_channels, strides=strides, info=INFO)


def features():
    return [torch.randn(2, 32, 6, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()]


def targets():
    mask = torch.randint(0, CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(2))
    mask[:, :5] = IGNORE
    return {"mask": mask}


def test_heads_are_found():
    assert set(heads.names()) >= {"deconv", "linear", "segformer", "upernet", "mask2former"}


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


@pytest.mark.parametrize("name", ["segformer", "upernet", "mask2former"])
def test_heads_on_stages_reach_every_stage(name):
    sizes = {4: (12, 16), 8: (6, 8), 16: (3, 4), 32: (2, 2)}  # the last one rounded up, as a padding backbone does
    maps = [torch.randn(2, 8 * i, *size, requires_grad=True) for i, size in enumerate(sizes.values(), 1)]
    head = build(name, in_channels=(8, 16, 24, 32), strides=tuple(sizes)).train()
    head.loss(maps, targets(), SIZE).backward()
    assert all(x.grad.abs().sum() > 0 for x in maps)
    assert [key for key, p in head.named_parameters() if p.requires_grad and p.grad is None] == []
    assert head.eval().predict(maps, SIZE).shape == (2, CLASSES, *SIZE)


def test_upernets_auxiliary_head_adds_its_weighted_loss():
    maps = features()
    losses = []
    for weight in (0.0, 0.4, 0.8):
        head = build("upernet", auxiliary_weight=weight, dropout=0.0)
        head.load_state_dict(build("upernet", dropout=0.0).state_dict(), strict=False)
        losses.append(head.loss(maps, targets(), SIZE).item())
    assert losses[1] - losses[0] == pytest.approx(losses[2] - losses[1]) and losses[1] > losses[0] + 0.1


def test_upernets_layers_are_the_papers():
    widths, c, auxiliary = (8, 16, 24, 40), 64, 32
    head = build("upernet", in_channels=widths, strides=(4, 8, 16, 32), channels=c)

    def conv(before, after, kernel):  # with a norm, without bias
        return before * after * kernel**2 + 2 * after

    pooling = 4 * conv(40, c, 1) + conv(40 + 4 * c, c, 3)
    laterals = sum(conv(width, c, 1) + conv(c, c, 3) for width in widths[:3])
    decoder = pooling + laterals + conv(4 * c, c, 3) + CLASSES * (c + 1)
    assert sum(p.numel() for p in head.head.parameters()) == decoder
    assert sum(p.numel() for p in head.auxiliary.parameters()) == conv(24, auxiliary, 3) + CLASSES * (auxiliary + 1)


def test_the_linear_head_is_one_matrix():
    head, maps = build("linear"), features()
    weight, bias = head.classify.weight[:, :, 0, 0], head.classify.bias
    logits = torch.einsum("bdhw,cd->bchw", maps[0], weight) + bias[:, None, None]
    wanted = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear")
    torch.testing.assert_close(head.predict(maps, SIZE), wanted)
    assert sum(p.numel() for p in head.parameters()) == CLASSES * 33


def test_masks_without_labels_are_harmless(name):
    head, maps = build(name).train(), features()
    loss = head.loss(maps, {"mask": torch.full((2, *SIZE), IGNORE)}, SIZE)
    loss.backward()
    assert loss.isfinite()
    assert maps[-1].grad.isfinite().all()


def test_a_few_steps_lower_the_loss(name):
    head, maps, mask = build(name).train(), features(), torch.zeros(2, *SIZE, dtype=torch.long)
    mask[..., 32:] = 1
    values = training.losses(head, maps, {"mask": mask}, SIZE, steps=6, lr=3e-2 if name == "linear" else 3e-3)
    assert values[-1] < 0.9 * values[0]


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
