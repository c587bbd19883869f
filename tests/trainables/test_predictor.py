"""A finished trial on new pictures: what is written, at which size, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sigma_ray import data, profiles, tasks
from sigma_ray.config import override_all, to_dict
from sigma_ray.mlflow_client import connect
from trainables import predictor
from trainables.trial import MODEL_FILE, Spec, execute

SETTINGS = [("train.num_steps", 2), ("train.warmup_steps", 0), ("train.eval_interval", 2)]
SETTINGS += [("data.num_train", 8), ("data.num_val", 4), ("data.num_test", 4), ("train.batch_size", 4)]
OUTPUTS = {"segmentation": "_mask.png", "depth": "_depth.png", "detection": "_boxes.json"}


@pytest.fixture(scope="module", params=tasks.TASKS)
def run(request, tmp_path_factory):
    """A two-step trial of a task, in an MLflow store: (task, flags without images, its folder, its reports)."""
    folder = tmp_path_factory.mktemp(request.param)
    config, reports = override_all(profiles.load("demo", request.param), SETTINGS), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGMA_RAY_CACHE", str(folder / "cache"))
        execute(Spec(key="k", arm="a", seed=0, config=to_dict(config), folder=str(folder / "trial")), reports.append)
    uri = f"sqlite:///{folder}/mlflow.db"
    client = connect(uri)
    found = client.create_run(client.create_experiment("s", (folder / "artifacts").as_uri()))
    client.log_artifact(found.info.run_id, str(folder / "trial" / MODEL_FILE))
    empty = client.create_run(found.info.experiment_id)
    return request.param, {"run": found.info.run_id, "tracking_uri": uri}, folder, reports, empty.info.run_id


@pytest.fixture
def images(tmp_path):
    """A picture of the trial's own size and one of another shape."""
    folder = tmp_path / "images"
    folder.mkdir()
    sample = data.load("scenes").render(range(1))["image"][0]
    Image.fromarray(sample.transpose(1, 2, 0)).save(folder / "own.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)).save(folder / "wide.jpg")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_every_picture_gets_an_overlay_and_a_prediction_of_its_own_size(run, images, tmp_path):
    task, flags, folder, *_ = run
    assert predictor.predict(predictor.Flags(**flags, images=str(images), output=str(tmp_path / "out"))) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"{stem}{end}" for stem in ("own", "wide") for end in (".png", OUTPUTS[task])]
    )
    overlay = Image.open(tmp_path / "out" / "wide.png")
    assert overlay.size == (90, 50) and overlay.mode == "RGB"
    model, _, info = predictor._load(folder / "trial" / MODEL_FILE, None)
    with torch.no_grad():
        wanted = model(torch.from_numpy(data.load("scenes").render(range(1))["image"]))[0]
    written = tmp_path / "out" / f"own{OUTPUTS[task]}"
    if task == "detection":
        found, wide = json.loads(written.read_text()), json.loads((tmp_path / "out" / "wide_boxes.json").read_text())
        assert [box["score"] for box in found] == pytest.approx(wanted["scores"].tolist())
        assert found[0]["category"] == info.class_names[wanted["labels"][0]]
        assert found[0]["bbox"][:2] == pytest.approx(wanted["boxes"][0, :2].tolist())
        edges = np.array([box["bbox"] for box in wide])
        assert (edges[:, 0] + edges[:, 2]).max() <= 90.01 and (edges[:, 1] + edges[:, 3]).max() <= 50.01
        return
    found = np.asarray(Image.open(written))
    assert np.asarray(Image.open(tmp_path / "out" / f"wide{OUTPUTS[task]}")).shape == (50, 90)
    if task == "segmentation":
        assert np.array_equal(found, wanted.argmax(0))
    else:
        assert found == pytest.approx(wanted.numpy() * 1000, abs=0.51)


def test_boxes_end_where_the_picture_does():
    """The model's input goes on below, with padding."""
    found = {"boxes": torch.tensor([[4.0, 2, 40, 40]]), "scores": torch.ones(1), "labels": torch.zeros(1).long()}
    boxes = predictor._in_own_pixels(found, "detection", (50, 80), (0.5, 0.5))["boxes"]
    assert boxes.tolist() == [[8, 4, 80, 50]]


def test_the_trial_reports_pictures_at_start_middle_and_end(run):
    _, _, folder, reports, _ = run
    drawn = [path for report in reports for path in report.get("pictures", [])]
    assert [path.removeprefix(str(folder)) for path in drawn] == [
        f"/trial/pictures/val-step-000000{step}.png"
        for step in (0, 2)  # the middle has no evaluation of its own
    ]
    assert {Image.open(path).size for path in drawn} == {(3 * 256, 4 * 256)}


def test_what_cannot_be_used_is_one_clear_error(run, images, tmp_path):
    _, flags, folder, _, empty = run
    other = tmp_path / "other.safetensors"
    other.write_bytes((folder / "trial" / MODEL_FILE).read_bytes())
    old = client_with(folder / "old", other)
    refusals = [
        (flags | old, images, "must be a trial of a version that keeps"),
        (flags | {"run": "nope"}, images, "--run must be the id of a trial's run"),
        (flags | {"run": empty}, images, "--run must be a finished trial"),
        (flags | {"tracking_uri": "sqlite:////no/such/folder/x.db"}, images, "no/such/folder"),
        (flags | {"weights": str(other)}, images, "do not fit backbone"),
        (flags, tmp_path / "none", "--images must be an existing folder"),
        (flags, folder, "--images must hold pictures"),
    ]
    for given, place, says in refusals:
        with pytest.raises(ValueError, match=says):
            predictor.predict(predictor.Flags(**given, images=str(place), output=str(tmp_path / "out")))
    (images / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png must be a picture"):
        predictor.predict(predictor.Flags(**flags, images=str(images), output=str(tmp_path / "out")))
    (images / "broken.png").rename(images / "own.jpg")
    with pytest.raises(ValueError, match="two of one name"):
        predictor.predict(predictor.Flags(**flags, images=str(images), output=str(tmp_path / "out")))


def client_with(folder, model):
    """Flags for a run whose model file says nothing of its configuration, as those of older versions."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(model, framework="pt") as file:
        meta = {name: value for name, value in file.metadata().items() if name != "info"}
    folder.mkdir(exist_ok=True)
    save_file(load_file(model), folder / MODEL_FILE, meta)
    uri = f"sqlite:///{folder}/mlflow.db"
    client = connect(uri)
    run = client.create_run(client.create_experiment("s", (folder / "artifacts").as_uri()))
    client.log_artifact(run.info.run_id, str(folder / MODEL_FILE))
    return {"run": run.info.run_id, "tracking_uri": uri}


def test_the_command_refuses_in_one_line(tmp_path):
    command = [sys.executable, "-m", "studies.predict", "--run", "r", "--images", "no/such/folder"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --images") and done.stderr.count("\n") == 1
