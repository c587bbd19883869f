"""ViT-Split: its selection, its gate and its heads against the formulas."""

import copy

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from sigma_ray import adapters
from sigma_ray import backbone as backbones
from sigma_ray.adapters.vit_split import Config, Gate, _selection
from sigma_ray.backbone import wrap

IMAGES = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(1))


def tiny(tiny_vit, depth=4, **options):
    torch.manual_seed(0)
    backbone = wrap(tiny_vit("registers_layerscale", depth=depth), "tiny")
    return adapters.attach(backbone, "vit_split", **options)


def mix(module, x):
    x = F.gelu(module.reduce(x))
    return F.gelu(deform_conv2d(x, module.offset(x), module.deform.weight, padding=1))


@pytest.mark.parametrize("parts", ["both", "task", "prior", "sum"])
@torch.no_grad()
def test_heads_are_the_formula(tiny_vit, parts):
    backbone = tiny(tiny_vit, num_task_blocks=2, num_prior_blocks=3, start=0, parts=parts).eval()
    split = backbone.sites["output"]
    for parameter in split.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    grid, x = (2, 4), backbone._begin(IMAGES, (2, 4))
    streams = []
    for block in backbone.blocks:
        x = block(x, grid)
        streams.append(x)

    def final(tokens):
        return backbone.norm(tokens)[:, -8:].transpose(1, 2).reshape(2, 24, 2, 4)

    maps = []
    if parts != "task":
        maps.append(mix(split.prior, torch.cat([final(streams[i]) for i in (0, 2, 3)], dim=1)))
    if parts != "prior":
        x = streams[1]
        for block in split.task:
            x = block(x, grid)
        maps.append(final(x))
    expected = {"both": lambda: mix(split.fusion, torch.cat(maps, dim=1)), "sum": lambda: maps[0] + maps[1]}
    torch.testing.assert_close(backbone(IMAGES)[0], expected.get(parts, lambda: maps[0])())


def test_the_task_head_starts_as_a_copy(tiny_vit):
    backbone = tiny(tiny_vit, num_task_blocks=2, num_prior_blocks=2, start=0)
    for copied, own in zip(backbone.sites["output"].task, list(backbone.blocks)[-2:], strict=True):
        for one, other in zip(copied.parameters(), own.parameters(), strict=True):
            assert torch.equal(one, other) and one is not other and one.requires_grad and not other.requires_grad


def test_no_gradient_enters_the_backbone(tiny_vit):
    backbone = tiny(tiny_vit, num_task_blocks=1, num_prior_blocks=2, start=0).train()
    seen = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    assert backbone(IMAGES)[0].requires_grad
    assert seen == [False] * 4


@pytest.mark.parametrize(
    ("depth", "options", "blocks"),
    [
        (12, {}, [2, 5, 8, 11]),
        (24, {"num_prior_blocks": 8, "start": 2}, [2, 5, 8, 11, 14, 17, 20, 23]),
        (12, {"num_prior_blocks": 3, "start": 0}, [0, 6, 11]),  # 5.5 rounds to the even 6
        (12, {"selection": "last"}, [8, 9, 10, 11]),
        (12, {"selection": "sparse_gate"}, list(range(12))),
    ],
)
def test_selection(depth, options, blocks):
    assert _selection(Config(**options), depth) == blocks


def test_gate_keeps_the_largest_shares_and_lets_gradients_through():
    torch.manual_seed(0)
    gate = Gate(6, 2)
    weights = gate.weights()
    shares = torch.softmax(gate.scores / 0.5, dim=0)
    for column in range(2):
        largest = shares[:, column].sort(descending=True).values[:2]
        kept = weights[:, column][weights[:, column] > 1e-6]
        torch.testing.assert_close(kept.sort(descending=True).values, largest / largest.sum())
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(2))
    maps = [torch.randn(2, 3, 4, 4) for _ in range(6)]
    mixed = gate(maps)
    torch.testing.assert_close(mixed[1], sum(w * m for w, m in zip(weights[:, 1], maps, strict=True)))
    mixed[0].sum().backward()
    assert (gate.scores.grad[:, 0] != 0).all()


def test_sparse_gate_trains(tiny_vit):
    backbone = tiny(tiny_vit, num_task_blocks=1, num_prior_blocks=2, start=0, selection="sparse_gate").train()
    before = copy.deepcopy(backbone.sites["output"].gate.scores)
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    backbone(IMAGES)[0].square().sum().backward()
    optimizer.step()
    assert not torch.equal(backbone.sites["output"].gate.scores, before)


@pytest.mark.parametrize("options", [{"num_task_blocks": 4}, {"num_prior_blocks": 5}, {"start": 3}])
def test_more_blocks_than_there_are_are_refused(tiny_vit, options):
    with pytest.raises(ValueError, match="must find its blocks among the 4 of tiny"):
        tiny(tiny_vit, **({"num_task_blocks": 1, "num_prior_blocks": 3, "start": 0} | options))


@pytest.mark.parametrize(
    ("name", "blocks", "prior", "published"),
    [("dinov2_small", 3, 4, 10.2), ("dinov2_base", 3, 4, 40.5), ("dinov2_large", 4, 8, 88.6)],
)
def test_published_counts_with_the_linear_head(name, blocks, prior, published):
    from sigma_ray import heads
    from sigma_ray.config import component
    from sigma_ray.data import Info

    with torch.device("meta"):
        backbone = backbones.load(name, weights=None)
        head = heads.load("deconv").build(
            component("head", "deconv", num_groups=32),
            in_channels=(backbone.embed_dim,),
            strides=(14,),
            info=Info(image_size=(518, 518), num_classes=150),
        )
        adapters.attach(backbone, "vit_split", num_task_blocks=blocks, num_prior_blocks=prior)
    total = adapters.trainable_parameters(backbone) + sum(p.numel() for p in head.parameters())
    unused = 4 * backbone.embed_dim  # two batch norms that the authors construct; one is never used, one is the head's
    exact = {"dinov2_small": 10_231_098, "dinov2_base": 40_516_026, "dinov2_large": 88_639_674}[name]
    assert total + unused == exact and f"{total / 1e6:.1f}" == f"{published}"
