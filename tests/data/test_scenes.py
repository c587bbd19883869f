"""Scenes: reproducible, labelled exactly, consistent in depth, and different between domains."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ray import data, tasks
from sigma_ray.data import _shapes, scenes

COMBINATIONS = list(itertools.product(scenes.DOMAINS, scenes.SPLITS))


@pytest.fixture(scope="module", params=scenes.DOMAINS)
def batch(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    """96 scenes of one domain; tests only read them."""
    return scenes.render(range(96), domain=request.param)


@settings(max_examples=15, deadline=None)
@given(
    indices=st.lists(st.integers(0, 10**9), min_size=1, max_size=5),
    seed=st.integers(0, 2**63),
    combination=st.sampled_from(COMBINATIONS),
)
def test_a_scene_does_not_depend_on_its_batch(indices: list[int], seed: int, combination: tuple[str, str]) -> None:
    domain, split = combination
    together = scenes.render(indices, seed=seed, domain=domain, split=split)
    for row, index in enumerate(indices):
        alone = scenes.render([index], seed=seed, domain=domain, split=split)
        for name, values in together.items():
            np.testing.assert_array_equal(values[row], alone[name][0], err_msg=name)


def test_splits_domains_seeds_and_indices_all_differ() -> None:
    images = [scenes.render(range(3), domain=d, split=s, seed=n)["image"] for (d, s) in COMBINATIONS for n in (0, 1)]
    flat = np.concatenate(images).reshape(len(images) * 3, -1)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_types_and_shapes(batch: dict[str, np.ndarray]) -> None:
    slots = _shapes.NUM_SLOTS
    maps, image, boxes = (96, 64, 64), (96, 3, 64, 64), (96, slots, 4)
    expected = {
        "image": (image, np.uint8),
        "mask": (maps, np.uint8),
        "instance": (maps, np.uint8),
        "depth": (maps, np.float32),
        "boxes": (boxes, np.float32),
        "labels": ((96, slots), np.int64),
    }
    assert {name: (values.shape, values.dtype.type) for name, values in batch.items()} == expected


def test_every_label_agrees_with_the_instance_mask(batch: dict[str, np.ndarray]) -> None:
    """Reference by loops: boxes are the extent of the visible pixels, which all bear the label."""
    for image, slot in itertools.product(range(24), range(_shapes.NUM_SLOTS)):
        rows, columns = np.nonzero(batch["instance"][image] == slot + 1)
        label = batch["labels"][image, slot]
        if len(rows) == 0:
            assert label == -1
            assert not batch["boxes"][image, slot].any()
            continue
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert batch["boxes"][image, slot].tolist() == edges
        assert set(batch["mask"][image, rows, columns]) == {label}
        assert np.ptp(batch["depth"][image, rows, columns]) == 0
    assert ((batch["instance"] == 0) == (batch["mask"] <= 1)).all()


def test_depth_agrees_with_what_hides_what(batch: dict[str, np.ndarray]) -> None:
    """Later slots are nearer, and the ground comes nearer row by row."""
    depth, instance = batch["depth"], batch["instance"]
    assert depth.min() > 1
    assert depth.max() <= np.float32(_shapes.FAR)
    for image in range(len(depth)):
        seen = [depth[image][instance[image] == slot][0] for slot in np.unique(instance[image]) if slot]
        assert seen == sorted(seen, reverse=True)
        ground = np.where(batch["mask"][image] == 1, depth[image], 0).max(axis=1)
        assert (np.diff(ground[ground > 0]) < 0).all()


def test_hidden_objects_are_painted_over_by_nearer_ones() -> None:
    u, noise = scenes._draw(np.arange(200), 0, "train", "target", (64, 64))
    scene = _shapes.lay_out(u, (64, 64), (6.0, 56.0), 3.0)
    covered = _shapes.covers(scene, (64, 64))
    result = scenes._compose(scene, covered, u, noise, target=True)
    numbers = np.arange(1, _shapes.NUM_SLOTS + 1)[None, :, None, None]
    np.testing.assert_array_equal(result["instance"], (covered * numbers).max(axis=1))
    ground = np.broadcast_to(scene["ground"][:, :, None], covered[:, 0].shape)
    nearest = np.where(covered, scene["depth"][..., None, None], np.inf).min(axis=1)
    assert (nearest <= ground)[covered.any(axis=1)].all()


@pytest.mark.parametrize("name", _shapes.SHAPES)
def test_shapes_have_the_area_of_their_formula(name: str) -> None:
    """Coverage of one large upright object against its area in closed form."""
    d, w, v = 160.0, 24.0, 0.5
    r, half = d / 2, np.pi * 0.25
    reach = np.sqrt(r * r - w * w / 4)
    gaps = np.floor((1.6 * r - w) / (2 * w))
    bars, rails = (gaps + 1) * w * 1.2 * r, 2 * 0.8 * w * (1.6 * r - (gaps + 1) * w)
    areas = {
        "disk": np.pi * r * r / (1 + 0.6 * v),
        "box": 4 * r * r * np.cos(half) * np.sin(half),
        "triangle": 0.75 * np.sqrt(3) * r * r,
        "ring": np.pi * (r * r - (r - w) ** 2),
        "cross": 4 * reach * w - w * w,
        "bar": 2 * reach * w,
        "star": np.pi * r * r * (0.42**2 + 2 * 0.42 * 0.58 / 3 + 0.58**2 / 5),
        "fence": bars + rails,
    }
    fields = {"x": 100.0, "y": 100.0, "diameter": d, "width": w, "tilt": 0.0, "variant": v}
    scene = {key: np.full((1, 1), value) for key, value in fields.items()}
    scene["kind"] = np.full((1, 1), list(_shapes.SHAPES).index(name))
    assert _shapes.covers(scene, (200, 200)).sum() == pytest.approx(areas[name], rel=0.02)


def test_classes_are_all_common_and_small_objects_stay_visible(batch: dict[str, np.ndarray]) -> None:
    share = np.bincount(batch["mask"].ravel(), minlength=len(scenes.CLASS_NAMES)) / batch["mask"].size
    assert share.min() > 0.004
    assert share[:2].max() < 0.6
    placed = (batch["labels"] >= 0).sum(axis=1)
    assert placed.min() >= 3
    assert placed.max() <= _shapes.NUM_SLOTS
    assert placed.mean() > 5


def test_sizes_reach_from_tiny_to_half_the_image_in_the_target() -> None:
    spans = {}
    for domain in scenes.DOMAINS:
        data = scenes.render(range(300), domain=domain)
        boxes, labels = data["boxes"], data["labels"]
        longest = np.maximum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])[labels == 2]
        spans[domain] = np.percentile(longest, [5, 95])
    assert spans["target"][0] <= 9
    assert spans["target"][1] >= 22
    assert spans["target"][0] < spans["source"][0]
    assert spans["source"][1] < spans["target"][1]


def test_colour_says_nothing_about_the_class() -> None:
    """The nearest class-mean colour, fitted on other scenes, names objects no better than chance."""
    data = scenes.render(range(400), domain="source")
    objects = data["mask"] > 1
    pixels, labels = (
        data["image"].transpose(0, 2, 3, 1)[objects].astype(float),
        data["mask"][objects].astype(int),
    )
    scene_number = np.nonzero(objects)[0]
    fit, held_out = scene_number < 200, scene_number >= 200
    means = np.stack([pixels[fit & (labels == k)].mean(axis=0) for k in range(2, 10)])
    guess = 2 + np.argmin(((pixels[held_out, None] - means) ** 2).sum(axis=-1), axis=1)
    recall = [np.mean(guess[labels[held_out] == k] == k) for k in range(2, 10)]
    assert np.mean(recall) < 0.2


def test_the_target_is_noisier_and_of_lower_contrast() -> None:
    spread = {}
    for domain in scenes.DOMAINS:
        image = scenes.render(range(64), domain=domain)["image"].astype(float)
        steps = np.abs(np.diff(image, axis=-1))
        spread[domain] = (np.median(steps), image.std(axis=(2, 3)).mean())
    assert spread["target"][0] > 3 * spread["source"][0]
    assert spread["target"][1] < 0.8 * spread["source"][1]


def test_objects_differ_from_what_surrounds_them() -> None:
    """Mean colour of most objects is well apart from that of sky and ground, even in the target."""
    data = scenes.render(range(100))
    gaps = []
    for image, instance, mask in zip(data["image"], data["instance"], data["mask"], strict=True):
        stuff = [image[:, mask == k].mean(axis=1) for k in (0, 1)]
        for slot in np.unique(instance)[1:]:
            colour = image[:, instance == slot].mean(axis=1)
            gaps.append(min(np.linalg.norm(colour - other) for other in stuff))
    assert np.percentile(gaps, 10) > 20
    assert np.median(gaps) > 45


@pytest.mark.parametrize("image_size", [(48, 80), (96, 96)])
def test_other_image_sizes(image_size: tuple[int, int]) -> None:
    data = scenes.render(range(4), image_size=image_size)
    assert data["image"].shape == (4, 3, *image_size)
    assert (data["labels"] >= 0).any(axis=1).all()


def test_batches_hold_every_index_once() -> None:
    cfg = scenes.Config(num_train=70, num_val=5, num_test=3, seed=4)
    for split, total in (("train", 70), ("val", 5), ("test", 3)):
        got = np.concatenate([batch["image"] for batch in scenes.batches(cfg, "segmentation", split)])
        np.testing.assert_array_equal(got, scenes.render(range(total), seed=4, split=split)["image"])


def test_info_and_fingerprint_follow_the_config() -> None:
    info = scenes.info(scenes.Config(image_size=(96, 64)), "segmentation")
    assert (info.num_classes, info.class_names, info.image_size) == (10, scenes.CLASS_NAMES, (96, 64))
    variants = [
        {},
        {"seed": 1},
        {"domain": "source"},
        {"num_val": 9},
        {"min_object": 4},
        {"image_size": (96, 64)},
    ]
    prints = [scenes.fingerprint(scenes.Config(**variant), "segmentation") for variant in variants]
    assert len(set(prints)) == len(prints)
    assert prints[0] == scenes.fingerprint(scenes.Config(), "segmentation")


@pytest.mark.parametrize("task", scenes.Config.tasks)
def test_every_task_reads_the_same_scenes(task: str) -> None:
    """What a task's table holds equals what is rendered, but that detection counts the shapes alone."""
    cfg = scenes.Config(num_train=3, num_val=2, num_test=1)
    opened = data.open_data("scenes", cfg, task, tasks.get(task).columns)
    info = opened.info
    found = opened.split("val").take(np.arange(2), opened.split("val").columns)
    rendered = scenes.render(range(2), split="val")
    names = [scenes.CLASS_NAMES[label] for label in rendered["labels"].ravel() if label >= 0]
    np.testing.assert_array_equal(found["image"], rendered["image"])
    if task == "segmentation":
        assert (info.num_classes, info.class_names) == (10, scenes.CLASS_NAMES)
        np.testing.assert_array_equal(found["mask"], rendered["mask"])
    elif task == "depth":
        assert (info.num_classes, info.max_depth) == (0, _shapes.FAR)
        np.testing.assert_array_equal(found["depth"], rendered["depth"])
    else:
        assert [info.class_names[label] for label in found["labels"].ravel() if label >= 0] == names
        np.testing.assert_array_equal(found["boxes"], rendered["boxes"])
        np.testing.assert_array_equal(found["labels"] < 0, rendered["labels"] < 0)
        seen = rendered["instance"][:, None] == np.arange(1, _shapes.NUM_SLOTS + 1)[:, None, None]
        np.testing.assert_array_equal(found["masks"], seen)
        np.testing.assert_array_equal(found["area"], seen.sum(axis=(2, 3)))


def test_the_fingerprint_is_that_of_the_published_results() -> None:
    """Trial keys in the ledgers of earlier studies hold it."""
    assert scenes.fingerprint(scenes.Config(), "segmentation")[:16] == "81f855c25a1f18f0"


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"num_train": 0}, "data.num_train must be greater than 0, but got 0"),
        ({"domain": "mars"}, "data.domain must be one of source, target"),
        ({"seed": -1}, "data.seed must be 0 or greater"),
        ({"image_size": (32, 32)}, "at least 6 x min_object"),
        ({"image_size": (64,)}, "must be \\(height, width\\)"),
        ({"max_object_fraction": 1.0}, "must lie in"),
    ],
)
def test_wrong_values_are_refused(options: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        scenes.Config(**options)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_of_render_are_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of"):
        scenes.render([0], split="training")
    with pytest.raises(ValueError, match="indices must be 0 or greater"):
        scenes.render([-1])
