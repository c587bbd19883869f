"""SIGMA against its equations, written out with loops, for every option; and the published counts."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from sigma_ray import adapters
from sigma_ray import backbone as backbones
from sigma_ray.adapters.sigma import Config
from sigma_ray.backbone import wrap

GRID = (3, 4)
VARIANTS = [
    {},
    {"kernel_sizes": (3,)},
    {"kernel_sizes": (1, 9)},
    {"modulation": "dynamic3"},
    {"modulation": "dynamic4"},
    {"modulation": "none"},
    {"pw_input": "concat", "modulation": "dynamic4"},
    {"pw_input": "concat", "modulation": "none"},
    {"mod_input": "pooled"},
    {"dw_reduce": "sum"},
    {"pw_residual": True},
    {"fusion": False},
    {"fusion": False, "mod_input": "pooled"},
    {"fusion": False, "modulation": "none"},
    {"prefix": "center_tap"},
    {"prefix": "center_tap", "mod_input": "pooled"},
    {"attn": False},
    {"ffn": False},
]


def randomised(tiny_vit, **options):
    """A one-block backbone whose SIGMA parameters are all drawn at random, none left at zero or one."""
    torch.manual_seed(0)
    backbone = wrap(tiny_vit("class_token", depth=1), "tiny")
    adapters.attach(backbone, "sigma", bottleneck_dim=5, **options)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return backbone.double()


def depthwise(u, weight, bias):
    """Cross-correlate a (h, w, r) map with r kernels, tap by tap, zeros outside."""
    (height, width, _), reach = u.shape, weight.shape[-1] // 2
    out = bias.expand(height, width, -1).clone()
    for y, x, dy, dx in itertools.product(range(height), range(width), *[range(-reach, reach + 1)] * 2):
        if 0 <= y + dy < height and 0 <= x + dx < width:
            out[y, x] += weight[:, 0, dy + reach, dx + reach] * u[y + dy, x + dx]
    return out


def transform(u, p, cfg):
    """Z of one image's map U (h, w, r), straight from the equations."""
    r, num, fusion = u.shape[-1], len(cfg.kernel_sizes), cfg.fusion
    source = u.mean(dim=(0, 1)).expand_as(u) if cfg.mod_input == "pooled" else u
    m = None if cfg.modulation == "none" else source @ p["modulation.project.weight"].T + p["modulation.project.bias"]

    def group(i):
        return m[..., i * r : (i + 1) * r]

    if not fusion:
        return u if m is None else (1 + group(0)) * u + group(1)
    groups = [(0.0, 0.0)] * (num + 1)
    if cfg.pw_input == "concat" and m is not None:
        groups = [(group(i), p["modulation.shifts"][i]) for i in range(num + 1)]
    elif m is not None:
        dynamic = num + (cfg.modulation == "dynamic4")
        groups[:dynamic] = [(group(i), group(dynamic + i)) for i in range(dynamic)]
        if cfg.modulation == "dynamic3_static1":
            groups[num] = (p["modulation.scales"][0], p["modulation.shifts"][0])
    filtered = [depthwise(u, p[f"fusion.filters.{i}.weight"], p[f"fusion.filters.{i}.bias"]) for i in range(num)]
    f = [(1 + g) * branch + s for branch, (g, s) in zip(filtered, groups, strict=False)]
    if cfg.pw_input == "concat":
        s = torch.cat([branch + u for branch in f], dim=-1)
    else:
        s = sum(f) / (num if cfg.dw_reduce == "mean" else 1) + u
    z = (1 + groups[num][0]) * (s @ p["fusion.mix.weight"].T + p["fusion.mix.bias"]) + groups[num][1]
    return z + s if cfg.pw_residual else z


