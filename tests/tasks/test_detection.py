"""AP against pycocotools, against cases that can be computed by hand, and over processes."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ray.data import Info
from sigma_ray.tasks import detection

CLASSES, SIZE = 3, (130, 160)
NAMES = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l")
CPU = torch.device("cpu")


def metric(num_classes=CLASSES):
    return detection.Metric(Info(image_size=SIZE, num_classes=num_classes), CPU)


def same(first, second):
    """The same numbers bit for bit; NaN equals NaN."""
    assert list(first) == list(second)
    np.testing.assert_array_equal(list(first.values()), list(second.values()))


def boxes_of(rng, count, near=None):
    """Boxes of all sizes, whole pixels; about half of them shifted versions of `near`."""
    corner = rng.integers(0, [SIZE[1] - 8, SIZE[0] - 8], (count, 2))
    side = rng.choice([4, 16, 32, 40, 96, 110], (count, 2))
    boxes = np.concatenate([corner, np.minimum(corner + side, [SIZE[1], SIZE[0]])], axis=1)
    if near is not None and len(near) and count:
        copies = near[rng.integers(0, len(near), count)] + rng.integers(-3, 4, (count, 4))
        ok = ((copies[:, 2:] - copies[:, :2]) > 0).all(1) & (rng.random(count) < 0.6)
        boxes[ok] = np.clip(copies, 0, [SIZE[1], SIZE[0]] * 2)[ok]
    return boxes


def masks_of(rng, boxes):
    """Ellipses in boxes, some with a hole."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask |= ((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2 <= 0.25
        mask[y0 : y0 + rng.integers(0, 4)] = False
    return masks


def image(seed, masks=True, crowds=True, ties=False):
    """Prediction and target of an image; padding rows lie anywhere, `area` differs from the box's."""
    rng = np.random.default_rng(seed)
    truth = boxes_of(rng, rng.integers(0, 7))
    found = boxes_of(rng, rng.integers(0, 12), truth)
    scores = -np.sort(-rng.random(len(found)))
    labels = rng.integers(0, CLASSES, len(truth))
    labels[rng.random(len(truth)) < 0.2] = -1
    prediction = {
        "boxes": torch.from_numpy(found).float(),
        "scores": torch.from_numpy(np.round(scores, 1) if ties else scores).float(),
        "labels": torch.from_numpy(rng.integers(0, CLASSES, len(found))),
    }
    target = {"boxes": torch.from_numpy(truth).float(), "labels": torch.from_numpy(labels)}
    target["area"] = torch.from_numpy(np.prod(truth[:, 2:] - truth[:, :2], axis=1) * rng.choice([0.5, 0.9], len(truth)))
    if crowds:
        target["crowd"] = torch.from_numpy(rng.random(len(truth)) < 0.2)
    if masks:
        prediction["masks"] = torch.from_numpy(masks_of(rng, found))
        target["masks"] = torch.from_numpy(masks_of(rng, truth))
    return prediction, target


def batch(pairs):
    """A batch as the contract has it: lists with one entry an image."""
    targets = {name: [target[name] for _, target in pairs] for name in pairs[0][1]}
    return [prediction for prediction, _ in pairs], targets


