"""Adapter files: what they hold, what they refuse."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sigma_ray import adapters
from sigma_ray import backbone as backbones
from sigma_ray.adapter_files import load_adapter, read_adapter, save_adapter

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
OPTIONS = {"bottleneck_dim": 4, "kernel_sizes": (3, 5)}


def trained(name="sigma", **options):
    backbone = adapters.attach(backbones.load("scenes_tiny"), name, **options)
    torch.manual_seed(2)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return backbone.eval()


def test_a_file_restores_output_options_and_head(tmp_path):
    backbone, head, path = trained(**OPTIONS), nn.Linear(3, 2), tmp_path / "a.safetensors"
    save_adapter(path, backbone, head=head, task="segmentation", extra={"note": "hello"})
    fresh, other = backbones.load("scenes_tiny"), nn.Linear(3, 2)
    found = load_adapter(path, fresh, head=other)
    assert torch.equal(fresh.eval()(IMAGES)[0], backbone(IMAGES)[0])
    assert torch.equal(other.weight, head.weight)
    assert (found.method, found.options["kernel_sizes"], found.task) == ("sigma", [3, 5], "segmentation")
    assert (found.backbone, found.weights) == ("scenes_tiny", backbone.weights_sha256)
    assert (found.mean, found.std, found.extra) == (backbone.mean, backbone.std, {"note": "hello"})
    assert fresh.adapter_options["bottleneck_dim"] == 4
    load_adapter(path, fresh)  # again, onto the same method


def test_a_file_holds_nothing_frozen(tmp_path):
    backbone = trained(**OPTIONS)
    save_adapter(tmp_path / "a.safetensors", backbone)
    size = sum(tensor.numel() for tensor in read_adapter(tmp_path / "a.safetensors").tensors.values())
    assert size == adapters.trainable_parameters(backbone)


def test_another_backbone_is_refused_with_both_names(tmp_path):
    save_adapter(tmp_path / "a.safetensors", trained(**OPTIONS))
    with pytest.raises(ValueError, match=r"belongs to backbone scenes_tiny, .* onto deit_tiny_patch16_224"):
        load_adapter(tmp_path / "a.safetensors", backbones.load("deit_tiny_patch16_224", weights=None))


def test_other_weights_are_refused(tmp_path):
    save_adapter(tmp_path / "a.safetensors", trained(**OPTIONS))
    with pytest.raises(ValueError, match=r"with weights \w{64}, but the weights loaded are content:\w{64}"):
        load_adapter(tmp_path / "a.safetensors", backbones.load("scenes_tiny", weights=None))


def test_random_weights_are_told_apart(tmp_path):
    def random(seed):
        torch.manual_seed(seed)
        return backbones.load("scenes_tiny", weights=None)

    save_adapter(tmp_path / "a.safetensors", adapters.attach(random(0), "full"))
    load_adapter(tmp_path / "a.safetensors", random(0))
    with pytest.raises(ValueError, match="but the weights loaded are content:"):
        load_adapter(tmp_path / "a.safetensors", random(1))


def test_a_refused_head_leaves_the_backbone_as_it_was(tmp_path):
    save_adapter(tmp_path / "a.safetensors", trained(**OPTIONS), head=nn.Linear(3, 2))
    backbone = backbones.load("scenes_tiny")
    with pytest.raises(ValueError, match=r"weight is \(4, 3\) and \(2, 3\) in the file"):
        load_adapter(tmp_path / "a.safetensors", backbone, head=nn.Linear(3, 4))
    assert backbone.adapter is None


@pytest.mark.parametrize(("name", "options"), [("lora", {}), ("sigma", {"bottleneck_dim": 8})])
def test_another_method_is_refused(tmp_path, name, options):
    save_adapter(tmp_path / "a.safetensors", trained(**OPTIONS))
    with pytest.raises(ValueError, match=f"holds sigma with .* but the backbone has {name} with"):
        load_adapter(tmp_path / "a.safetensors", trained(name, **options))


def test_a_head_that_does_not_fit_is_refused(tmp_path):
    save_adapter(tmp_path / "a.safetensors", trained(**OPTIONS), head=nn.Linear(3, 2))
    with pytest.raises(ValueError, match="the head must be the one saved"):
        load_adapter(tmp_path / "a.safetensors", backbones.load("scenes_tiny"), head=nn.Linear(3, 4))


def test_nothing_attached_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a method attached to scenes_tiny"):
        save_adapter(tmp_path / "a.safetensors", backbones.load("scenes_tiny"))
    assert not list(tmp_path.iterdir())


def test_files_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"save_adapter wrote, but .* lacks 'normalisation'"):
        read_adapter(path)
    path.write_bytes(json.dumps({}).encode())
    with pytest.raises(ValueError, match="an adapter file must be one that save_adapter wrote"):
        read_adapter(path)
    with pytest.raises(ValueError, match="an adapter file must be one that save_adapter wrote"):
        read_adapter(tmp_path / "missing.safetensors")
