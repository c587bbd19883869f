"""Decoded splits: what the table holds, mirrored where the draws say so, labels together with the picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ray import data
from sigma_ray.data import Draws, scenes
from sigma_ray.data._decoded import Decoded

CONFIG = scenes.Config(num_train=12, num_val=1, num_test=1, image_size=(48, 80))


@pytest.fixture(scope="module", params=scenes.Config.tasks)
def split(request: pytest.FixtureRequest) -> data.Split:
    """The training split of every task."""
    return data.open_data("scenes", CONFIG, request.param).split("train")


def draws(mirrored: list[bool]) -> Draws:
    return Draws(mirrored=np.array(mirrored), seeds=np.zeros(len(mirrored), np.uint64))


def test_without_mirroring_training_samples_are_those_of_the_table(split: data.Split) -> None:
    indices = np.array([5, 0, 5])
    taken = split.take(indices, split.columns)
    got = split.augmented(indices, split.columns, draws([False] * 3))
    assert set(got) == {"image", *split.columns}
    for name, values in got.items():
        np.testing.assert_array_equal(values, taken[name], err_msg=name)


@settings(max_examples=15, deadline=None)
@given(chosen=st.lists(st.tuples(st.integers(0, 11), st.booleans()), min_size=1, max_size=6))
def test_a_mirrored_sample_is_the_other_way_round_and_no_other_is(
    split: data.Split, chosen: list[tuple[int, bool]]
) -> None:
    indices, mirrored = np.array([i for i, _ in chosen]), [turned for _, turned in chosen]
    plain = split.take(indices, split.columns)
    got = split.augmented(indices, split.columns, draws(mirrored))
    for row, turned in enumerate(mirrored):
        for name in {"image", "mask", "masks", "depth"} & set(got):
            expected = plain[name][row][..., ::-1] if turned else plain[name][row]
            np.testing.assert_array_equal(got[name][row], expected, err_msg=name)


def test_boxes_enclose_the_masks_after_mirroring() -> None:
    """Reference by loops over the mirrored masks; empty slots stay zero."""
    split = data.open_data("scenes", CONFIG, "detection").split("train")
    got = split.augmented(np.arange(12), ["boxes", "labels", "masks"], draws([True] * 12))
    for boxes, labels, masks in zip(got["boxes"], got["labels"], got["masks"], strict=True):
        for box, label, mask in zip(boxes, labels, masks, strict=True):
            rows, columns = np.nonzero(mask)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if label >= 0 else [0] * 4
            assert box.tolist() == extent


def test_evaluation_of_boxes_gets_areas_along() -> None:
    split = data.open_data("scenes", CONFIG, "detection").split("val")
    assert set(split.take(np.arange(1), ["boxes", "labels"])) == {"image", "boxes", "labels", "area", "index", "size"}
    assert isinstance(split, Decoded)
    assert set(split.targets(np.arange(1), ["labels"])) == {"labels"}


@pytest.mark.parametrize(
    ("task", "columns", "rule"),
    [
        ("depth", ["boxes"], "must offer boxes in split 'train' for depth, but it has depth"),
        ("panoptic", [], "must have labels for panoptic, but it has them for segmentation, detection, depth"),
    ],
)
def test_what_a_data_set_does_not_offer_is_refused(task: str, columns: list[str], rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        data.open_data("scenes", CONFIG, task, columns)
    assert "\n" not in str(caught.value)
