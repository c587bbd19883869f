"""What every method must keep to, whatever it does; a new file in `sigma_ray/adapters/` is tested at once."""

import dataclasses

import pytest
import torch

from sigma_ray import adapters, components

# What makes a method fit two blocks where its defaults assume twelve.
OPTIONS = {"vit_split": {"num_task_blocks": 1, "num_prior_blocks": 2, "start": 0}}
IMAGES = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=adapters.names())
def name(request):
    return request.param


def attached(make_backbone, name):
    """A backbone with the method; skips where the method refuses the family, in one line that says so."""
    backbone = make_backbone()
    torch.manual_seed(1)
    try:
        return adapters.attach(backbone, name, **OPTIONS.get(name, {}))
    except ValueError as error:
        refusal = str(error)
    assert f"cannot run on {backbone.name}" in refusal and "\n" not in refusal
    assert backbone.family != "vit", "every method runs on plain ViTs"
    pytest.skip(refusal)


def train_two_steps(backbone):
    backbone.train()
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-2) if parameters else None
    channels, stride = backbone.out_channels[-1], backbone.stride
    target = torch.randn(2, channels, 16 // stride, 32 // stride, generator=torch.Generator().manual_seed(2))
    for _ in range(2 if optimizer else 0):
        optimizer.zero_grad()
        (backbone(IMAGES)[0] - target).square().mean().backward()
        optimizer.step()
    return backbone.eval()


def test_the_methods_are_here():
    assert {"sigma", "fixed", "full", "adapter", "lora"} <= set(adapters.names())


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"adapter must be one of .*sigma"):
        adapters.load("nope")


def test_static_config_equals_the_imported_one(name):
    static, imported = components.config_class("adapter", name), adapters.load(name).Config
    assert dataclasses.asdict(static()) == dataclasses.asdict(imported())


def test_only_its_own_parameters_require_grad(make_backbone, name):
    frozen_names = {key for key, _ in make_backbone().named_parameters()}
    backbone = attached(make_backbone, name)
    trainable = {key for key, p in backbone.named_parameters() if p.requires_grad}
    assert set(adapters.adapter_state(backbone)) >= trainable
    expected = sum(p.numel() for key, p in backbone.named_parameters() if key in trainable)
    assert adapters.trainable_parameters(backbone) == expected
    assert bool(trainable) is (name != "fixed")
    if name in ("sigma", "adapter", "lora"):
        assert not trainable & frozen_names


@torch.no_grad()  # with gradients, attention may take another kernel, which rounds differently
def test_starts_equal_to_the_backbone(make_backbone, name):
    expected = make_backbone()(IMAGES)[0]
    backbone = attached(make_backbone, name).eval()
    if adapters.load(name).STARTS_EQUAL:
        assert torch.equal(backbone(IMAGES)[0], expected)
    else:
        assert not torch.equal(backbone(IMAGES)[0], expected)


def test_two_steps_move_every_own_parameter_and_no_other(make_backbone, name):
    backbone = attached(make_backbone, name)
    before = {key: p.detach().clone() for key, p in backbone.named_parameters()}
    train_two_steps(backbone)
    moved = {key for key, p in backbone.named_parameters() if not torch.equal(p, before[key])}
    assert moved == {key for key, p in backbone.named_parameters() if p.requires_grad}


def test_state_restores_the_output_on_a_fresh_backbone(make_backbone, name):
    trained = train_two_steps(attached(make_backbone, name))
    fresh = attached(make_backbone, name).eval()
    adapters.load_adapter_state(fresh, {key: t.clone() for key, t in adapters.adapter_state(trained).items()})
    assert torch.equal(fresh(IMAGES)[0], trained(IMAGES)[0])


def test_state_that_does_not_fit_is_refused(make_backbone, name):
    backbone = attached(make_backbone, name)
    state = adapters.adapter_state(backbone)
    with pytest.raises(ValueError, match="unexpected nonsense"):
        adapters.load_adapter_state(backbone, state | {"nonsense": torch.zeros(1)})
    for key, tensor in list(state.items())[:1]:
        with pytest.raises(ValueError, match=f"missing {key}"):
            adapters.load_adapter_state(backbone, {k: v for k, v in state.items() if k != key})
        with pytest.raises(ValueError, match="instead of"):
            adapters.load_adapter_state(backbone, state | {key: torch.zeros(*tensor.shape, 2)})


