"""Samples, their ground truth and predictions as pictures.

Segmentation shows class colours, detection boxes (and masks) with names and scores, depth a perceptually uniform colour
map over the range of the ground truth, pixels without measurement grey. All are drawn on the model's own input.
"""

import colorsys
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save
from torch import Tensor

from sigma_ray.data import Info, Split
from sigma_ray.evaluate import targets_of, to_device
from sigma_ray.files import write_atomically
from sigma_ray.inference import predict
from sigma_ray.model import Model

CELL = 256  # pixels of a picture's longer side
MIN_SCORE = 0.3
MOST_BOXES = 30
DEPTH_COLOURS = "viridis_r"
NO_DEPTH = 128
# Kelly's list of greatest contrast, without black (ignored pixels) and white.
# fmt: off
CLASSES = (
    "#4E79A7", "#F3C300", "#875692", "#F38400", "#A1CAF1", "#BE0032", "#C2B280",
    "#848482", "#008856", "#E68FAC", "#0067A5", "#F99379", "#604E97", "#F6A600",
    "#B3446C", "#DCD300", "#882D17", "#8DB600", "#654522", "#E25822", "#2B3D26",
)
# fmt: on


def class_colours(ids: np.ndarray) -> np.ndarray:
    """Class ids (..., H, W) as colours (..., H, W, 3), uint8; always the same colour for the same id; 255 is black."""
    palette = np.zeros((256, 3), np.uint8)
    for index in range(255):
        if index < len(CLASSES):
            palette[index] = [int(CLASSES[index][start : start + 2], 16) for start in (1, 3, 5)]
        else:  # golden-ratio steps keep neighbours apart in hue
            colour = colorsys.hls_to_rgb(index * 0.618034 % 1, 0.35 + 0.3 * (index % 3) / 2, 0.65)
            palette[index] = [round(255 * part) for part in colour]
    return palette[ids]


def depth_colours(depth: np.ndarray, low: float, high: float) -> np.ndarray:
    """Metres (H, W) as colours (H, W, 3), uint8, between `low` and `high`; 0 or less is grey."""
    import matplotlib

    share = np.clip((depth - low) / max(high - low, 1e-6), 0, 1)
    colours = (matplotlib.colormaps[DEPTH_COLOURS](share)[..., :3] * 255).round().astype(np.uint8)
    colours[depth <= 0] = NO_DEPTH
    return colours


def draw_classes(image: Tensor, ids: Tensor) -> np.ndarray:
    """Class ids (H, W) at the size of `image` (3, h, w)."""
    return class_colours(_nearest(ids, image).cpu().numpy().astype(np.uint8))


def draw_depth(image: Tensor, depth: Tensor, span: tuple[float, float]) -> np.ndarray:
    """Depth (H, W) in metres at the size of `image` (3, h, w), coloured between the two ends of `span`."""
    return depth_colours(_nearest(depth, image).float().cpu().numpy(), *span)


def draw_boxes(image: Tensor, found: Mapping[str, Tensor], names: tuple[str, ...], scale: Tensor) -> np.ndarray:
    """Boxes, and masks where there are any, on `image` (3, h, w) uint8.

    `found` has boxes (N, 4) and labels (N,), and may have scores and masks; `scale` (2,) turns its pixels into those
    of `image`, in x and y. Labels below 0 are left out.
    """
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    image, labels = image.cpu(), found["labels"].cpu()
    keep = labels >= 0
    if "scores" in found:
        keep &= found["scores"].cpu() >= MIN_SCORE
    kept = keep.nonzero()[:MOST_BOXES, 0]
    if not len(kept):
        return image.permute(1, 2, 0).numpy()
    labels = labels[kept]
    colours: Any = [tuple(colour) for colour in class_colours(labels.numpy() % 255).tolist()]
    if "masks" in found:
        chosen = found["masks"][kept.to(found["masks"].device)].cpu()
        image = draw_segmentation_masks(image, _placed(chosen, image, scale), alpha=0.5, colors=colours)
    texts = [names[label] for label in labels.tolist()]
    if "scores" in found:
        scores = found["scores"].cpu()[kept].tolist()
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
    boxes = found["boxes"].cpu()[kept].float() * scale.cpu().float().repeat(2)
    boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 1)
    return draw_bounding_boxes(image, boxes, texts, colors=colours, width=2).permute(1, 2, 0).numpy()


