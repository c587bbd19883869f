"""Methods that fold into plain weights compute the same afterwards, and leave no trace."""

import pytest
import torch

from sigma_ray import adapters
from sigma_ray.backbone import wrap

IMAGES = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ABLE = {
    "lora": [{"rank": 3, "alpha": 5.0}, {"rank": 2, "targets": ("q", "k", "v", "proj", "fc1", "fc2")}],
    "ssf": [{}],
    "arc": [{"bottleneck_dim": 5}],
    "repadapter": [{"bottleneck_dim": 4, "scale": 0.5}],
    "fact": [{"rank": 3, "scale": 0.5}, {"rank": 3, "form": "tk"}],
}


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, many in ABLE.items() for options in many])
def test_merged_output_is_the_unmerged_one(make_backbone, name, options):
    plain = make_backbone()
    names = set(plain.state_dict())
    backbone = make_backbone()
    if name == "fact" and backbone.family == "swin":
        pytest.skip("fact does not run on Swin")
    adapters.attach(backbone, name, **options)
    torch.manual_seed(3)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape)
    backbone = backbone.double().eval()
    expected = backbone(IMAGES)[0]
    assert not torch.allclose(expected, plain.double()(IMAGES)[0])
    if name in ("arc", "repadapter") and backbone.family != "vit":
        with pytest.raises(ValueError, match=rf"{name}, merged, cannot run on .*: windows are padded"):
            adapters.merge(backbone)
        assert torch.equal(backbone(IMAGES)[0], expected) and backbone.adapter == name
        return
    assert adapters.merge(backbone) is backbone
    torch.testing.assert_close(backbone(IMAGES)[0], expected)
    biases = {key for key in set(backbone.state_dict()) - names if key.endswith("bias")}
    assert set(backbone.state_dict()) - biases == names
    assert adapters.trainable_parameters(backbone) == 0 and backbone.adapter is None
    adapters.attach(backbone, "adapter")


def test_layers_without_bias_get_one(tiny_vit):
    """CLIP's patch projection has none."""

    def make():
        torch.manual_seed(0)
        return wrap(tiny_vit("class_token", pre_norm=True), "clip")

    assert make().patch_embed.proj.bias is None
    backbone = adapters.attach(make(), "ssf").double().eval()
    expected = backbone(IMAGES)[0]
    torch.testing.assert_close(adapters.merge(backbone)(IMAGES)[0], expected)


def test_the_able_are_these():
    assert set(ABLE) == {name for name in adapters.names() if hasattr(adapters.load(name), "merge")}


@pytest.mark.parametrize("name", ["sigma", None])
def test_others_are_refused(make_backbone, name):
    backbone = make_backbone()
    if name:
        adapters.attach(backbone, name)
    with pytest.raises(
        ValueError, match=f"merge needs one of arc, fact, lora, repadapter, ssf attached, but the backbone has {name}"
    ):
        adapters.merge(backbone)
