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
from sigma_ray.redaction import redact
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
        print(f"error: {redact(' '.join(str(error).split()))}", file=sys.stderr)
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
        image, found = _apply(path, model, config, info)
        _write(output / path.stem, image, found, config.task, info)
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
    from sigma_ray.mlflow_files import download
    from trainables import recorded

    client = recorded.client_for(flags.tracking_uri)
    try:
        return download(client, flags.run, MODEL_FILE, folder)
    except FileNotFoundError as error:
        raise ValueError(f"--run must be a finished trial, but {error}") from None
    except Exception as error:  # MLflow raises its own types, and those of the store's client
        raise ValueError(
            f"--run must be the id of a trial's run in {redact(flags.tracking_uri)}, but got {flags.run!r} "
            f"({redact(str(error).splitlines()[0])}); `trials.parquet` of a study has them as run_id."
        ) from None


def _load(path: Path, weights: str | None) -> tuple[Any, TrialConfig, Any]:
    """Model, configuration and the data's labels, from an adapter file."""
    import torch

    from sigma_ray import model as models
    from sigma_ray.adapter_files import load_adapter, read_adapter
    from sigma_ray.data import Info

    extra = read_adapter(path).extra
    if not {"config", "info"} <= extra.keys():
        raise ValueError(
            f"--run must be a trial of a version that keeps its data's labels with the model, but {path} has none; run "
            "the study again."
        )
    config, info = from_dict(json.loads(extra["config"])), Info.from_plain(json.loads(extra["info"]))
    if weights is not None:
        config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, weights=weights))
    model = models.build(config, info)
    load_adapter(path, model.backbone, head=model.head)
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), config, info


def _apply(path: Path, model: Any, config: TrialConfig, info: Any) -> tuple[Any, Any]:
    """A picture uint8 (3, h, w), and what the model predicts for it, in its own pixels."""
    import torch
    from PIL import Image

    from sigma_ray.inference import predict as infer

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} must be a picture, but cannot be decoded ({error}); remove it.") from None
    seen, scale = _prepare(image, config, info)
    seen = seen.to(next(model.parameters()).device)
    with torch.inference_mode():
        # Pictures of a size of their own, which only segmentation sees, go to the model in a list.
        found = infer(model, seen[None] if seen.shape[1:] == info.image_size else [seen], info)[0]
    return torch.from_numpy(_pixels(image)), _in_own_pixels(found, config.task, (image.height, image.width), scale)


def _prepare(image: Any, config: TrialConfig, info: Any) -> tuple[Any, tuple[float, float]]:
    """The model's input (3, H, W), as test images of the trial's data had it, and its scale in x and y."""
    import torch
    from PIL import Image

    from sigma_ray import components, data

    module = data.load(components.name_of(config.data))
    if hasattr(module, "recipe"):
        recipe = module.recipe(config.data)
        pixels, scaled = recipe.shown(image), recipe.view((image.height, image.width)).scaled
    else:  # decoded once, at one size
        scaled = info.image_size
        pixels = _pixels(image.resize((scaled[1], scaled[0]), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels), (scaled[1] / image.width, scaled[0] / image.height)


def _pixels(image: Any) -> Any:
    import numpy as np

    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _in_own_pixels(found: Any, task: str, size: tuple[int, int], scale: tuple[float, float]) -> Any:
    """A prediction at the picture's own size (h, w): class ids, metres, or boxes (and masks)."""
    import torch
    import torch.nn.functional as F

    from sigma_ray.tasks.segmentation import best_class

    if task == "detection":
        masks = {}
        if "masks" in found:
            seen = [round(side * factor) for side, factor in zip(size, scale[::-1], strict=True)]
            cut = found["masks"][:, None, : seen[0], : seen[1]].float()
            masks = {"masks": F.interpolate(cut, size, mode="bilinear")[:, 0] > 0.5}
        limits = torch.tensor([size[1], size[0]] * 2, dtype=torch.float)  # without the padding
        return found | {"boxes": (found["boxes"].cpu() / torch.tensor(scale * 2)).minimum(limits)} | masks
    if task == "segmentation":
        return best_class(found.float(), size)
    return F.interpolate(found[None, None].float(), size, mode="bilinear")[0, 0]


def _write(stem: Path, image: Any, found: Any, task: str, info: Any) -> None:
    """Write overlay and prediction of one picture."""
    import numpy as np

    from sigma_ray import pictures
    from sigma_ray.files import write_atomically

    drawn = pictures.render(task, info, image, found, {}, longer=max(image.shape[-2:]))
    overlay = drawn["prediction"]
    if task == "segmentation":
        overlay = (drawn["image"] // 2 + overlay // 2).astype(np.uint8)
        write_atomically(Path(f"{stem}_mask.png"), pictures.png(found.cpu().numpy().astype(np.uint8)))
    elif task == "depth":
        millimetres = (found.cpu().numpy() * 1000).round().clip(0, 65535).astype(np.uint16)
        write_atomically(Path(f"{stem}_depth.png"), pictures.png(millimetres))
    else:
        write_atomically(Path(f"{stem}_boxes.json"), json.dumps(_coco(found, info), indent=1).encode())
    write_atomically(Path(f"{stem}.png"), pictures.png(overlay))


def _coco(found: Mapping[str, Any], info: Any) -> list[dict[str, Any]]:
    """Boxes in COCO's results format, with the class's name."""
    results = []
    for box, score, label in zip(*(found[name].cpu().tolist() for name in ("boxes", "scores", "labels")), strict=True):
        left, top, right, bottom = box
        category = info.category_ids[label] if info.category_ids else label + 1
        name, bbox = info.class_names[label], [left, top, right - left, bottom - top]
        results.append({"category_id": category, "category": name, "bbox": bbox, "score": score})
    return results
