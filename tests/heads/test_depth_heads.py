"""What every depth head must keep to; a new file in `sigma_ray/heads/` with this task is tested at once."""

import pytest
import torch
import training
from safetensors.torch import save
from torch.nn import functional as F

from sigma_ray import components, heads
from sigma_ray.data import Info

SMALL = {"dpt": {"neck_channels": (8, 16, 24, 32), "channels": 16}, "linear_depth": {"num_bins": 32}}
SIZE = (48, 64)
INFO = Info(image_size=SIZE, min_depth=0.5, max_depth=20.0)
NAMES = [name for name in heads.names() if components.config_class("head", name).task == "depth"]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def build(name, seed=0, in_channels=None, strides=None, **options):
    module = heads.load(name)
    config = module.Config(**(SMALL.get(name, {}) | options))
    count = 4 if config.maps == "spread" else 1
    torch.manual_seed(seed)
    return module.build(config, in_channels=in_channels or (32,) * count, strides=strides or (16,) * count, info=INFO)


def features(name, size=(3, 4)):
    generator = torch.Generator().manual_seed(1)
    count = 4 if components.config_class("head", name).maps == "spread" else 1
    return [torch.randn(2, 32, *size, generator=generator).requires_grad_() for _ in range(count)]


def targets():
    depth = 0.5 + 19 * torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(2))
    depth[:, :5] = 0
    return {"depth": depth}


def test_heads_are_found():
    assert set(NAMES) >= {"dpt", "linear_depth"}


def test_predictions_are_metres_at_the_images_size(name):
    head = build(name).eval()
    with torch.no_grad():
        prediction = head.predict([50 * x for x in features(name)], SIZE)
    assert prediction.shape == (2, *SIZE) and prediction.dtype == torch.float32
    assert (prediction >= 0.5 - 1e-5).all() and (prediction <= 20 + 1e-4).all()
    assert prediction.std() > 0


def test_the_gradient_reaches_features_and_every_parameter(name):
    head, maps = build(name).train(), features(name)
    loss = head.loss(maps, targets(), SIZE)
    assert loss.shape == () and loss.dtype == torch.float32
    loss.backward()
    assert all(x.grad.abs().sum() > 0 for x in maps)
    # A parameter without a gradient would stop DistributedDataParallel at its second step.
    assert [key for key, p in head.named_parameters() if p.requires_grad and p.grad is None] == []


def test_images_without_measurements_are_harmless(name):
    head, maps = build(name).train(), features(name)
    loss = head.loss(maps, {"depth": torch.zeros(2, *SIZE)}, SIZE)
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in head.parameters())


def test_a_few_steps_lower_the_loss(name):
    head, maps, depth = build(name).train(), features(name), torch.full((2, *SIZE), 2.0)
    depth[..., 32:] = 15.0
    values = training.losses(head, maps, {"depth": depth}, SIZE, steps=12, lr=1e-2)
    assert values[-1] < 0.9 * values[0]


def test_the_same_seed_gives_the_same_head(name):
    first, second, third = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


def test_its_state_can_be_saved(name):
    assert save({key: value.contiguous() for key, value in build(name).state_dict().items()})


