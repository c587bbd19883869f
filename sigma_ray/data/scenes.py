"""Procedural scenes: objects of eight shapes and many sizes on a ground plane, with exact labels.

The classes differ by shape and never by colour: colours and textures are drawn without looking at the class.
The *source* domain (random colours, stripes, gradients, clean) is for pre-training; the *target* domain shows
the same shapes with other textures, colour casts, low contrast, blur, noise and a wider range of sizes. Image
`i` of a split depends on (seed, domain, split, i) alone, so splits and domains are disjoint by construction
and any batch may be rendered anywhere.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from sigma_ray.checks import fraction, non_negative, one_of, positive
from sigma_ray.data import _shapes, _textures
from sigma_ray.data._info import Info

CLASS_NAMES = ("sky", "ground", *_shapes.SHAPES)
NUM_STUFF = 2  # the leading classes that are no objects
COLUMNS = {
    "segmentation": ("image", "mask"),
    "detection": ("image", "boxes", "labels", "area", "instance"),
    "depth": ("image", "depth"),
}
SPLITS = ("train", "val", "test")
DOMAINS = ("source", "target")
VERSION = 1  # part of the fingerprint: raise it whenever a pixel changes
BATCH = 64
_PER_IMAGE = ("count", "horizon", "near", "blur", "contrast", "sigma")
_PER_SLOT = ("kind", "size", "order", "base", "lift", "tilt", "thick", "variant")
_PER_REGION = ("pattern", "angle", "frequency", "phase", "amplitude")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which scenes, and how many.

    Attributes:
        image_size: (height, width) in pixels.
        domain: "source" (for pre-training) or "target" (for adaptation).
        num_train: images of the training split.
        num_val: images of the validation split.
        num_test: images of the test split.
        seed: another seed gives other scenes of the same kind.
        min_object: width of the thinnest part of an object, in pixels.
        max_object_fraction: diameter of the largest object, as a share of the shorter image side.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "detection", "depth")

    image_size: tuple[int, int] = (64, 64)
    domain: str = "target"
    num_train: int = 1024
    num_val: int = 256
    num_test: int = 256
    seed: int = 0
    min_object: int = 3
    max_object_fraction: float = 0.5

    def __post_init__(self) -> None:
        """Check every field."""
        if len(self.image_size) != 2:
            raise ValueError(f"data.image_size must be (height, width), but got {self.image_size!r}; use 64,64.")
        for name in ("num_train", "num_val", "num_test", "min_object", "max_object_fraction"):
            positive(f"data.{name}", getattr(self, name))
        positive("data.image_size", min(self.image_size))
        one_of("data.domain", self.domain, ("source", "target"))
        non_negative("data.seed", self.seed)
        fraction("data.max_object_fraction", self.max_object_fraction)
        largest = self.max_object_fraction * min(self.image_size)
        if largest < 6 * self.min_object:
            raise ValueError(
                f"data.max_object_fraction x the shorter image side must be at least 6 x min_object, but got "
                f"{largest:g} against {6 * self.min_object}; enlarge image_size or lower min_object."
            )


def render(
    indices: Sequence[int] | np.ndarray,
    *,
    seed: int = 0,
    split: str = "train",
    domain: str = "target",
    image_size: tuple[int, int] = (64, 64),
    min_object: int = 3,
    max_object_fraction: float = 0.5,
) -> dict[str, np.ndarray]:
    """Render B scenes at once; each is the same whatever else is in the batch.

    Args:
        indices: numbers of the scenes in the split, each 0 or greater; any number may be asked for.
        seed: see `Config`, like the arguments below.
        split: "train", "val" or "test".
        domain: "source" or "target".
        image_size: (height, width) in pixels.
        min_object: thinnest part, in pixels.
        max_object_fraction: largest diameter, as a share of the shorter side.

    Returns:
        "image" uint8 (B, 3, H, W); "mask" uint8 (B, H, W) class numbers; "instance" uint8 (B, H, W), slot + 1
        of the object seen, 0 for sky and ground; "depth" float32 (B, H, W) in metres; "boxes" float32 (B, S,
        4), the edges x0, y0, x1, y1 in pixels of what is visible; "labels" int64 (B, S), -1 where a slot is
        empty or fully hidden.
    """
    one_of("split", split, SPLITS)
    one_of("domain", domain, DOMAINS)
    numbers = np.asarray(indices, dtype=np.int64)
    if numbers.size and numbers.min() < 0:
        raise ValueError(f"indices must be 0 or greater, but got {numbers.min()}; count scenes from 0.")
    u, noise = _draw(numbers, seed, split, domain, image_size)
    diameters = 2.0 * min_object, max_object_fraction * min(image_size)
    if domain == "source":  # a narrower band of sizes: part of the gap that adaptation has to bridge
        diameters = 3.5 * min_object, max(0.75 * diameters[1], 4.5 * min_object)
    scene = _shapes.lay_out(u, image_size, diameters, float(min_object))
    covered = _shapes.covers(scene, image_size)
    return _compose(scene, covered, u, noise, domain == "target")


def _draw(
    indices: np.ndarray, seed: int, split: str, domain: str, image_size: tuple[int, int]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Uniform draws by name and standard normal noise (B, 3, H, W), one counter-based generator an image."""
    slots, regions = _shapes.NUM_SLOTS, _shapes.NUM_SLOTS + 2
    shapes: dict[str, tuple[int, ...]] = {name: () for name in _PER_IMAGE}
    shapes |= {name: (slots,) for name in _PER_SLOT} | {name: (regions,) for name in _PER_REGION}
    shapes |= {
        "place": (slots, _shapes.NUM_CANDIDATES),
        "colour": (regions, _textures.NUM_COLOURS, 3),
        "accent": (regions, 3),
        "cast": (3,),
        "lattice": (_textures.LATTICE**2,),
    }
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    uniform = np.empty((len(indices), sum(sizes)))
    noise = np.empty((len(indices), 3, *image_size), dtype=np.float32)
    stream = (1 + SPLITS.index(split)) * len(DOMAINS) + DOMAINS.index(domain)
    for row, index in enumerate(indices):
        key = np.array([seed, (stream << 48) + int(index)], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        generator.random(out=uniform[row])
        generator.standard_normal(dtype=np.float32, out=noise[row])
    parts = np.split(uniform, np.cumsum(sizes)[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}, noise


def _compose(
    scene: dict[str, np.ndarray],
    covered: np.ndarray,
    u: dict[str, np.ndarray],
    noise: np.ndarray,
    target: bool,
) -> dict[str, np.ndarray]:
    """Paint the slots back to front and read every label off the result."""
    batch, slots, height, width = covered.shape
    ground = np.arange(height) + 0.5 >= scene["horizon"][:, None]
    region = np.repeat(ground[:, :, None], width, axis=2).astype(np.uint8)
    for slot in range(slots):
        region[covered[:, slot]] = slot + 2
    boxes, visible = _boxes(region, slots)
    labels = np.where(visible, scene["kind"] + 2, -1)
    region_label = np.concatenate([np.tile([0, 1], (batch, 1)), scene["kind"] + 2], axis=1).astype(np.uint8)
    region_depth = np.concatenate([np.full((batch, 2), _shapes.FAR), scene["depth"]], axis=1).astype(np.float32)
    flat = region.reshape(batch, -1).astype(np.int64)
    depth = np.take_along_axis(region_depth, flat, axis=1).reshape(region.shape)
    depth = np.where(region == 1, scene["ground"].astype(np.float32)[:, :, None], depth)
    image = _textures.paint(flat.reshape(region.shape), u, target)
    return {
        "image": _textures.photograph(image, noise, u, target),
        "mask": np.take_along_axis(region_label, flat, axis=1).reshape(region.shape),
        "instance": np.where(region > 1, region - 1, 0).astype(np.uint8),
        "depth": depth,
        "boxes": boxes,
        "labels": labels.astype(np.int64),
    }


def _boxes(region: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (B, S, 4) of the visible pixels of every slot, and whether there are any (B, S)."""
    height, width = region.shape[1:]
    boxes = np.zeros((len(region), slots, 4), dtype=np.float32)
    visible = np.zeros((len(region), slots), dtype=bool)
    for slot in range(slots):
        seen = region == slot + 2
        rows, columns = seen.any(axis=2), seen.any(axis=1)
        visible[:, slot] = rows.any(axis=1)
        boxes[:, slot, 0], boxes[:, slot, 1] = columns.argmax(axis=1), rows.argmax(axis=1)
        boxes[:, slot, 2] = width - columns[:, ::-1].argmax(axis=1)
        boxes[:, slot, 3] = height - rows[:, ::-1].argmax(axis=1)
    boxes[~visible] = 0.0
    return boxes, visible


def needs(cfg: Config) -> list[str]:
    """Nothing: scenes are rendered."""
    return ["data     procedural scenes, rendered here: nothing to download"]


def info(cfg: Config, task: str) -> Info:
    """Labels and geometry of the scenes: for detection the shapes alone, because sky and ground are no objects."""
    one_of("task", task, cfg.tasks)
    if task == "depth":
        return Info(image_size=cfg.image_size, max_depth=_shapes.FAR)
    labels = CLASS_NAMES if task == "segmentation" else CLASS_NAMES[NUM_STUFF:]
    return Info(num_classes=len(labels), class_names=labels, image_size=cfg.image_size)


def fingerprint(cfg: Config, task: str) -> str:
    """Hash of everything that decides a pixel or a label; one for all tasks."""
    text = json.dumps({"scenes": VERSION, "classes": CLASS_NAMES, **asdict(cfg)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def cache_key(cfg: Config, task: str) -> str:
    """Name of the tables in the cache. Each task has its own, with no more columns than it reads."""
    return hashlib.sha256(f"{task} {fingerprint(cfg, task)}".encode()).hexdigest()


def batches(cfg: Config, task: str, split: str) -> Iterator[dict[str, np.ndarray]]:
    """Yield all samples of "train", "val" or "test" in order, some dozens at a time, with the columns of `task`."""
    one_of("split", split, SPLITS)
    total = {"train": cfg.num_train, "val": cfg.num_val, "test": cfg.num_test}[split]
    for start in range(0, total, BATCH):
        scene = render(
            range(start, min(start + BATCH, total)),
            seed=cfg.seed,
            split=split,
            domain=cfg.domain,
            image_size=cfg.image_size,
            min_object=cfg.min_object,
            max_object_fraction=cfg.max_object_fraction,
        )
        if task == "detection":
            scene |= _objects(scene)
        yield {name: scene[name] for name in COLUMNS[task]}


def _objects(scene: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels 0 .. 7 of the shapes, -1 where a slot shows nothing, and the visible pixels of every slot."""
    labels, instance = scene["labels"], scene["instance"]
    slots = np.arange(1, labels.shape[1] + 1)
    area = (instance[:, None] == slots[:, None, None]).sum(axis=(2, 3))
    return {"labels": np.where(labels < 0, -1, labels - NUM_STUFF), "area": area.astype(np.float64)}