def render(
    task: str, info: Info, image: Tensor, prediction: Any, target: Mapping[str, Any], *, longer: int = CELL
) -> dict[str, np.ndarray]:
    """One sample as pictures (h, w, 3) uint8 of one size: `image`, `prediction` and, where there is one, `target`.

    Args:
        task: decides how things are drawn.
        info: names, and the range of depth.
        image: (3, H, W) uint8 as the model got it.
        prediction: the sample's part of what the head predicted, in the pixels of `image` (or class ids).
        target: the sample's part of the targets, at the picture's original size.
        longer: pixels of the longer side of what is returned.
    """
    factor = longer / max(image.shape[-2:])
    size = [max(1, round(side * factor)) for side in image.shape[-2:]]
    shown = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().byte()
    drawn = {"prediction": _draw(task, info, image, shown, prediction, target, 1.0)}
    if target:
        scale = target.get("scale", 1.0)
        drawn["target"] = _draw(task, info, image, shown, target, target, scale)
    return {"image": shown.permute(1, 2, 0).cpu().numpy(), **drawn}


def _draw(
    task: str, info: Info, image: Tensor, shown: Tensor, found: Any, target: Mapping[str, Any], scale: Any
) -> np.ndarray:
    """A prediction, or the `target` itself, on `shown`; `scale` turns its pixels into those of `image`."""
    if task == "segmentation":
        ids = found["mask"] if found is target else found
        return draw_classes(shown, ids.argmax(0) if ids.ndim == 3 else ids)
    if task == "depth":
        span = _depth_span(target["depth"] if target else found, info)
        return draw_depth(shown, found["depth"] if found is target else found, span)
    zoom = torch.tensor([shown.shape[2] / image.shape[2], shown.shape[1] / image.shape[1]])
    return draw_boxes(shown, found, info.class_names, zoom * torch.as_tensor(scale).float().cpu())


def _depth_span(depth: Tensor, info: Info) -> tuple[float, float]:
    """The range that colours cover: nearly all of what was measured."""
    known = depth[depth > 0].float()
    if not known.numel():
        return info.min_depth, info.max_depth
    low, high = torch.quantile(
        known[:: max(1, known.numel() // 10_000)], torch.tensor([0.02, 0.98], device=known.device)
    )
    return low.item(), high.item()


@torch.inference_mode()
def examples(
    model: Model, split: Split, *, task: str, columns: tuple[str, ...], info: Info, device: torch.device, count: int = 4
) -> dict[str, np.ndarray]:
    """The first `count` samples of `split` as `image`, `target` and `prediction`, each (N, h, w, 3) uint8."""
    model.eval()
    indices = np.arange(min(count, len(split)))
    sample = split.take(indices, columns)
    images, targets = to_device(sample["image"], device), targets_of(sample, device)
    predictions = predict(model, images, info)
    drawn = [
        render(task, info, images[i], predictions[i], {name: value[i] for name, value in targets.items()})
        for i in range(len(indices))
    ]
    return {name: _stack([one[name] for one in drawn]) for name in ("image", "target", "prediction")}


def save_examples(path: Path, shown: Mapping[str, np.ndarray]) -> None:
    """Write what `examples` returned, for the study's figure."""
    write_atomically(path, save(dict(shown)))


def grid(shown: Mapping[str, np.ndarray]) -> bytes:
    """What `examples` returned as one PNG: a row a sample; image, ground truth, prediction."""
    columns = [shown[name] for name in ("image", "target", "prediction")]
    return png(np.concatenate([np.concatenate(list(column), axis=0) for column in columns], axis=1))


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of grey (H, W), uint8 or uint16, or RGB (H, W, 3) pixels."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format="PNG")
    return sink.getvalue()


def _nearest(values: Tensor, image: Tensor) -> Tensor:
    """(H, W) at the size of `image` (3, h, w), nearest neighbour."""
    return F.interpolate(values[None, None].float(), image.shape[-2:], mode="nearest-exact")[0, 0]


def _placed(masks: Tensor, image: Tensor, scale: Tensor) -> Tensor:
    """Masks (N, H, W), their pixels times `scale` in x and y, in the upper left of `image` (3, h, w)."""
    limits, factors = image.shape[-2:], scale.flip(0).tolist()
    sides = zip(masks.shape[-2:], factors, limits, strict=True)
    height, width = (min(max(1, round(side * factor)), limit) for side, factor, limit in sides)
    placed = torch.zeros(len(masks), *limits, dtype=torch.bool)
    placed[:, :height, :width] = F.interpolate(masks[None].float(), (height, width), mode="nearest-exact")[0].bool()
    return placed


def _stack(pictures: list[np.ndarray]) -> np.ndarray:
    """(N, h, w, 3); smaller pictures get a white margin on the right and below."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    return np.stack(
        [np.pad(p, ((0, height - p.shape[0]), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    )