def reference(pairs, kind, library="pycocotools"):
    """The first six numbers of pycocotools, or of faster-coco-eval, which has an evaluation of its own in C++."""
    from pycocotools import mask as codec

    if library == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval

    def segment(mask):
        return codec.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))

    annotations, results = [], []
    for number, (prediction, target) in enumerate(pairs):
        for row in torch.nonzero(target["labels"] >= 0).flatten().tolist():
            x0, y0, x1, y1 = target["boxes"][row].double().tolist()
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": target["labels"][row].item()}
            annotation |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": target["area"][row].item()}
            annotation["iscrowd"] = int(target["crowd"][row]) if "crowd" in target else 0
            if kind == "segm":
                annotation["segmentation"] = segment(target["masks"][row])
            annotations.append(annotation)
        for row, score in enumerate(prediction["scores"].double().tolist()):
            result = {"image_id": number, "category_id": prediction["labels"][row].item(), "score": score}
            if kind == "segm":
                result["segmentation"] = segment(prediction["masks"][row])
            else:
                x0, y0, x1, y1 = prediction["boxes"][row].double().tolist()
                result["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(pairs))]
        truth.dataset = {"images": images, "annotations": annotations, "info": {}}
        truth.dataset["categories"] = [{"id": label} for label in range(CLASSES)]
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else empty(truth), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [math.nan if value == -1 else value for value in evaluation.stats[:6]]


def empty(truth):
    """What pycocotools' `loadRes` cannot make: results without a detection."""
    results = type(truth)()
    results.dataset = {**truth.dataset, "annotations": []}
    results.createIndex()
    return results


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6), crowds=st.booleans(), ties=st.booleans())
def test_the_numbers_are_those_of_pycocotools_to_the_last_digit(seed, count, crowds, ties):
    pairs = [image((seed, i), crowds=crowds, ties=ties) for i in range(count)]
    measured = metric()
    for pair in pairs:
        measured.update(*batch([pair]))
    ours = measured.compute()
    for kind, prefix in (("bbox", ""), ("segm", "mask_")):
        np.testing.assert_array_equal([ours[prefix + name] for name in NAMES], reference(pairs, kind))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6), crowds=st.booleans())
def test_an_independent_implementation_agrees(seed, count, crowds):
    pairs, measured = [image((seed, i), masks=False, crowds=crowds) for i in range(count)], metric()
    measured.update(*batch(pairs))
    ours = [measured.compute()[name] for name in NAMES]
    np.testing.assert_allclose(ours, reference(pairs, "bbox", "faster-coco-eval"), rtol=0, atol=1e-12)


def test_it_prints_nothing(capfd):
    measured = metric()
    measured.update(*batch([image(1)]))
    measured.compute()
    assert capfd.readouterr() == ("", "")


def square(x, y, side):
    return torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)


def test_numbers_known_by_hand():
    """Two small objects; one is found with IoU 0.81, after a false alarm of higher score: AP50 = 51/101 / 2."""
    truth = torch.cat([square(0, 0, 10), square(50, 50, 10)])
    found = {"boxes": torch.cat([square(100, 100, 10), square(0, 0, 9)]), "scores": torch.tensor([0.9, 0.8])}
    measured = metric(1)
    measured.update([found | {"labels": torch.zeros(2).long()}], {"boxes": [truth], "labels": [torch.zeros(2).long()]})
    values = measured.compute()
    assert list(values) == list(NAMES)
    assert values["ap50"] == values["ap75"] == pytest.approx(51 / 101 / 2)
    assert values["ap"] == values["ap_s"] == pytest.approx(51 / 101 / 2 * 0.7)  # thresholds 0.50 to 0.80
    assert math.isnan(values["ap_m"]) and math.isnan(values["ap_l"])


def test_without_ground_truth_every_number_is_undefined():
    measured = metric()
    assert all(math.isnan(value) for value in measured.compute().values())
    found = {"boxes": square(0, 0, 5), "scores": torch.ones(1), "labels": torch.zeros(1).long()}
    measured.update([found], {"boxes": torch.zeros(1, 2, 4), "labels": torch.full((1, 2), -1)})
    assert all(math.isnan(value) for value in measured.compute().values())


