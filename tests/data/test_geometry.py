"""Pictures, maps and boxes under one view, each against a plain reference."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sigma_ray.data import _geometry
from sigma_ray.data._detection import enclosing
from sigma_ray.data._geometry import View
from sigma_ray.data._info import PADDING

sides = st.tuples(st.integers(1, 40), st.integers(1, 40))


def smooth(size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)


@st.composite
def views(draw: st.DrawFn) -> View:
    scaled, size = draw(sides), draw(sides)
    corner = tuple(draw(st.integers(0, max(whole - side, 0))) for whole, side in zip(scaled, size, strict=True))
    return View(scaled, (corner[0], corner[1]), size, draw(st.booleans()))


def windowed(whole: np.ndarray, view: View, fill: object) -> np.ndarray:
    """Reference: mirror and cut the whole scaled picture, (h, w, ...)."""
    whole = whole[:, ::-1] if view.mirrored else whole
    top, left = view.corner
    part = whole[top : top + view.size[0], left : left + view.size[1]]
    canvas = np.empty((*view.size, *whole.shape[2:]), whole.dtype)
    canvas[:] = fill
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas


@settings(max_examples=150, deadline=None)
@given(size=sides, view=views())
def test_a_picture_is_scaled_then_cut(size: tuple[int, int], view: View) -> None:
    """Only the seen part is computed, and yet equals that part of the whole picture, up to rounding."""
    image = smooth(size)
    whole = np.asarray(image.resize((view.scaled[1], view.scaled[0]), Image.Resampling.BILINEAR))
    found = _geometry.picture(image, view)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - windowed(whole, view, PADDING)).max() <= 2


@settings(max_examples=150, deadline=None)
@given(size=sides, view=views())
def test_a_map_takes_the_nearest_pixel(size: tuple[int, int], view: View) -> None:
    ids = np.random.default_rng(0).integers(0, 250, size, dtype=np.uint8)
    rows, columns = (
        [math.floor((i + Fraction(1, 2)) * side / scaled) for i in range(scaled)]
        for side, scaled in zip(size, view.scaled, strict=True)
    )
    whole = ids[np.ix_(rows, columns)]
    found = _geometry.nearest(np.stack([ids, 249 - ids]), view, 255)
    np.testing.assert_array_equal(found[0], windowed(whole, view, 255))
    np.testing.assert_array_equal(found[1], windowed(249 - whole, view, 255))


@settings(max_examples=150, deadline=None)
@given(view=views(), factor=st.integers(1, 3), data=st.data())
def test_boxes_enclose_their_masks(view: View, factor: int, data: st.DataObject) -> None:
    """Where a view enlarges by whole numbers, a rectangle's mask and its box say the same."""
    size = (max(1, view.scaled[0] // factor), max(1, view.scaled[1] // factor))
    view = view._replace(scaled=(size[0] * factor, size[1] * factor), corner=(0, 0))
    rows = sorted(data.draw(st.lists(st.integers(0, size[0]), min_size=2, max_size=2, unique=True)))
    columns = sorted(data.draw(st.lists(st.integers(0, size[1]), min_size=2, max_size=2, unique=True)))
    view = view._replace(corner=_geometry.random_corner(view.scaled, view.size, np.random.default_rng(rows[0])))
    mask = np.zeros((1, *size), bool)
    mask[0, rows[0] : rows[1], columns[0] : columns[1]] = True
    box = np.array([[columns[0], rows[0], columns[1], rows[1]]], np.float32)
    found, seen = _geometry.boxes(box, view, size), enclosing(_geometry.nearest(mask, view, False))
    if (found[:, 2:] - found[:, :2]).min() > 0:
        np.testing.assert_allclose(found, seen, atol=1e-4)
    else:
        assert not seen.any()


@settings(max_examples=60, deadline=None)
@given(size=sides, boxes=st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=4))
def test_mirroring_twice_changes_nothing(size: tuple[int, int], boxes: list[tuple[float, ...]]) -> None:
    view = View(size, (0, 0), size, mirrored=True)
    once = _geometry.picture(smooth(size), view)
    np.testing.assert_array_equal(_geometry.picture(Image.fromarray(once), view), np.asarray(smooth(size)))
    edges = np.sort(np.array(boxes, np.float32).reshape(-1, 2, 2), axis=1).reshape(-1, 4) * np.tile(
        (size[1], size[0]), 2
    )
    twice = _geometry.boxes(_geometry.boxes(edges, view, size), view, size)
    np.testing.assert_allclose(twice, edges, atol=1e-4)


@given(size=sides, longer=st.integers(1, 60), shorter=st.integers(1, 60))
def test_fitting_keeps_the_aspect_and_the_limits(size: tuple[int, int], longer: int, shorter: int) -> None:
    limits = max(longer, shorter), min(longer, shorter)
    fitted = _geometry.fit(size, *limits)
    assert max(fitted) <= max(limits[0], 1)
    assert min(fitted) <= max(limits[1], 1)
    assert max(fitted) == limits[0] or min(fitted) == limits[1]
    factor = max(fitted) / max(size)
    assert min(fitted) == pytest.approx(max(1, min(size) * factor), abs=0.5 + 0.5 * min(size) / max(size))


def test_every_corner_is_reached() -> None:
    generator = np.random.default_rng(0)
    found = {_geometry.random_corner((6, 3), (4, 5), generator) for _ in range(100)}
    assert found == {(0, 0), (1, 0), (2, 0)}
