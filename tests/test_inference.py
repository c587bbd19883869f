"""Predictions for pictures of any size, against MMSegmentation's own inference."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sigma_ray.data import Info
from sigma_ray.inference import predict


class Stub(nn.Module):
    """A network whose scores depend on a pixel's surroundings, so that a window's border shows."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.backbone = SimpleNamespace(stride=stride)
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 5, 5, padding=2)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        self.sizes.append(tuple(images.shape))
        assert not any(side % self.backbone.stride for side in images.shape[-2:])
        return self.convolution(images.float() / 255)


def pictures(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@torch.no_grad()
def slide_of_mmseg(model: nn.Module, image: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    from sigma_ray.heads._mmcv_ops import install

    install()
    from mmseg.models.segmentors import EncoderDecoder

    segmentor: Any = SimpleNamespace(
        test_cfg=SimpleNamespace(stride=stride, crop_size=window),
        out_channels=5,
        encode_decode=lambda crop, _: model(crop.to(torch.uint8)),
    )
    return EncoderDecoder.slide_inference(segmentor, image[None].float(), [{}])[0]


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [((40, 60), (16, 16), (10, 10)), ((33, 16), (16, 16), (16, 16)), ((47, 31), (20, 30), (7, 13))],
)
def test_sliding_windows_are_those_of_mmsegmentation(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> None:
    model, (image,) = Stub(), pictures(size)
    with torch.no_grad():
        (found,) = predict(model, [image], Info(image_size=window, window_stride=stride))
    assert all(shape[-2:] == window for shape in model.sizes)
    torch.testing.assert_close(found, slide_of_mmseg(model, image, window, stride), atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    window=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    stride=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_windows_of_a_pixelwise_model_give_the_model_itself(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> None:
    stride = (min(stride[0], window[0]), min(stride[1], window[1]))
    (image,) = pictures(size)
    (found,) = predict(lambda batch: batch.float(), [image], Info(image_size=window, window_stride=stride))
    torch.testing.assert_close(found, image.float())


def test_whole_pictures_are_padded_to_the_stride_and_cut_back() -> None:
    """Away from the padded border the scores are those of the picture alone; pictures of one size go together."""
    model, images = Stub(stride=8), pictures((20, 30), (24, 32), (40, 9), (21, 25))
    with torch.no_grad():
        found = predict(model, images, Info(image_size=(16, 16)))
        assert [tuple(score.shape) for score in found] == [(5, 20, 30), (5, 24, 32), (5, 40, 9), (5, 21, 25)]
        assert sorted(model.sizes) == [(1, 3, 40, 16), (3, 3, 24, 32)]
        for image, score in zip(images, found, strict=True):
            alone = model.convolution(image[None].float() / 255)[0]
            torch.testing.assert_close(score[:, :-2, :-2], alone[:, :-2, :-2], atol=1e-5, rtol=1e-5)


def test_a_batch_of_one_size_goes_to_the_model_as_it_is() -> None:
    images = torch.stack(pictures((16, 24), (16, 24)))
    answer = [{"boxes": torch.zeros(0, 4)}]
    assert predict(lambda batch: answer if batch is images else None, images, Info(image_size=(16, 24))) is answer
