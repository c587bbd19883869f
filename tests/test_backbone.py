"""Plain ViTs against timm's own forward pass; weights that fit, weights that do not; names that load."""

import copy
import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from sigma_ray import backbone as backbones
from sigma_ray import pretrained, vits

PLAIN = [
    "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_siglip_gap_224",
    "deit_tiny_patch16_224",
]


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in PLAIN if timm.is_model(name)])
def test_output_is_timms(name):
    torch.manual_seed(0)
    vit = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    torch.manual_seed(0)
    backbone = backbones.load(name, weights=None)
    backbone.out_indices = (2, 11)
    images = torch.randn(2, 3, 3 * backbone.patch_size, 5 * backbone.patch_size)
    with torch.no_grad():
        expected = vit.forward_intermediates(images, indices=[2, 11], norm=True, intermediates_only=True)
        for features, reference in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(features, reference)
        final = vit.forward_features(images)[:, backbone.num_prefix_tokens :]
        torch.testing.assert_close(backbone(images)[-1].flatten(2).transpose(1, 2), final)
    assert set(backbone.state_dict()) == set(vit.state_dict())
    assert (backbone.mean, backbone.std) == (vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"])


def test_friendly_names_are_models_of_timm():
    for name, timm_name in vits.FRIENDLY.items():
        assert timm.is_model(timm_name), name
        assert timm.get_pretrained_cfg(timm_name).hf_hub_id, name
    assert vits.names()[0] == "scenes_tiny"


def test_scenes_tiny():
    backbone = backbones.load("scenes_tiny", weights=None)
    assert (backbone.embed_dim, backbone.patch_size, backbone.num_prefix_tokens, len(backbone.blocks)) == (
        96,
        8,
        1,
        6,
    )
    assert sum(p.numel() for p in backbone.parameters()) == 696_096
    assert backbone.weights_sha256 is None
    (features,) = backbone(torch.randn(2, 3, 32, 64))
    assert features.shape == (2, 96, 4, 8)


def test_frozen_without_autograd_and_in_evaluation_mode():
    backbone = backbones.load("scenes_tiny", weights=None).train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    assert backbone(torch.randn(1, 3, 64, 64))[0].grad_fn is None
    x = torch.randn(1, 65, 96)
    backbone.blocks[3].add_site("ffn_post", Doubling())
    assert backbone.train().blocks[3].sites["ffn_post"].training
    assert backbone.blocks[2](x, (8, 8)).grad_fn is None
    assert backbone.blocks[3](x, (8, 8)).grad_fn is not None


class Doubling(nn.Module):
    """A site with one parameter."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, grid):
        return self.factor * x


class Last(nn.Module):
    """An output site that reads two streams."""

    reads = (2, 5)

    def forward(self, streams, norm, grid, run):
        assert list(streams) == [2, 5]
        return backbones.to_map(norm(backbones.patches(streams[5], grid)), grid)


def test_output_site_replaces_the_maps():
    backbone = backbones.load("scenes_tiny", weights=None)
    images = torch.randn(1, 3, 32, 64)
    expected = backbone(images)[0]
    backbone.sites["output"] = Last()
    assert torch.equal(backbone(images)[0], expected)


def test_copies_are_independent_and_stay_frozen():
    backbone = backbones.load("scenes_tiny", weights=None)
    twin = copy.deepcopy(backbone).train()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(twin(images)[0], backbone(images)[0])
    assert not any(module.training for module in twin.modules())


@pytest.mark.parametrize("indices", [(), (6,), (-1,), (3, 1), (2, 2)])
def test_out_indices_are_checked(indices):
    backbone = backbones.load("scenes_tiny", weights=None)
    with pytest.raises(ValueError, match=r"ascending block numbers in 0..5"):
        backbone.out_indices = indices


def test_sizes_that_the_patch_does_not_divide_are_refused():
    backbone = backbones.load("scenes_tiny", weights=None)
    with pytest.raises(
        ValueError, match="multiples of the patch size 8, but got 30x64; resize or pad to 32x64"
    ) as error:
        backbone(torch.randn(1, 3, 30, 64))
    assert one_line(error)
    with pytest.raises(ValueError, match="multiples of the patch size 8, but got 60x64"):
        backbones.load("scenes_tiny", weights=None, image_size=(60, 64))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "one of scenes_tiny, .*but got 'nope'"),
        ("convnext_atto", "a plain ViT, a SAM ViT or a Swin, but convnext_atto is none"),
        ("swinv2_tiny_window8_256", "but swinv2_tiny_window8_256 is "),
        ("eva02_tiny_patch14_224", "but eva02_tiny_patch14_224 is a Eva"),
        ("vit_tiny_r_s16_p8_224", "HybridEmbed"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock"),
    ],
)
def test_other_models_are_refused(name, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message) as error:
        backbones.load(name, weights=None)
    assert one_line(error)


@pytest.fixture
def weight_file(tmp_path):
    """A classifier of scenes_tiny's architecture at 64x64, saved with its head."""
    torch.manual_seed(3)
    vit = VisionTransformer(img_size=64, patch_size=8, embed_dim=96, depth=6, num_heads=3, num_classes=10)
    path = tmp_path / "scenes_tiny.safetensors"
    save_file(vit.state_dict(), path)
    return path, vit.eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weight_file_round_trip(weight_file, tmp_path, suffix):
    path, vit = weight_file
    if suffix == ".pth":
        path = tmp_path / "weights.pth"
        torch.save({"model": vit.state_dict()}, path)
    backbone = backbones.load("scenes_tiny", weights=path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = vit.forward_features(images)[:, 1:]
    torch.testing.assert_close(backbone(images)[0].flatten(2).transpose(1, 2), expected)
    assert backbone.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(p.requires_grad for p in backbone.parameters())


def test_position_embedding_is_resampled_to_the_image_size(weight_file):
    path, _ = weight_file
    vit = vits.build("scenes_tiny", (96, 32))
    timm.models.load_checkpoint(vit, str(path), strict=False, filter_fn=checkpoint_filter_fn)
    backbone = backbones.load("scenes_tiny", weights=str(path), image_size=(96, 32))
    assert backbone.pos_embed.shape == (1, 1 + 12 * 4, 96)
    images = torch.randn(1, 3, 96, 32)
    with torch.no_grad():
        expected = vit.eval().forward_features(images)[:, 1:]
    torch.testing.assert_close(backbone(images)[0].flatten(2).transpose(1, 2), expected)
    other = backbones.load("scenes_tiny", weights=path)
    torch.testing.assert_close(other(images), backbone(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.weight"), r"missing norm.weight \(96,\)"),
        (lambda state: state.update(extra=torch.zeros(2)), r"unexpected extra \(2,\)"),
        (
            lambda state: state.update({"norm.bias": torch.zeros(5)}),
            r"norm.bias is \(5,\) instead of \(96,\)",
        ),
        (lambda state: [state.pop(key) for key in list(state) if "blocks.5" in key], "and 9 more"),
    ],
)
def test_misfitting_weights_are_refused(weight_file, tmp_path, change, message):
    state = weight_file[1].state_dict()
    change(state)
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match=message) as error:
        backbones.load("scenes_tiny", weights=path)
    assert one_line(error)
    assert "weights do not fit backbone scenes_tiny" in str(error.value)


def test_missing_and_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'bundled', 'hub' or an existing file"):
        backbones.load("scenes_tiny", weights=tmp_path / "none.safetensors")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(ValueError, match=r"readable .safetensors or .pth") as error:
            backbones.load("scenes_tiny", weights=tmp_path / name)
        assert one_line(error)


def test_pickled_code_is_never_run(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"model": {"norm.weight": Trap()}}, path)
    with pytest.raises(ValueError, match=r"readable .safetensors or .pth"):
        backbones.load("scenes_tiny", weights=path)