def test_predictions_go_back_to_the_original_image():
    """An image 130 x 160 was halved in height, doubled in width and padded at the bottom and the right."""
    pairs = [image(seed) for seed in range(4)]
    plain, scaled = metric(), metric()
    plain.update(*batch(pairs))
    factors = torch.tensor([2.0, 0.5, 2.0, 0.5])
    for prediction, target in pairs:
        masks = prediction["masks"].repeat_interleave(2, dim=2).repeat_interleave(2, dim=1)
        padded = torch.nn.functional.pad(masks, (0, 9, 0, 7), value=True)
        moved = prediction | {"boxes": prediction["boxes"] * factors, "masks": padded}
        original = {**target, "scale": torch.tensor([2.0, 0.5], dtype=torch.float64), "size": torch.tensor(SIZE)}
        scaled.update(*batch([(moved, original)]))
    wanted = plain.compute()
    same({name: scaled.compute()[name] for name in NAMES}, {name: wanted[name] for name in NAMES})
    doubled = metric()
    for prediction, target in pairs:
        masks = prediction["masks"].repeat_interleave(2, dim=2).repeat_interleave(2, dim=1)
        masks = torch.nn.functional.pad(masks, (0, 9, 0, 7), value=True)
        original = {**target, "scale": torch.tensor([2.0, 2.0])}
        doubled.update(*batch([(prediction | {"boxes": prediction["boxes"] * 2, "masks": masks}, original)]))
    same(doubled.compute(), wanted)


def test_an_image_without_detections_counts_at_any_scale():
    mask = torch.zeros(1, 1, *SIZE, dtype=torch.bool)
    mask[..., :10, :10] = True
    target = {"boxes": square(0, 0, 10)[None], "labels": torch.zeros(1, 1).long(), "masks": mask}
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}
    none["masks"] = torch.zeros(0, 65, 80, dtype=torch.bool)
    measured = metric(1)
    measured.update([none], target | {"scale": torch.tensor([[0.5, 0.5]])})
    assert measured.compute()["ap"] == measured.compute()["mask_ap"] == 0


def test_predicted_boxes_are_clipped_to_the_image():
    found = {"boxes": torch.tensor([[-20.0, -20.0, 10.0, 10.0]]), "scores": torch.ones(1)}
    found["labels"] = torch.zeros(1).long()
    target = {"boxes": [square(0, 0, 10)], "labels": [torch.zeros(1).long()]}
    outside, clipped = metric(1), metric(1)
    outside.update([found], target)
    clipped.update([found], target | {"size": torch.tensor([[130, 160]])})
    assert outside.compute()["ap"] == 0 and clipped.compute()["ap"] == pytest.approx(1)


def test_the_area_is_the_masks_where_none_is_given():
    mask = torch.zeros(1, 1, *SIZE, dtype=torch.bool)
    mask[..., :10, :10] = True  # 100 pixels in a box of 40 x 40: small, while its box is of medium size
    target = {"boxes": square(0, 0, 40)[None], "labels": torch.zeros(1, 1).long()}
    found = {"boxes": square(0, 0, 40), "scores": torch.ones(1), "labels": torch.zeros(1).long(), "masks": mask[0]}
    with_mask, without = metric(1), metric(1)
    with_mask.update([found], target | {"masks": mask})
    without.update([found], target)
    assert math.isnan(with_mask.compute()["mask_ap_m"]) and with_mask.compute()["mask_ap_s"] == pytest.approx(1)
    assert math.isnan(without.compute()["ap_s"]) and without.compute()["ap_m"] == pytest.approx(1)


def test_an_image_counts_once():
    measured = metric()
    prediction, target = batch([image(3)])
    for _ in range(2):
        measured.update(prediction, target | {"index": torch.tensor([7])})
    with pytest.raises(ValueError, match="index 7 came twice"):
        measured.compute()


def run_rank(rank, world, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    measured = metric()
    with pytest.raises(ValueError, match=r"must hold index.*2 processes"):
        measured.update(*batch([image(0)]))
    for number in [2, 5, 0] if rank == 0 else [4, 1, 3]:  # neither interleaved nor in order
        prediction, target = batch([image(number, ties=True)])
        measured.update(prediction, target | {"index": torch.tensor([number])})
    torch.save(measured.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    alone = metric()
    alone.update(*batch([image(number, ties=True) for number in range(6)]))
    torch.multiprocessing.start_processes(run_rank, (2, str(tmp_path)), nprocs=2, start_method="spawn")
    wanted = alone.compute()
    assert 0 < wanted["ap"] < 1 and 0 < wanted["mask_ap"] < 1
    for rank in range(2):
        same(torch.load(tmp_path / f"{rank}.pt"), wanted)