def test_under_bfloat16_autocast_depth_stays_float32(name):
    head = build(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss(features(name), targets(), SIZE)
        prediction = head.predict(features(name), SIZE)
    loss.backward()
    assert loss.dtype == prediction.dtype == torch.float32
    torch.testing.assert_close(prediction, head.predict(features(name), SIZE), rtol=0.05, atol=0.05)


def test_patch_14_with_an_odd_grid(name):
    count = len(features(name))
    head = build(name, strides=(14,) * count)
    assert head.predict(features(name, (5, 7)), (70, 98)).shape == (2, 70, 98)


def test_linear_depth_is_a_mean_of_bins():
    head, maps = build("linear_depth", num_bins=16), features("linear_depth")
    up = F.interpolate(maps[0], scale_factor=4, mode="bilinear")  # DINOv2's order: features are resized
    logits = torch.einsum("bdhw,kd->bkhw", up, head.classify.weight[:, :, 0, 0]) + head.classify.bias[:, None, None]
    share = torch.relu(logits) + 0.1
    share = share / share.sum(1, keepdim=True)
    wanted = sum(share[:, k] * (0.5 + 19.5 * k / 15) for k in range(16))
    wanted = F.interpolate(wanted[:, None], size=SIZE, mode="bilinear")[:, 0]
    torch.testing.assert_close(head.predict(maps, SIZE), wanted)


@pytest.mark.parametrize("grid", [(4, 6), (3, 5)])
def test_dpt_is_depth_anythings(grid):
    from transformers import DepthAnythingConfig
    from transformers.models.depth_anything.modeling_depth_anything import (
        DepthAnythingDepthEstimationHead,
        DepthAnythingNeck,
    )

    head, maps = build("dpt"), features("dpt", grid)
    config = DepthAnythingConfig(
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        patch_size=16,
        depth_estimation_type="metric",
    )
    neck, theirs = DepthAnythingNeck(config), DepthAnythingDepthEstimationHead(config)
    ours = head.state_dict()
    parts = {"reassemble.": "reassemble_stage.layers.", "convs.": "convs.", "fusion.": "fusion_stage."}
    state = {
        new + key.removeprefix(old): x for old, new in parts.items() for key, x in ours.items() if key.startswith(old)
    }
    missing, unexpected = neck.load_state_dict(state, strict=False)
    assert not unexpected and all(key.startswith("fusion_stage.layers.0.residual_layer1.") for key in missing)
    last = {"conv1": "reduce", "conv2": "regress.0", "conv3": "regress.2"}
    theirs.load_state_dict({f"{new}.{p}": ours[f"{old}.{p}"] for new, old in last.items() for p in ("weight", "bias")})
    tokens = [torch.cat([torch.zeros(2, 1, 32), x.flatten(2).mT], dim=1) for x in maps]
    wanted = 0.5 + 19.5 * theirs(neck(tokens, *grid), *grid)  # its largest depth is 1
    torch.testing.assert_close(head.predict(maps, (16 * grid[0], 16 * grid[1])), wanted)


def test_dpts_count_is_that_of_depth_anything():
    module = heads.load("dpt")
    with torch.device("meta"):
        head = module.build(module.Config(), in_channels=(768,) * 4, strides=(14,) * 4, info=INFO)
    unused = 2 * (9 * 128**2 + 128)  # the residual unit that is left out here
    assert sum(p.numel() for p in head.parameters()) + unused == 10_890_305


def test_dpt_on_stages_keeps_their_resolutions():
    head = build("dpt", in_channels=(8, 16, 24, 40), strides=(4, 8, 16, 32))
    maps = [torch.randn(2, d, 24 // k, 32 // k, requires_grad=True) for d, k in ((8, 1), (16, 2), (24, 4), (40, 8))]
    assert all(isinstance(layer.resize, torch.nn.Identity) for layer in head.reassemble)
    head.loss(maps, targets(), SIZE).backward()
    assert all(x.grad.abs().sum() > 0 for x in maps)
    assert [key for key, p in head.named_parameters() if p.grad is None] == []


def test_dpt_norms_maps_of_several_widths():
    """SAM's blocks give their raw streams, and its last map went through the neck."""
    widths = (32, 32, 32, 16)
    head = build("dpt", in_channels=widths)
    maps = [torch.randn(2, d, 3, 4) for d in widths]
    prediction = head.predict(maps, SIZE)
    torch.testing.assert_close(head.predict([100 * x for x in maps], SIZE), prediction, rtol=1e-3, atol=1e-3)
    assert build("dpt").stages is None


def test_dpt_reads_a_single_map_four_times():
    single = build("dpt", in_channels=(32,), strides=(16,))
    x = features("dpt")[0]
    assert torch.equal(single.predict([x], SIZE), build("dpt").predict([x] * 4, SIZE))


def test_what_dpt_cannot_work_on_is_refused():
    module = heads.load("dpt")
    with pytest.raises(ValueError, match="1 or 4 maps, but got 2"):
        build("dpt", in_channels=(32, 32), strides=(4, 8))
    with pytest.raises(ValueError, match="strides double"):
        build("dpt", strides=(4, 12, 16, 32))
    with pytest.raises(ValueError, match=r"neck_channels must be four .*\(8, 16\)"):
        module.Config(neck_channels=(8, 16))
    with pytest.raises(ValueError, match=r"channels must be even.*15"):
        module.Config(channels=15)
    with pytest.raises(ValueError, match="num_bins must be at least 2"):
        heads.load("linear_depth").Config(num_bins=1)
