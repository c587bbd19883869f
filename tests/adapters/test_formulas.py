"""Every module against its paper's formula, written out token by token or layer by layer, in double precision."""

import math

import pytest
import torch
from torch.nn import functional as F

from sigma_ray import adapters
from sigma_ray.adapters import adaptformer, arc, convpass, fact, lorand, mona, repadapter, vpt
from sigma_ray.backbone import wrap

B, D, GRID, PREFIX = 2, 24, (3, 4), 2
N = PREFIX + GRID[0] * GRID[1]


@pytest.fixture
def tokens():
    return torch.randn(B, N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomised(module):
    """The module in double precision and evaluation mode, every parameter drawn anew."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def convolve(cells, kernel):
    """`cells` (h, w, R) filtered with `kernel` (R, R, 3, 3), zeros outside: sums written out."""
    h, w, _ = cells.shape
    out = torch.zeros(h, w, kernel.shape[0], dtype=cells.dtype)
    for i in range(h):
        for j in range(w):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < h and 0 <= j + dj < w:
                        out[i, j] += kernel[:, :, di + 1, dj + 1] @ cells[i + di, j + dj]
    return out


def convolve_tokens(u, kernels):
    """Each image's patches as a map, each prefix token as a map of one cell; `kernels` one for each image."""
    rows = []
    for image, kernel in zip(u, kernels, strict=True):
        prefix = [convolve(token.view(1, 1, -1), kernel).view(1, -1) for token in image[:PREFIX]]
        rows.append(torch.cat([*prefix, convolve(image[PREFIX:].view(*GRID, -1), kernel).flatten(0, 1)]))
    return torch.stack(rows)


def test_adaptformer(tokens):
    module = randomised(adaptformer.Branch(D, 6, scale=0.1, dropout=0.5))
    expected = 0.1 * linear(linear(tokens, module.down).clamp(min=0), module.up)
    torch.testing.assert_close(module(tokens, GRID), expected)


@pytest.mark.parametrize("shared", [True, False])
def test_lorand(tokens, shared):
    module = randomised(lorand.LoRand(D, 10, num_branches=3, kernel_dim=4, shared=shared))
    assert (module.up_kernel is module.down_kernel) is shared
    down = sum(module.down_in[i] @ module.down_kernel[i] @ module.down_out[i] for i in range(3))
    up = sum(module.up_in[i] @ module.up_kernel[i] @ module.up_out[i] for i in range(3))
    expected = tokens + F.gelu(tokens @ down + module.down_bias) @ up + module.up_bias
    torch.testing.assert_close(module(tokens, GRID), expected)


def test_arc(tokens):
    shared = torch.nn.Parameter(torch.randn(D, 5))
    module = randomised(arc.Arc(shared, torch.zeros(5), dropout=0.5))
    w = module.projection
    expected = tokens + ((tokens @ w) * module.coefficients) @ w.T + module.bias
    torch.testing.assert_close(module(tokens, GRID), expected)


def test_repadapter(tokens):
    module = randomised(repadapter.RepAdapter(D, 6, groups=2, scale=0.5, dropout=0.5))
    u = linear(tokens, module.down)
    halves = [u[..., 3 * g : 3 * g + 3] @ module.up[g] for g in range(2)]
    expected = tokens + 0.5 * (torch.cat(halves, dim=-1) + module.up_bias)
    torch.testing.assert_close(module(tokens, GRID), expected)


def test_convpass(tokens):
    module = randomised(convpass.ByPass(D, 5, scale=2.0, dropout=0.5))
    u = quick_gelu(linear(tokens, module.down))
    mixed = convolve_tokens(u, [module.conv.weight] * B) + module.conv.bias
    torch.testing.assert_close(module(tokens, GRID), 2 * linear(quick_gelu(mixed), module.up))


def test_convpass_starts_with_the_identity_kernel():
    module = convpass.ByPass(D, 5, scale=1.0, dropout=0.0)
    x = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(module.conv(x), x)


def test_mona(tokens):
    module = randomised(mona.Mona(D, 6, (3, 5, 7), dropout=0.5))
    x = tokens[:, PREFIX:]
    v = module.norm_scale * F.layer_norm(x, (D,), module.norm.weight, module.norm.bias) + module.skip_scale * x
    u = linear(v, module.down)
    image = u.view(B, *GRID, 6).permute(0, 3, 1, 2)
    branches = [F.conv2d(image, c.weight, c.bias, padding=c.padding, groups=6) for c in module.fusion.filters]
    a = sum(branches).permute(0, 2, 3, 1).reshape(u.shape) / 3 + u
    b = a + linear(a, module.fusion.mix)
    output = module(tokens, GRID)
    torch.testing.assert_close(output[:, PREFIX:], x + linear(F.gelu(b), module.up))
    assert torch.equal(output[:, :PREFIX], tokens[:, :PREFIX])


@pytest.mark.parametrize("hypernet", ["aware", "independent", "none"])
def test_vfm_adapter(tiny_vit, tokens, hypernet):
    r, z, t = 4, 6, 3
    backbone = wrap(tiny_vit("class_token", depth=1), "tiny")
    adapters.attach(
        backbone, "vfm_adapter", bottleneck_dim=r, embedding_dim=z, num_queries=t, hypernet=hypernet, scale=0.5
    )
    module = randomised(backbone.blocks[0].sites["ffn_parallel"])
    patches = tokens[:, PREFIX:]
    if hypernet == "none":
        kernels = [module.kernel.value] * B
    else:
        source, net = module.kernel
        kernels = []
        for image in patches:
            if hypernet == "independent":
                h = source.value[0]
            else:
                p = linear(linear(image, source.inner).clamp(min=0), source.outer)
                h = torch.zeros(z, dtype=p.dtype)
                for query in source.queries:
                    shares = torch.exp(p @ query) / torch.exp(p @ query).sum()
                    h = h + sum(share * row for share, row in zip(shares, p, strict=True))
            rows = linear(h, net.rows).view(r, z)
            kernels.append(torch.stack([linear(row, net.taps).view(r, 3, 3) for row in rows]))
    mixed = convolve_tokens(quick_gelu(linear(tokens, module.down)), kernels)
    torch.testing.assert_close(module(tokens, GRID), 0.5 * linear(quick_gelu(mixed), module.up))


def test_vpt_replaces_the_prompts_of_the_block_before(tokens):
    first, second = (randomised(vpt.Prompts(5, PREFIX, D, 0.1, dropout=0.0)) for _ in range(2))
    second.tokens.data.mul_(2)
    x = second(first(tokens, GRID), GRID)
    assert x.shape == (B, N + 5, D)
    assert torch.equal(x[:, :PREFIX], tokens[:, :PREFIX])
    assert torch.equal(x[:, PREFIX : PREFIX + 5], second.tokens.expand(B, -1, -1))
    assert torch.equal(x[:, PREFIX + 5 :], tokens[:, PREFIX:])


def test_vpt_starts_within_its_bound(tiny_vit):
    backbone = adapters.attach(wrap(tiny_vit("class_token"), "tiny"), "vpt", num_tokens=200)
    bound = math.sqrt(6 / (3 * 8**2 + 24))
    largest = backbone.blocks[0].sites["input"].tokens.abs().max()
    assert 0.95 * bound < largest <= bound


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_fact(tiny_vit, form):
    """Every d x d piece of every weight gets s U Sigma V^T, Sigma of its own or mixed from the core."""
    backbone = adapters.attach(wrap(tiny_vit("class_token"), "tiny"), "fact", rank=3, form=form, scale=2.0)
    wrapped = [m for m in backbone.modules() if isinstance(m, fact.FactLinear)]
    randomised(wrapped[0].factors)
    factors, piece = wrapped[0].factors, 0
    for layer in wrapped:
        base = layer.base.double()
        x = torch.randn(2, 5, base.in_features, dtype=torch.float64)
        expected = linear(x, base)
        for k in range(base.weight.numel() // D**2):
            core = factors.core
            sigma = core[piece] if form == "tt" else sum(factors.mixing[piece, c] * core[c] for c in range(3))
            delta = 2 * factors.first @ sigma @ factors.last  # maps inputs (rows) to outputs (columns)
            part = slice(k * D, (k + 1) * D)
            if base.in_features > base.out_features:
                expected = expected + x[..., part] @ delta
            else:
                expected[..., part] += x @ delta
            piece += 1
        torch.testing.assert_close(layer.double().eval()(x), expected)
    assert piece == 24
