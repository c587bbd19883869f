"""Images a second that training can be fed with: where the bytes lie, who decodes them, and on how many threads.

Run:     python -m benchmarks.data_loading [--images 192] [--workers 1 2 4]

Generated JPEGs of COCO's usual size (640x480, about 140 KB) with masks, in ADE20K's layout; the recipe is that of
ADE20K at 512x512 (scale, crop, distort). Files come from the system's page cache. The first part compares the ways to a
decoded picture on one thread, the second complete training samples by the number of threads, and by worker processes
(torch's `DataLoader`), which is what the threads of `sigma_ray.data.loader` save us.
"""

import dataclasses
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from sigma_ray import data
from sigma_ray.data import Draws, Info, ade20k, loader, tables

BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What to measure.

    Attributes:
        images: how many files.
        workers: numbers of threads, and of processes.
    """

    images: int = 192
    workers: tuple[int, ...] = (1, 2, 4)


class One:
    """Training samples one by one, as `DataLoader` wants them."""

    def __init__(self, split: data.Split) -> None:
        self.split = split

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One sample."""
        sample = self.split.augmented(np.array([index]), ["mask"], draws(np.array([index])))
        return {name: values[0] for name, values in sample.items()}


def draws(indices: np.ndarray) -> Draws:
    """Some draws for these samples."""
    return Draws(mirrored=indices % 2 == 1, seeds=indices.astype(np.uint64))


def generate(root: Path, total: int) -> None:
    """`total` training pairs in ADE20K's layout, and one for validation."""
    generator = np.random.default_rng(0)
    for name, count in (("training", total), ("validation", 1)):
        for folder in ("images", "annotations"):
            (root / folder / name).mkdir(parents=True)
        for i in range(count):
            coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)).astype(np.float32)
            pixels += generator.normal(0, 10, (480, 640, 1))
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(root / "images" / name / f"{i:05}.jpg", quality=90)
            ids = generator.integers(0, 151, (6, 8), dtype=np.uint8)
            mask = Image.fromarray(ids).resize((640, 480), Image.Resampling.NEAREST)
            mask.save(root / "annotations" / name / f"{i:05}.png")


def rate(work: Callable[[], Any], total: int) -> float:
    """Images a second, the better of two runs."""
    best = 0.0
    for _ in range(2):
        started = time.perf_counter()
        work()
        best = max(best, total / (time.perf_counter() - started))
    return best


def decoders(paths: Sequence[Path], folder: Path) -> dict[str, Callable[[], Any]]:
    """Ways from a file, or from bytes in a table, to a decoded picture."""
    import cv2
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    cv2.setNumThreads(1)
    encoded = [np.frombuffer(path.read_bytes(), np.uint8) for path in paths]
    info = Info(image_size=(480, 640))
    rows = [{"bytes": encoded}]
    tables.build(folder, info=lambda: info, fingerprint=lambda: "", batches=lambda _: rows, splits=["train"])
    table = tables.Table.open(folder / "train.arrow")

    def pillow(source: Any) -> None:
        with Image.open(source) as image:
            image.convert("RGB")

    def stored(index: int) -> bytes:
        return table.take([index])["bytes"][0].tobytes()

    return {
        "files, Pillow (used)": lambda: [pillow(path) for path in paths],
        "bytes in a table, Pillow": lambda: [pillow(io.BytesIO(stored(i))) for i in range(len(paths))],
        "files, OpenCV": lambda: [cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) for path in paths],
        "files, torchvision": lambda: [
            decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8)), ImageReadMode.RGB) for path in paths
        ],
    }


def by_threads(split: data.Split, count: int) -> float:
    """Training samples a second, batches one after the other on `count` threads."""
    loader.set_num_threads(count)
    total = len(split) // BATCH * BATCH

    def work() -> None:
        for start in range(0, total, BATCH):
            indices = np.arange(start, start + BATCH)
            split.augmented(indices, ["mask"], draws(indices))

    return rate(work, total)


def by_processes(split: data.Split, count: int) -> float:
    """Training samples a second from `count` worker processes; their start is not counted."""
    from torch.utils.data import DataLoader

    loader.set_num_threads(1)
    dataset: Any = One(split)
    batches = DataLoader(
        dataset, batch_size=BATCH, num_workers=count, persistent_workers=True, drop_last=True,
        multiprocessing_context="fork",
    )  # fmt: skip
    for _ in batches:
        pass
    return rate(lambda: [None for _ in batches], len(split) // BATCH * BATCH)


def main(flags: Flags) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["SIGMA_RAY_CACHE"] = f"{name}/cache"
        root = Path(name) / "ade20k"
        generate(root, flags.images)
        started = time.perf_counter()
        cfg = ade20k.Config(root=str(root), val_fraction=0.01)
        split = data.open_data("ade20k", cfg, "segmentation").split("train")
        print(f"checking and hashing: {flags.images / (time.perf_counter() - started):.0f} pairs a second")
        paths = sorted((root / "images" / "training").iterdir())
        print(
            f"{sum(path.stat().st_size for path in paths) / len(paths) / 1e3:.0f} KB a picture, {os.cpu_count()} cores"
        )
        for how, work in decoders(paths, Path(name) / "bytes").items():
            print(f"decode   {how:28} {rate(work, len(paths)):7.0f} images/s")
        # Processes first: a fork copies no thread, and would wait for ever for those of a pool.
        for count in flags.workers:
            print(f"samples  {count:2} processes                 {by_processes(split, count):7.0f} images/s")
        for count in flags.workers:
            print(f"samples  {count:2} threads (used)            {by_threads(split, count):7.0f} images/s")


if __name__ == "__main__":
    main(tyro.cli(Flags))
