"""Swin against timm's: features of every stage, windows, weights, what it refuses."""

import copy
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from tiny_backbones import build_tiny_swin
from torch import nn

from sigma_ray import backbone as backbones
from sigma_ray import pretrained

SIZES = [(64, 64), (32, 64), (96, 40), (8, 24)]
TINY = "swin_tiny_patch4_window7_224"


def make_swin(seed=0, **options):
    torch.manual_seed(seed)
    return build_tiny_swin(**options)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options", [{}, {"img_size": (32, 16)}, {"window_size": 3}, {"always_partition": True}], ids=str
)
@torch.no_grad()
def test_maps_are_timms(size, options):
    swin = make_swin(**options)
    images = torch.randn(2, 3, *size)
    intermediates = swin.forward_intermediates(images, indices=[0, 1], norm=True, intermediates_only=True)
    final = swin.forward_features(images).permute(0, 3, 1, 2)
    first = swin.layers[0].blocks[0](swin.patch_embed(images)).permute(0, 3, 1, 2)
    backbone = backbones.wrap(swin, "tiny")
    torch.testing.assert_close(backbone(images), [final])
    backbone.out_indices = (0, 1, 3)
    torch.testing.assert_close(backbone(images), [first, *intermediates])
    assert backbone.out_channels == tuple(features.shape[1] for features in backbone(images)) == (16, 16, 32)
    assert set(backbone.state_dict()) == set(swin.state_dict())


@torch.no_grad()
def test_maps_of_last_stage_blocks_are_normalised():
    backbone = backbones.wrap(make_swin(), "tiny")
    backbone.out_indices = (2,)
    streams = []
    backbone.layers[1].blocks[0].register_forward_hook(lambda module, args, output: streams.append(output))
    (features,) = backbone(torch.randn(1, 3, 32, 64))
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), backbone.norm(streams[0]))


def test_description():
    backbone = backbones.wrap(make_swin(), "tiny")
    assert (backbone.family, backbone.embed_dim, backbone.num_prefix_tokens) == ("swin", 32, 0)
    assert (backbone.patch_size, backbone.stride, backbone.out_channels) == (4, 8, (32,))
    assert [block.dim for block in backbone.blocks] == [16, 16, 32, 32]
    assert backbone.blocks[3] is backbone.layers[1].blocks[1]
    with pytest.raises(ValueError, match="multiples of the stride 8, but got 60x64; resize or pad to 64x64") as error:
        backbone(torch.randn(1, 3, 60, 64))
    assert "\n" not in str(error.value)


def test_frozen_in_evaluation_mode():
    backbone = backbones.wrap(make_swin(drop_path_rate=0.5), "tiny").train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    twin, images = copy.deepcopy(backbone).train(), torch.randn(1, 3, 32, 64)
    assert torch.equal(twin(images)[0], backbone(images)[0])
    assert not any(module.training for module in twin.modules())


def test_an_output_site_is_refused():
    backbone = backbones.wrap(make_swin(), "tiny")
    message = "Identity cannot run on tiny: an output site needs blocks of one width, but these have 16, 32 channels"
    with pytest.raises(ValueError, match=message) as error:
        backbone.sites["output"] = nn.Identity()
    assert "\n" not in str(error.value)


def original_names(state):
    """The names of Microsoft's files: a stage ends with its downsampling, and sizes leave buffers behind."""
    renamed = {
        re.sub(r"layers\.(\d+)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", name): value
        for name, value in state.items()
    }
    renamed = {name.replace("head.fc.", "head."): value for name, value in renamed.items()}
    buffers = {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}
    buffers["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    return renamed | buffers


@pytest.mark.parametrize("names", [dict, original_names])
@torch.no_grad()
def test_weights_of_another_image_size(tmp_path, names):
    source = make_swin(seed=3, num_classes=5, img_size=128, strict_img_size=True)
    save_file(names(source.state_dict()), tmp_path / "swin.safetensors")
    swin = make_swin()
    backbone = backbones.wrap(swin, "tiny")
    pretrained.load_file(backbone, swin, tmp_path / "swin.safetensors")
    images = torch.randn(2, 3, 128, 128)
    torch.testing.assert_close(backbone(images)[0], source.forward_features(images).permute(0, 3, 1, 2))


@torch.no_grad()
def test_weights_of_another_window_are_resampled(tmp_path):
    source, twin, swin = make_swin(seed=3), make_swin(seed=3), make_swin(window_size=5)
    save_file(source.state_dict(), tmp_path / "swin.safetensors")
    twin.set_input_size(img_size=(64, 64), window_size=5)
    backbone = backbones.wrap(swin, "tiny")
    pretrained.load_file(backbone, swin, tmp_path / "swin.safetensors")
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(backbone(images)[0], twin.forward_features(images).permute(0, 3, 1, 2))


def test_misfitting_weights_are_refused(tmp_path):
    swin = make_swin()
    save_file(make_swin(embed_dim=24).state_dict(), tmp_path / "swin.safetensors")
    with pytest.raises(ValueError, match=r"weights do not fit backbone tiny: .* is .* instead of"):
        pretrained.load_file(backbones.wrap(swin, "tiny"), swin, tmp_path / "swin.safetensors")
    vit = timm.create_model("vit_tiny_patch16_224", depth=1)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match="weights do not fit backbone tiny: "):
        pretrained.load_file(backbones.wrap(swin, "tiny"), swin, tmp_path / "vit.safetensors")


@torch.no_grad()
def test_a_loaded_model_is_timms():
    torch.manual_seed(0)
    swin = timm.create_model(TINY, num_classes=0, strict_img_size=False).eval()
    torch.manual_seed(0)
    backbone = backbones.load(TINY, weights=None)
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(backbone(images)[0], swin.forward_features(images).permute(0, 3, 1, 2))
    assert not any(isinstance(module, DropPath) for module in backbone.modules())


@pytest.mark.parametrize(
    ("image_size", "last_shift"),
    [(None, (0, 0)), ((64, 64), (0, 0)), ((224, 256), (0, 3)), ((512, 64), (3, 0)), ((512, 512), (3, 3))],
)
def test_windows_keep_their_size_whatever_the_image(image_size, last_shift):
    with torch.device("meta"):
        backbone = backbones.load("swin_base", weights=None, image_size=image_size)
    assert {block.window_size for block in backbone.blocks} == {(7, 7)}
    assert {tuple(block.attn.relative_position_bias_table.shape[:1]) for block in backbone.blocks} == {(169,)}
    shifts = [block.shift_size for block in backbone.blocks]
    assert shifts == [(0, 0), (3, 3)] * 11 + [(0, 0), last_shift]
    assert (backbone.stride, backbone.embed_dim, backbone.out_channels) == (32, 1024, (1024,))
    if image_size is not None and min(image_size) >= 224:
        with torch.device("meta"):
            swin = timm.create_model("swin_base_patch4_window7_224", img_size=image_size, window_size=7)
        assert shifts == [block.shift_size for stage in swin.layers for block in stage.blocks]


def test_image_sizes_at_load_are_checked():
    with torch.device("meta"), pytest.raises(ValueError, match="multiples of the stride 32, but got 224x240"):
        backbones.load("swin_base", weights=None, image_size=(224, 240))
