"""SAM's image encoder against timm's: features, positions, weights, published sizes."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from tiny_backbones import build_tiny_sam
from torch import nn

from sigma_ray import adapters, pretrained
from sigma_ray import backbone as backbones

SIZES = [(64, 64), (32, 64), (72, 40), (8, 24)]


def make_sam(seed=0, **options):
    torch.manual_seed(seed)
    return build_tiny_sam(**{"depth": 4, "global_attn_indexes": (1, 3)} | options)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"neck_chans": None}, {"use_abs_pos": False}, {"init_values": 0.5}], ids=str)
@torch.no_grad()
def test_maps_are_timms(size, options):
    sam = make_sam(**options)
    images = torch.randn(2, 3, *size)
    final, intermediates = sam.forward_intermediates(images, indices=[0, 1, 3])
    assert torch.equal(sam.forward_features(images), final)
    backbone = backbones.wrap(sam, "tiny")
    torch.testing.assert_close(backbone(images), [final])
    backbone.out_indices = (0, 1, 3)
    torch.testing.assert_close(backbone(images), [*intermediates[:2], final])
    assert backbone.out_channels == tuple(features.shape[1] for features in backbone(images))
    backbone.out_indices = (2,)
    assert backbone.out_channels == (24,) and backbone(images)[0].shape[1] == 24
    assert set(backbone.state_dict()) == set(sam.state_dict())


def test_description():
    backbone = backbones.wrap(make_sam(), "tiny")
    assert (backbone.family, backbone.embed_dim, backbone.num_prefix_tokens) == ("sam", 24, 0)
    assert (backbone.patch_size, backbone.stride, backbone.out_channels) == (8, 8, (16,))
    assert [block.dim for block in backbone.blocks] == [24] * 4
    with pytest.raises(ValueError, match="multiples of the patch size 8, but got 60x64; resize or pad to 64x64"):
        backbone(torch.randn(1, 3, 60, 64))


def test_frozen_in_evaluation_mode():
    backbone = backbones.wrap(make_sam(attn_drop_rate=0.5), "tiny").train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    twin, images = copy.deepcopy(backbone).train(), torch.randn(1, 3, 32, 64)
    assert torch.equal(twin(images)[0], backbone(images)[0])
    assert not any(module.training for module in twin.modules())


class Last(nn.Module):
    """An output site that returns the last stream."""

    reads = (1, 3)

    def forward(self, streams, norm, grid, run):
        assert {index: stream.shape for index, stream in streams.items()} == {1: (1, 32, 24), 3: (1, 32, 24)}
        return backbones.to_map(norm(backbones.patches(streams[3], grid)), grid)


def test_the_map_of_an_output_site_goes_through_the_neck():
    backbone = backbones.wrap(make_sam(), "tiny")
    images = torch.randn(1, 3, 32, 64)
    expected = backbone(images)[0]
    backbone.sites["output"] = Last()
    assert torch.equal(backbone(images)[0], expected)
    backbone.out_indices = (0, 2)
    assert backbone.out_channels == (16,) and torch.equal(backbone(images)[0], expected)


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (96, 80)])
@pytest.mark.parametrize("published", [False, True])
@torch.no_grad()
def test_weights_of_another_image_size(tmp_path, size, published):
    source = make_sam(seed=3, num_classes=5)
    state = source.state_dict()
    if published:  # Segment Anything's own names, among those of its other parts
        state = {f"image_encoder.{name.replace('mlp.fc', 'mlp.lin')}": value for name, value in state.items()}
        state = {name: value for name, value in state.items() if ".head." not in name}
        state["mask_decoder.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "sam.safetensors")
    sam = make_sam(img_size=size)
    backbone = backbones.wrap(sam, "tiny")
    pretrained.load_file(backbone, sam, tmp_path / "sam.safetensors")
    assert backbone.pos_embed.shape == (1, size[0] // 8, size[1] // 8, 24)
    assert len(backbone.blocks[3].attn.rel_pos_w) == 2 * (size[1] // 8) - 1
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(backbone(images)[0], source.forward_features(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("pos_embed"), r"missing pos_embed \(1, 8, 8, 24\)"),
        (lambda state: state.pop("blocks.1.attn.rel_pos_h"), r"missing blocks.1.attn.rel_pos_h \(15, 12\)"),
        (lambda state: state.pop("neck.0.weight"), r"missing neck.0.weight"),
        (lambda state: state.update({"pos_embed": torch.zeros(1, 65, 24)}), r"pos_embed is \(1, 65, 24\) instead of"),
        (
            lambda state: state.update(make_sam(window_size=4).state_dict()),
            r"rel_pos_h is \(7, 12\) instead of \(5, 12",
        ),
    ],
)
def test_misfitting_weights_are_refused(tmp_path, change, message):
    sam = make_sam()
    state = dict(sam.state_dict())
    change(state)
    save_file(state, tmp_path / "sam.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        pretrained.load_file(backbones.wrap(sam, "tiny"), sam, tmp_path / "sam.safetensors")
    assert "\n" not in str(error.value) and "weights do not fit backbone tiny" in str(error.value)


def test_published_sizes():
    with torch.device("meta"):
        backbone = backbones.load("sam_base", weights=None)
    named = dict(backbone.named_parameters())
    assert sum(p.numel() for p in named.values()) == 89_670_912
    assert sum(p.numel() for name, p in named.items() if name.endswith("bias")) == 102_656
    assert sum(p.numel() for p in backbone.blocks[-1].parameters()) == 7_104_128
    assert (backbone.stride, backbone.out_channels, backbone.embed_dim) == (16, (256,), 768)
    assert adapters.trainable_parameters(adapters.attach(backbone, "sigma")) == 1_480_704


def test_image_size_at_load():
    with torch.device("meta"):
        backbone = backbones.load("sam_base", weights=None, image_size=(512, 640))
        assert backbone.pos_embed.shape == (1, 32, 40, 768)
        assert [len(backbone.blocks[index].attn.rel_pos_w) for index in (0, 2)] == [27, 79]
        with pytest.raises(ValueError, match="multiples of the patch size 16, but got 500x640"):
            backbones.load("sam_base", weights=None, image_size=(500, 640))