class Trap:
    """An object whose unpickling would raise SystemExit."""

    def __reduce__(self):
        return (exit, (1,))


def test_bundled_weights_are_verified(weight_file, monkeypatch):
    path, _ = weight_file
    monkeypatch.setattr(pretrained, "BUNDLED", path.parent)
    with pytest.raises(ValueError, match="bundled weights must exist"):
        backbones.load("scenes_tiny")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"sha256": digest}))
    assert backbones.load("scenes_tiny").weights_sha256 == digest
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=f"SHA-256 0+, but .* has {digest}") as error:
        backbones.load("scenes_tiny")
    assert one_line(error)
    with pytest.raises(ValueError, match="bundled weights exist only for scenes_tiny"):
        backbones.load("vit_tiny_patch16_224")


def unreachable(*args, **kwargs):
    raise ConnectionError("Name or service not known\nsecond line")


def test_hub_without_network_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", unreachable)
    with pytest.raises(
        ValueError, match=r"Name or service not known; .*model.safetensors and pass --weights FILE"
    ) as error:
        backbones.load("vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights="hub")
    assert one_line(error)
    with pytest.raises(ValueError, match="timm publishes none for scenes_tiny"):
        backbones.load("scenes_tiny", weights="hub")


def test_hub_file_in_the_cache_needs_no_network(weight_file, tmp_path, monkeypatch):
    vit = timm.create_model("vit_tiny_patch16_224")
    path = tmp_path / "model.safetensors"
    save_file(vit.state_dict(), path)
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *args: str(path))
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", unreachable)
    backbone = backbones.load("vit_tiny_patch16_224", weights="hub")
    assert torch.equal(backbone.blocks[0].attn.qkv.weight, vit.blocks[0].attn.qkv.weight)
