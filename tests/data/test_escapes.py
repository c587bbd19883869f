"""Names in annotations and lists cannot leave the data set's folder."""

import json
from pathlib import Path
from typing import Any

import photo_sets
import pytest

from sigma_ray import data
from sigma_ray.data import coco, nyuv2, pascal_context, rgbd

NAMES = ["../../secret.jpg", "a/../../b.jpg", "..\\b.jpg"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path / "cache"))


def refused(name: str, cfg: Any, task: str, listing: Path | str) -> None:
    """Refused before anything is read, not counted among files that cannot be used; the message names the list."""
    with pytest.raises(ValueError, match=r"must name files below .*, but got .* are refused") as caught:
        data.open_data(name, cfg, task, [])
    assert str(listing) in str(caught.value)
    assert not list((Path(cfg.root).parent / "cache").glob("*/meta.json"))


@pytest.mark.parametrize("name", [*NAMES, "/etc/passwd", ""])
def test_coco(tmp_path: Path, name: str) -> None:
    root = photo_sets.coco(tmp_path / "coco", {"train2017": 4, "val2017": 2})
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = name
    path.write_text(json.dumps(content))
    refused("coco", coco.Config(root=str(root), max_unusable=0.9), "detection", path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("column", [0, 1])
def test_nyu(tmp_path: Path, name: str, column: int) -> None:
    root = photo_sets.nyu_bts(tmp_path / "nyu")
    path = root / nyuv2.LIST.format(split="train")
    lines = [line.split() for line in path.read_text().splitlines()]
    lines[1][column] = name
    path.write_text("\n".join(map(" ".join, lines)))
    refused("nyuv2", nyuv2.Config(root=str(root), max_unusable=0.9), "depth", path)


@pytest.mark.parametrize("name", [*NAMES, "/etc/passwd"])
def test_pascal_context(tmp_path: Path, name: str) -> None:
    root = photo_sets.pascal_context(tmp_path / "voc")
    (path,) = root.rglob("train.txt")
    path.write_text(f"{path.read_text()}{name}\n")
    refused("pascal_context", pascal_context.Config(root=str(root), max_unusable=0.9), "segmentation", path)


def test_rgbd(tmp_path: Path) -> None:
    """Lines of its lists, and the list that the configuration names."""
    root = photo_sets.rgbd(tmp_path / "rgbd")
    refused("rgbd", rgbd.Config(root=str(root), test_list="../../test"), "depth", "data.test_list")
    path = root / "splits" / "val.txt"
    path.write_text(f"{path.read_text()}rgb/../../a.jpg depth/a.png\n")
    refused("rgbd", rgbd.Config(root=str(root), max_unusable=0.9), "depth", path)
