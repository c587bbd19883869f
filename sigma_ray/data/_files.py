"""Files of a data set on disk: finding, hashing and holding out; what cannot be used is counted and named."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from sigma_ray.data.loader import parallel
from sigma_ray.paths import inside

T = TypeVar("T")
Files = Mapping[str, Iterable[Path]]
"""Files by split."""

SUFFIXES = {".jpg", ".jpeg", ".png"}
BATCH = 64
NUM_NAMED = 3


def existing_root(root: str | None, holds: str) -> Path:
    """The data set's folder.

    Raises:
        ValueError: it is not set, or no folder.
    """
    if root is None:
        raise ValueError(f"data.root must be the folder that holds {holds}, but got None; set it.")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise ValueError(f"data.root must be an existing folder, but got {root!r}; check the path.")
    return path


class Pair(NamedTuple):
    """An image file and the file of its target, which need not exist."""

    image: Path
    target: Path


def pairs_in(images: Path, targets: Path, *, both: bool = True) -> list[Pair]:
    """The images in a folder (and those below it), sorted, each with the PNG file of its name below `targets`.

    With `both` a target without an image makes a pair too, so that incomplete downloads come to light.

    Raises:
        ValueError: a folder is missing, or has no images.
    """
    for folder in (images, targets):
        if not folder.is_dir():
            raise ValueError(f"Images and targets must lie side by side, but {folder} is missing; see data.root.")
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{images} must hold .jpg or .png images, but it has none.")
    pairs = [Pair(path, targets / path.relative_to(images).with_suffix(".png")) for path in paths]
    if both:
        known = {pair.target for pair in pairs}
        lone = [path for path in targets.rglob("*.png") if path not in known]
        pairs += [Pair(images / path.relative_to(targets).with_suffix(".jpg"), path) for path in lone]
    return sorted(pairs)


def listed_pairs(listing: Path, bases: Sequence[Path]) -> list[Pair]:
    """Pairs from a file with lines "<image> <target> ...", relative to the first of the `bases` that has the image.

    Raises:
        ValueError: the list is missing or empty, or a line has no two paths, or one that leads out of its base.
    """
    pairs = []
    for line in lines_of(listing):
        names = [name.lstrip("/") for name in line.split()[:2]]
        if len(names) < 2:
            raise ValueError(f"{listing} must hold lines of two paths, image and target, but got {line!r}; correct it.")
        for name in names:
            inside(bases[0], name, listing)
        base = next((base for base in bases if (base / names[0]).is_file()), bases[0])
        pairs.append(Pair(base / names[0], base / names[1]))
    return pairs


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        ValueError: it is missing or has none.
    """
    if not path.is_file():
        raise ValueError(f"{path} must list the samples, but it is missing; see data.root.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} must list the samples, but it is empty; download it again.")
    return lines


def quick_hash(settings: Sequence[Any], root: Path, files: Files) -> str:
    """Hash of the settings and of the names, sizes and modification times of the files: quick, and local."""
    stats = [[split, path.relative_to(root).as_posix(), *_stat(path)] for split in files for path in files[split]]
    text = json.dumps([settings, str(root.resolve()), stats], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(settings: Sequence[Any], root: Path, files: Files) -> str:
    """Hash of the settings and of every file's relative name and bytes, by split; reads all files."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for split, paths in files.items():
        members = list(paths)
        for path, content in zip(members, parallel(_content, members), strict=True):
            digest.update(f"{split}\0{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def checked(
    samples: Sequence[T],
    read: Callable[[T], dict[str, np.ndarray]],
    *,
    among: str,
    max_unusable: float = 0.0,
    ragged: bool = True,
) -> Generator[dict[str, Any], None, list[str]]:
    """Read all samples on many threads and yield rows of a table; with `ragged`, lists of what has an axis or more.

    Returns:
        notes on what was left out: nothing, or one sentence.

    Raises:
        ValueError: a larger share than `max_unusable` of the samples, whose `read` raised ValueError, cannot be used;
            all are looked at first, the message counts them and names three.
    """
    problems: list[str] = []

    def attempt(sample: T) -> dict[str, np.ndarray] | str:
        try:
            return read(sample)
        except ValueError as error:
            return str(error)

    for start in range(0, len(samples), BATCH):
        results = list(parallel(attempt, samples[start : start + BATCH]))
        problems += [result for result in results if isinstance(result, str)]
        rows = [result for result in results if not isinstance(result, str)]
        if rows and len(problems) <= max_unusable * len(samples):
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            yield {name: v if ragged and v[0].ndim else np.stack(v) for name, v in columns.items()}
    if len(problems) > max_unusable * len(samples):
        raise ValueError(f"{_count(problems, f'{len(samples)} {among}')}. Repair or remove these files.")
    return [_count(problems, f"{len(samples)} {among}") + " and are left out"] if problems else []


def decode(path: Path) -> Image.Image:
    """The whole picture of a file, in its own mode.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    # Pillow reports a broken PNG as SyntaxError.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded ({str(error).splitlines()[0]})") from None


def decode_rgb(path: Path) -> Image.Image:
    """The picture of a file in 8-bit RGB; as stored, without regard to an orientation tag.

    Raises:
        ValueError: the file is missing, damaged or of more than 8 bits.
    """
    image = decode(path)
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{path} has pixels of mode {image.mode}, but 8-bit grey or colour is needed")
    return image if image.mode == "RGB" else image.convert("RGB")


def held_out(groups: Sequence[str], share: float, seed: int, where: str) -> set[str]:
    """The groups whose names hash lowest together with `seed`, so many that their samples make up about `share`.

    Args:
        groups: every sample's group: its own name, or that of a scene whose frames must stay together.
        share: of the samples.
        seed: another one chooses others.
        where: for the message.

    Raises:
        ValueError: fewer than two groups.
    """
    counts: dict[str, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    if len(counts) < 2:
        raise ValueError(f"{where} must hold 2 images (of different scenes) or more to split off val; add images.")
    wanted, chosen = max(1, round(share * len(groups))), set()
    ranked = sorted(counts, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
    for name in ranked[:-1]:
        chosen.add(name)
        wanted -= counts[name]
        if wanted <= 0:
            break
    return chosen


def three_splits(
    found: Mapping[str, Sequence[T]], group: Callable[[T], str], share: float, seed: int, where: str
) -> dict[str, list[T]]:
    """Samples of "train", "val" and "test", out of those published.

    All three are used as they are. With "train" and one other, that one becomes "test", which no choice may look at,
    and "val" is held out of the training samples by their `group`.
    """
    if len(found) == 3:
        return {split: list(found[split]) for split in ("train", "val", "test")}
    (test,) = (samples for split, samples in found.items() if split != "train")
    chosen = held_out([group(sample) for sample in found["train"]], share, seed, where)
    train = [sample for sample in found["train"] if group(sample) not in chosen]
    return {"train": train, "val": [s for s in found["train"] if group(s) in chosen], "test": list(test)}


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _content(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"


def _count(problems: list[str], among: str) -> str:
    more = f"; and {len(problems) - NUM_NAMED} more" if len(problems) > NUM_NAMED else ""
    return f"{len(problems)} of the {among} cannot be used: {'; '.join(problems[:NUM_NAMED])}{more}"
