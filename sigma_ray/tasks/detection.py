"""Object detection and instance segmentation: COCO's average precision.

Matching and accumulation are those of pycocotools, COCO's reference. (faster-coco-eval needs a third of the time, but
leaves out an epsilon of the reference, so that its numbers differ by some 1e-16.) Images are kept one record each and
put into order before they are scored, so the numbers do not depend on how images were split over workers.
"""

import contextlib
import io
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sigma_ray.data import Info
from sigma_ray.parallel import gathered, world

MAX_DETECTIONS = 100
"""Detections of an image that count, those of highest score."""

AREAS = {"all": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""COCO's classes of size: area in square pixels of the original image."""

_CHUNK = 16  # masks resized at once

Record = dict[str, Any]


class Metric:
    """COCO's AP over a data split, for boxes and, where predictions and targets have them, for instance masks."""

    def __init__(self, info: Info, device: torch.device) -> None:
        del device  # records are kept in main memory
        self.num_classes = info.num_classes
        self.records: list[Record] = []

    def update(self, predictions: list[dict[str, Tensor]], targets: dict[str, Any]) -> None:
        """Add a batch.

        Args:
            predictions: per image `boxes` (N, 4) x0 y0 x1 y1 in pixels of the model's input, `scores` (N,), `labels`
                (N,) and perhaps `masks` (N, H, W) bool.
            targets: `targets[name][i]` belongs to image i, in pixels of the original image: `boxes` (M, 4), `labels`
                (M,), -1 in padding rows, and, where there are any, `crowd` (M,) bool, `masks` (M, h, w) bool, `area`
                (M,), `scale` (2,) the factors in x and y from original to input pixels, `size` (2,) height and width
                of the original, `index` the image's number in the split.

        Raises:
            ValueError: no `index`, and several processes.
        """
        if "index" not in targets and world()[1] > 1:
            raise ValueError(
                "targets must hold index, each image's number in the split, when several processes evaluate, but got "
                f"{', '.join(targets)} with {world()[1]} processes; let the data add it."
            )
        for i, prediction in enumerate(predictions):
            target = {name: values[i] for name, values in targets.items()}
            index = int(target["index"]) if "index" in target else len(self.records)
            self.records.append({"index": index, "truth": _truth(target), "found": _found(prediction, target)})

    def compute(self) -> dict[str, float]:
        """`ap` (mean over IoU 0.50 to 0.95), `ap50`, `ap75` and `ap_s`, `ap_m`, `ap_l` by size of the object.

        With masks the same again as `mask_ap` and so on. A number without any ground truth to it is NaN.

        Raises:
            ValueError: an image was added twice.
        """
        records = sorted(gathered(self.records), key=lambda record: record["index"])
        indices = [record["index"] for record in records]
        if len(set(indices)) < len(indices):
            twice = next(index for index in indices if indices.count(index) > 1)
            raise ValueError(f"An image may count once, but index {twice} came twice; give each rank its own images.")
        metrics = _score(records, self.num_classes, "bbox", "")
        if records and all(record[part]["masks"] is not None for record in records for part in ("truth", "found")):
            metrics |= _score(records, self.num_classes, "segm", "mask_")
        return metrics


def _numpy(values: Any, dtype: Any) -> np.ndarray:
    return (values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)).astype(dtype)


def _truth(target: dict[str, Any]) -> Record:
    """Ground truth of an image without its padding rows."""
    labels = _numpy(target["labels"], np.int64)
    keep = labels >= 0
    boxes = _numpy(target["boxes"], np.float64).reshape(-1, 4)[keep]
    masks = target.get("masks")
    masks = None if masks is None else _encode(torch.as_tensor(masks).cpu()[torch.from_numpy(keep)])
    if "area" in target:
        area = _numpy(target["area"], np.float64)[keep]
    elif masks is not None:
        area = _areas(masks)
    else:
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    crowd = _numpy(target["crowd"], bool)[keep] if "crowd" in target else np.zeros(keep.sum(), bool)
    return {"boxes": boxes, "labels": labels[keep], "area": area, "crowd": crowd, "masks": masks}


