"""What is checked before any trial starts. Everything here raises one clear `ValueError`."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sigma_ray.config import TrialConfig
from sigma_ray.data import Data
from trainables import connection


def output_folder(path: Path) -> Path:
    """`path`, created, and proven writable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"--output must be a folder that can be written, but {path} cannot ({error.strerror}); choose another."
        ) from None
    return path.absolute()


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Hold the study's folder for this invocation; the operating system frees it whatever way the driver ends."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"this study is already running on {folder}; wait for it, stop it, or choose another --output."
        ) from None
    try:
        yield
    finally:
        lock.release()


def ray_address(address: str | None) -> str:
    """The address of the Ray cluster, which can be joined: `--address`, else $RAY_ADDRESS, else "local" for our own."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    connection.check(address)
    return address


def models(configs: Iterable[TrialConfig], data: Data) -> None:
    """Build every distinct model once: what cannot attach, load or keep its features is refused before training."""
    import torch

    from sigma_ray import feature_cache, model, train

    device, needed = torch.device("cuda" if torch.cuda.is_available() else "cpu"), {}
    for config in configs:
        built = model.build(config, data.info)
        if config.train.cache_features:
            precision = "bfloat16" if train.wants_bfloat16(config.train, device) else "float32"
            mirror = config.train.horizontal_flip
            needed |= feature_cache.needed_bytes(built, data, mirror=mirror, precision=precision)
    feature_cache.refuse_if_full(needed)
