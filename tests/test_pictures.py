"""Pictures of samples: what is drawn, at which size, for every task."""

import io

import numpy as np
import torch
from PIL import Image

from sigma_ray import pictures
from sigma_ray.data import Info

INFO = Info(num_classes=3, class_names=("a", "b", "c"), image_size=(32, 48))
IMAGE = torch.full((3, 32, 48), 60, dtype=torch.uint8)


def test_class_colours_are_fixed_and_distinct() -> None:
    """The same id has the same colour everywhere; ignored pixels alone are black."""
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = pictures.class_colours(ids).reshape(-1, 3)
    assert colours.dtype == np.uint8
    assert not colours[255].any()
    assert colours[:255].any(axis=1).all()
    assert len(np.unique(colours[:150], axis=0)) == 150


def test_classes_are_drawn_at_one_size_whatever_the_masks_is():
    scores = torch.zeros(3, 32, 48)
    scores[2, :16] = 5
    mask = torch.full((64, 96), 255)
    drawn = pictures.render("segmentation", INFO, IMAGE, scores, {"mask": mask})
    assert {picture.shape for picture in drawn.values()} == {(171, 256, 3)}
    assert not drawn["target"].any()
    top, bottom = drawn["prediction"][0, 0], drawn["prediction"][-1, 0]
    assert [list(top), list(bottom)] == pictures.class_colours(np.array([2, 0], np.uint8)).tolist()


def test_boxes_are_drawn_where_they_are():
    found = {
        "boxes": torch.tensor([[6.0, 4, 24, 28], [0, 0, 48, 32], [30, 4, 40, 12]]),
        "labels": torch.tensor([1, 0, 2]),
        "scores": torch.tensor([0.9, 0.1, 0.5]),
    }
    # The target has pixels of an original twice as large, and a slot without an object.
    target = {
        "boxes": torch.tensor([[12.0, 8, 48, 56], [0, 0, 0, 0]]),
        "labels": torch.tensor([1, -1]),
        "scale": torch.tensor([0.5, 0.5]),
    }
    drawn = pictures.render("detection", INFO, IMAGE, found, target)
    colour = pictures.class_colours(np.array(1))
    zoom = 256 / 48
    for name in ("prediction", "target"):
        changed = (drawn[name] != drawn["image"]).any(-1)
        assert (drawn[name][round(16 * zoom), round(6 * zoom)] == colour).all()
        assert not changed[round(30 * zoom) :].any()  # the unlikely box, which would reach down here, is left out
    assert (drawn["prediction"] != drawn["target"]).any()
    none = {name: value[:0] for name, value in found.items()}
    assert (pictures.render("detection", INFO, IMAGE, none, {})["prediction"] == drawn["image"]).all()


def test_masks_colour_their_objects():
    masks = torch.zeros(1, 32, 48, dtype=torch.bool)
    masks[0, 8:24, 8:40] = True
    found = {"boxes": torch.tensor([[8.0, 8, 40, 24]]), "labels": torch.tensor([0]), "masks": masks}
    drawn = pictures.render("detection", INFO, IMAGE, found, {})["prediction"]
    assert (drawn[85, 128] != 60).any() and (drawn[85, 5] == 60).all()


def test_a_targets_masks_lie_on_their_objects_and_not_on_the_padding():
    masks = torch.zeros(1, 64, 32, dtype=torch.bool)
    masks[0, :32] = True  # the upper half of a tall picture, which fills the left third of the model's input
    target = {"boxes": torch.tensor([[0.0, 0, 32, 32]]), "labels": torch.tensor([0]), "masks": masks}
    target["scale"] = torch.tensor([0.5, 0.5])
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    drawn = pictures.render("detection", INFO, IMAGE, none, target)["target"]
    changed, zoom = (drawn != 60).any(-1), 256 / 48
    assert changed[: round(15 * zoom), : round(15 * zoom)].all()
    assert not changed[round(17 * zoom) :].any() and not changed[:, round(17 * zoom) :].any()


def test_depth_is_coloured_over_the_targets_range():
    depth = torch.linspace(1, 3, 48).expand(32, 48).clone()
    depth[:8] = 0
    drawn = pictures.render("depth", INFO, IMAGE, depth, {"depth": depth})
    assert (drawn["target"] == drawn["prediction"]).all()
    assert (drawn["target"][0] == pictures.NO_DEPTH).all()
    far = pictures.render("depth", INFO, IMAGE, depth + 50, {"depth": depth})["prediction"]
    assert (far[100] == far[100, 0]).all()
    assert pictures.render("depth", INFO, IMAGE, depth, {"depth": torch.zeros(32, 48)})["target"].shape == (171, 256, 3)


def test_a_grid_is_a_png_of_rows_and_columns():
    shown = {name: np.full((2, 10, 14, 3), i, np.uint8) for i, name in enumerate(("image", "target", "prediction"))}
    sheet = np.asarray(Image.open(io.BytesIO(pictures.grid(shown))))
    assert sheet.shape == (20, 42, 3)
    assert sheet[0, :, 0].tolist() == [0] * 14 + [1] * 14 + [2] * 14