def _found(prediction: dict[str, Tensor], target: dict[str, Any]) -> Record:
    """Detections of an image in pixels of the original."""
    scale = _numpy(target.get("scale", (1.0, 1.0)), np.float64)
    boxes = _numpy(prediction["boxes"].float(), np.float64).reshape(-1, 4) / np.tile(scale, 2)
    if "size" in target:
        height, width = _numpy(target["size"], np.float64)
        boxes = np.clip(boxes, 0.0, [width, height, width, height])
    masks = None
    if "masks" in prediction and "masks" in target:
        masks = _encode(_to_original(prediction["masks"], target["masks"].shape[-2:], scale))
    scores, labels = _numpy(prediction["scores"].float(), np.float64), _numpy(prediction["labels"], np.int64)
    return {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks}


def _to_original(masks: Tensor, size: tuple[int, int], scale: np.ndarray) -> Tensor:
    """Masks (N, H, W) at the size of the original, without what was padded to it."""
    rows, columns = round(size[0] * scale[1]), round(size[1] * scale[0])
    masks = masks[:, :rows, :columns]
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks.cpu()
    if not len(masks):  # `interpolate` takes no empty tensor
        return torch.zeros(0, *size, dtype=torch.bool)
    parts = [F.interpolate(part[None].float(), size=tuple(size), mode="bilinear")[0] for part in masks.split(_CHUNK)]
    return torch.cat([(part > 0.5).cpu() for part in parts])


def _encode(masks: Tensor) -> list[Any]:
    """Run-length codes of masks (N, h, w)."""
    from pycocotools import mask

    codes: Any = mask.encode(np.asfortranarray(masks.numpy().astype(np.uint8).transpose(1, 2, 0)))
    return codes


def _areas(codes: Any) -> np.ndarray:
    from pycocotools import mask

    return np.asarray(mask.area(codes), dtype=np.float64)


def _score(records: list[Record], num_classes: int, kind: Literal["bbox", "segm"], prefix: str) -> dict[str, float]:
    """AP of boxes or masks; the names of its numbers begin with `prefix`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        sides: list[Any] = [COCO(), COCO()]
        for side, part in zip(sides, ("truth", "found"), strict=True):
            side.dataset = {
                "images": [{"id": record["index"], "height": 0, "width": 0} for record in records],  # only ids are read
                "categories": [{"id": label} for label in range(num_classes)],
                "annotations": _annotations(records, part, kind == "segm"),
            }
            side.createIndex()
        run: Any = COCOeval(sides[0], sides[1], kind)
        run.params.maxDets = [MAX_DETECTIONS]
        run.params.areaRng, run.params.areaRngLbl = [list(area) for area in AREAS.values()], list(AREAS)
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0]  # IoU threshold, recall, class, size of object
    values = {"ap": precision[..., 0], "ap50": precision[:1, ..., 0], "ap75": precision[5:6, ..., 0]}
    values |= {f"ap_{name}": precision[..., i] for i, name in enumerate(AREAS) if i}
    return {prefix + name: _mean(value) for name, value in values.items()}


def _mean(precision: np.ndarray) -> float:
    """Mean over all classes that have ground truth (the others hold -1)."""
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else float("nan")


def _annotations(records: list[Record], part: str, segments: bool) -> list[dict[str, Any]]:
    """COCO's annotations of the ground truth or of detections, numbered from 1."""
    rows = []
    for record in records:
        values = record[part]
        sizes = values["boxes"][:, 2:] - values["boxes"][:, :2]
        extent = _areas(values["masks"]) if segments else np.prod(sizes, axis=1)
        area = values.get("area", extent)  # only ground truth has its own
        crowd, scores = values.get("crowd"), values.get("scores")
        for j, label in enumerate(values["labels"].tolist()):
            row = {"id": len(rows) + 1, "image_id": record["index"], "category_id": label, "area": float(area[j])}
            row["iscrowd"] = 0 if crowd is None else int(crowd[j])
            row["bbox"] = [*values["boxes"][j, :2].tolist(), *sizes[j].tolist()]
            if segments:
                row["segmentation"] = values["masks"][j]
            if scores is not None:
                row["score"] = float(scores[j])
            rows.append(row)
    return rows
