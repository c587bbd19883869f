"""Colour changes against MMSegmentation's, and formulas."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ray.data import _colour

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def reference() -> Any:
    from sigma_ray.heads._mmcv_ops import install

    install()
    from mmseg.datasets.transforms import PhotoMetricDistortion

    return PhotoMetricDistortion()


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.5, 1.5), shift=st.floats(-32, 32))
def test_brightness_and_contrast_are_mmsegmentations(reference: Any, factor: float, shift: float) -> None:
    expected = reference.convert(PIXELS, alpha=factor, beta=shift)
    np.testing.assert_array_equal(_colour.linear(PIXELS, factor, shift), expected)


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.5, 1.5), turn=st.integers(-18, 17))
def test_saturation_and_hue_are_mmsegmentations(reference: Any, factor: float, turn: int) -> None:
    import mmcv

    hsv = mmcv.rgb2hsv(PIXELS) if hasattr(mmcv, "rgb2hsv") else mmcv.bgr2hsv(PIXELS[..., ::-1])
    hsv[..., 1] = reference.convert(hsv[..., 1], alpha=factor)
    hsv[..., 0] = (hsv[..., 0].astype(int) + turn) % 180
    np.testing.assert_array_equal(_colour.saturate_and_turn(PIXELS, factor, turn), mmcv.hsv2bgr(hsv)[..., ::-1])


def test_a_quarter_of_the_changes_leave_the_contrast_and_one_in_sixteen_all() -> None:
    results = [_colour.distort(PIXELS, np.random.default_rng(seed)) for seed in range(300)]
    same = np.mean([np.array_equal(result, PIXELS) for result in results])
    assert 0.03 < same < 0.11
    shifts = [result.mean() - PIXELS.mean() for result in results]
    assert np.ptp(shifts) > 40
    np.testing.assert_array_equal(results[7], _colour.distort(PIXELS, np.random.default_rng(7)))


def test_jitter_is_gamma_then_brightness_and_colours() -> None:
    changed = 0
    for seed in range(40):
        draws = np.random.default_rng(seed)
        apply, gamma, brightness = draws.random() < 0.5, draws.uniform(0.9, 1.1), draws.uniform(0.75, 1.25)
        colours = draws.uniform(0.9, 1.1, size=3)
        exact = np.clip((PIXELS / 255) ** gamma * brightness * colours, 0, 1) * 255 if apply else PIXELS
        found = _colour.jitter(PIXELS, np.random.default_rng(seed))
        assert np.abs(found - exact).max() <= 0.5 + 1e-9
        changed += bool(apply)
    assert 10 < changed < 30