@pytest.mark.parametrize("shape", [(1, 3, 16, 32), (1, 3, 32, 8), (3, 3, 24, 24)])
def test_any_batch_and_grid(make_backbone, name, shape):
    backbone = train_two_steps(attached(make_backbone, name))
    (features,) = backbone(torch.randn(*shape))
    cells = shape[2] // backbone.stride, shape[3] // backbone.stride
    assert features.shape == (shape[0], backbone.out_channels[-1], *cells)
    assert features.isfinite().all()


def test_an_image_does_not_depend_on_its_batch(make_backbone, name):
    backbone = train_two_steps(attached(make_backbone, name))
    torch.testing.assert_close(backbone(IMAGES)[0][1:], backbone(IMAGES[1:])[0])


def test_attaching_twice_is_refused(make_backbone, name):
    backbone = attached(make_backbone, name)
    with pytest.raises(ValueError, match=f"it has {name} and lora was to be attached; load a fresh backbone"):
        adapters.attach(backbone, "lora")


def test_unknown_option_is_refused(make_backbone, name):
    with pytest.raises(ValueError, match=f"options of adapter {name} .* but got wrong"):
        adapters.attach(make_backbone(), name, wrong=1)


def test_bfloat16_autocast_trains(make_backbone, name):
    backbone = train_two_steps(attached(make_backbone, name)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (features,) = backbone(IMAGES)
        loss = features.float().square().mean()
    if loss.requires_grad:
        loss.backward()
    assert features.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters() if p.requires_grad)


def test_bfloat16_output_is_close_to_float32(make_backbone, name):
    backbone = train_two_steps(attached(make_backbone, name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (features,) = backbone(IMAGES)
    torch.testing.assert_close(features.float(), backbone(IMAGES)[0], rtol=0.1, atol=0.15)


def test_frozen_modules_stay_in_evaluation_mode(make_backbone, name):
    backbone = attached(make_backbone, name).train()
    own = {id(m) for m in backbone.modules() if not getattr(m, "frozen", False)}
    assert all(m.training is (id(m) in own) for m in backbone.modules())
    assert not any(m.training for m in backbone.eval().modules())


def gradients(backbone, images):
    """Output and gradients of a squared sum, in evaluation mode, where dropout rests."""
    backbone.zero_grad()
    (features,) = backbone.eval()(images)
    if features.requires_grad:
        features.square().mean().backward()
    return features, {key: p.grad.clone() for key, p in backbone.named_parameters() if p.grad is not None}


def test_channels_last_is_the_same(make_backbone, name):
    backbone = train_two_steps(attached(make_backbone, name))
    expected = gradients(backbone, IMAGES)
    other = gradients(backbone.to(memory_format=torch.channels_last), IMAGES.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_is_the_same(make_backbone, name):
    backbone = train_two_steps(attached(make_backbone, name))
    expected = gradients(backbone, IMAGES)
    backbone.gradient_checkpointing = True
    torch.testing.assert_close(gradients(backbone, IMAGES), expected, rtol=1e-4, atol=1e-6)


def test_cached_features_are_the_same(make_backbone, name):
    backbone = train_two_steps(attached(make_backbone, name))
    if backbone.cacheable_blocks():
        with torch.no_grad():
            maps = backbone.from_prefix(backbone.prefix(IMAGES), *IMAGES.shape[-2:])
            torch.testing.assert_close(maps, backbone(IMAGES))
    early = name not in ("fixed", "partial", "vit_split") or backbone.family == "swin"
    assert (backbone.cacheable_blocks() == 0) is early


@pytest.mark.parametrize(
    "make_backbone",
    [
        "class_token",
        pytest.param("sam", marks=pytest.mark.slow),
        pytest.param("swin", marks=pytest.mark.slow),
    ],
    indirect=True,
)
def test_compiled_is_the_same(make_backbone, name):
    """Captured and differentiated by the compiler; its code generator is left out, which takes minutes here."""
    backbone = train_two_steps(attached(make_backbone, name))
    expected = gradients(backbone, IMAGES)
    torch._dynamo.reset()
    backbone.forward = torch.compile(backbone.forward, backend="aot_eager")
    torch.testing.assert_close(gradients(backbone, IMAGES), expected, rtol=1e-3, atol=1e-5)
