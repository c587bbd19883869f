"""A finished trial applied to new pictures: the adapter and head that MLflow keeps, on the backbone they belong to."""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from sigma_ray.config import TrialConfig, from_dict
from trainables.trial import MODEL_FILE

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to apply, and to what.

    Attributes:
        run: MLflow's id of a finished trial's run.
        images: folder of pictures.
        tracking_uri: MLflow tracking store.
        weights: backbone weights, where they lie elsewhere than in the trial: hub or a file.
        output: folder for overlays and predictions.
    """

    run: str
    images: str
    tracking_uri: str = "sqlite:///mlflow.db"
    weights: str | None = None
    output: str = "predictions"


def main() -> None:
    """Parse the command line and predict; exit 2 when the input is refused."""
    flags = tyro.cli(Flags, prog="python -m studies.predict", description=__doc__)
    try:
        written = predict(flags)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print(f"{written} pictures in {flags.output}")


def predict(flags: Flags) -> int:
    """Write an overlay `<stem>.png` and the prediction itself for every picture; return how many.

    The prediction is `<stem>_mask.png` with class ids, `<stem>_depth.png` with 16-bit millimetres, or
    `<stem>_boxes.json` in COCO's results format.

    Raises:
        ValueError: no such run, a run without a model, other weights, no pictures, or one that cannot be read.
    """
    paths = _pictures(Path(flags.images))
    with tempfile.TemporaryDirectory() as scratch:
        model, config, info = _load(_model_file(flags, Path(scratch)), flags.weights)
    output = Path(flags.output)
    output.mkdir(parents=True, exist_ok=True)
    for path in paths:
        _write(output / path.stem, _apply(path, model, config, info), config.task, info)
    return len(paths)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"--images must be an existing folder, but got {folder}; check the path.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    stems = [path.stem for path in paths]
    if not paths or len(set(stems)) < len(stems):
        what = "has none" if not paths else "has two of one name, whose results would overwrite each other"
        raise ValueError(f"--images must hold pictures ({', '.join(SUFFIXES)}), but {folder} {what}.")
    return paths


def _model_file(flags: Flags, folder: Path) -> Path:
    """The run's model, on this machine."""
    from sigma_ray import tracker_uri
    from sigma_ray.mlflow_client import connect, download

    tracker_uri.check(flags.tracking_uri)
    client = connect(tracker_uri.absolute(flags.tracking_uri))
    try:
        return download(client, flags.run, MODEL_FILE, folder)
    except FileNotFoundError as error:
        raise ValueError(f"--run must be a finished trial, but {error}") from None
    except Exception as error:  # MLflow raises its own types, and those of the store's client
        raise ValueError(
            f"--run must be the id of a trial's run in {tracker_uri.redact(flags.tracking_uri)}, but got {flags.run!r} "
            f"({str(error).splitlines()[0]}); `trials.parquet` of a study has them as run_id."
        ) from None


def _load(path: Path, weights: str | None) -> tuple[Any, TrialConfig, Any]:
    """Model, configuration and the data's labels, from an adapter file."""
    from sigma_ray import model as models
    from sigma_ray.adapter_files import load_adapter, read_adapter
    from sigma_ray.data import Info

    extra = read_adapter(path).extra
    config, info = from_dict(json.loads(extra["config"])), Info.from_plain(json.loads(extra["info"]))
    if weights is not None:
        config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, weights=weights))
    model = models.build(config, info)
    load_adapter(path, model.backbone, head=model.head)
    return model.eval(), config, info


def _apply(path: Path, model: Any, config: TrialConfig, info: Any) -> dict[str, Any]:
    """Overlay (h, w, 3) uint8, and the prediction at the picture's own size."""
    raise NotImplementedError


def _write(stem: Path, found: Mapping[str, Any], task: str, info: Any) -> None:
    raise NotImplementedError