def reference(x, module, cfg):
    """SIGMA on a stream (B, 1 + h w, d) with one class token, image by image."""
    p = dict(module.named_parameters())
    out = x.clone()
    for image, (prefix, patches) in enumerate(zip(x[:, :1], x[:, 1:], strict=True)):
        for rows, tokens, grid in ((slice(1, None), patches, GRID), (slice(0, 1), prefix, (1, 1))):
            if len(tokens) == 1 and cfg.prefix == "bypass":
                continue
            h = F.layer_norm(tokens, tokens.shape[-1:], p["norm.weight"], p["norm.bias"])
            u = (h @ p["down.weight"].T + p["down.bias"]).view(*grid, -1)
            z = transform(u, p, cfg).view(len(tokens), -1)
            gelu = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
            out[image, rows] += gelu @ p["up.weight"].T + p["up.bias"]
    return out


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_forward_is_the_equations(tiny_vit, options):
    backbone = randomised(tiny_vit, **options)
    cfg = Config(bottleneck_dim=5, **options)
    sites = backbone.blocks[0].sites
    assert set(sites) == {f"{side}_post" for side in ("attn", "ffn") if getattr(cfg, side)}
    x = torch.randn(2, 13, 24, dtype=torch.float64)
    for module in sites.values():
        torch.testing.assert_close(module(x, GRID), reference(x, module, cfg))


@pytest.mark.parametrize("position", ["post_residual", "pre_residual"])
def test_position(tiny_vit, position):
    block = randomised(tiny_vit, position=position).blocks[0]
    x = torch.randn(2, 13, 24, dtype=torch.float64)
    expected = x
    for side, norm, layer in (("attn", block.norm1, block.attn), ("ffn", block.norm2, block.mlp)):
        y = layer(norm(expected))
        if position == "pre_residual":
            expected = expected + block.sites[f"{side}_out"](y, GRID)
        else:
            expected = block.sites[f"{side}_post"](expected + y, GRID)
    torch.testing.assert_close(block(x, GRID), expected)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_variant_starts_equal_and_trains_every_parameter(tiny_vit, options):
    torch.manual_seed(0)
    backbone = wrap(tiny_vit("class_token"), "tiny")
    images = torch.randn(2, 3, 24, 32)
    expected = backbone(images)[0]
    adapters.attach(backbone, "sigma", bottleneck_dim=4, **options)
    assert torch.equal(backbone(images)[0], expected)
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        backbone(images)[0].sin().mean().backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for p in parameters)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"bottleneck_dim": 16}, 724_992),
        ({"bottleneck_dim": 32}, 1_480_704),
        ({"bottleneck_dim": 64}, 3_250_176),
        ({"bottleneck_dim": 128}, 7_821_312),
        ({"modulation": "dynamic3"}, 1_479_168),
        ({"modulation": "dynamic4"}, 1_529_856),
        ({"modulation": "dynamic4", "pw_input": "concat"}, 1_480_704),
    ],
    ids=str,
)
def test_published_counts_on_dinov2_base(options, count):
    with torch.device("meta"):
        backbone = adapters.attach(backbones.load("dinov2_base", weights=None), "sigma", **options)
    assert adapters.trainable_parameters(backbone) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bottleneck_dim": 0}, "bottleneck_dim must be greater than 0"),
        ({"kernel_sizes": (3, 4)}, "kernel_sizes must be positive odd numbers"),
        ({"kernel_sizes": ()}, "kernel_sizes must be positive odd numbers"),
        ({"modulation": "static"}, "modulation must be one of"),
        ({"attn": False, "ffn": False}, "use adapter fixed"),
        ({"pw_input": "concat"}, "modulation with pw_input=concat must be one of dynamic4, none"),
        ({"pw_input": "concat", "modulation": "none", "pw_residual": True}, "need pw_input=sum"),
        ({"pw_input": "concat", "modulation": "none", "dw_reduce": "sum"}, "need pw_input=sum"),
        ({"fusion": False, "pw_residual": True}, "when fusion is False"),
        ({"fusion": False, "dw_reduce": "sum"}, "when fusion is False"),
        ({"dropout": 1.0}, "dropout must lie in"),
    ],
    ids=str,
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        Config(**options)
    assert "\n" not in str(error.value)
