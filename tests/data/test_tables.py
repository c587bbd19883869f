"""Tables: what goes in comes out, a half-written one is never seen, and concurrent builders build once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ray import data
from sigma_ray.data import _columns, scenes, tables
from sigma_ray.data._info import Info

INFO = Info(num_classes=3, class_names=("a", "b", "c"), image_size=(4, 5))
SAMPLE = {"image": ((3, 4, 5), np.uint8), "depth": ((4, 5), np.float32), "label": ((), np.int64)}

# Builds `folder` in another process: each batch appends to `log` and takes a while.
BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from sigma_ray.data import tables
from sigma_ray.data._info import Info

folder, log, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def batches(split):
    for i in range(4):
        with log.open("a") as file:
            file.write(f"{split}{i}\\n")
        yield {"image": np.full((2, 3, 4, 5), i, np.uint8)}
        time.sleep(pause)

info = Info(num_classes=3, class_names=("a", "b", "c"), image_size=(4, 5))
tables.build(folder, info=lambda: info, fingerprint=lambda: "f", batches=batches, splits=("train", "val"))
"""


def samples(total: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random samples with the columns of SAMPLE."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (total, *shape)).astype(dtype) for name, (shape, dtype) in SAMPLE.items()}


def cut(content: dict[str, np.ndarray], sizes: list[int]) -> Iterator[dict[str, np.ndarray]]:
    """The samples in batches of the given sizes."""
    start = 0
    for size in sizes:
        yield {name: values[start : start + size] for name, values in content.items()}
        start += size


def build(folder: Path, content: dict[str, np.ndarray] | None = None, sizes: tuple[int, ...] = (3, 4)) -> tables.Meta:
    """Build `folder` with a single split "train"."""
    whole = samples(sum(sizes)) if content is None else content
    return tables.build(
        folder,
        info=lambda: INFO,
        fingerprint=lambda: "f",
        batches=lambda _: cut(whole, list(sizes)),
        splits=["train"],
    )


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99), pick=st.data())
def test_take_returns_the_samples_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int, pick: st.DataObject
) -> None:
    content, folder = samples(sum(sizes), seed), tmp_path_factory.mktemp("tables") / "t"
    build(folder, content, tuple(sizes))
    table = tables.Table.open(folder / "train.arrow")
    rows = pick.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=12))
    assert len(table) == sum(sizes)
    for name, values in table.take(rows).items():
        assert values.dtype == content[name].dtype
        np.testing.assert_array_equal(values, content[name][rows])


def test_samples_are_copies_of_a_mapped_file(tmp_path: Path) -> None:
    build(tmp_path / "t")
    table = tables.Table.open(tmp_path / "t" / "train.arrow")
    view = table._views["image"][1]
    assert not view.flags.owndata
    assert not view.flags.writeable
    taken = table.take(np.array([3]))["image"]
    before = taken.copy()
    taken[:] = 0
    np.testing.assert_array_equal(table.take([3])["image"], before)


@pytest.mark.parametrize("rows", [[-1], [0, 7]])
def test_rows_outside_the_table_are_refused(tmp_path: Path, rows: list[int]) -> None:
    build(tmp_path / "t")
    with pytest.raises(IndexError, match=r"indices must lie in 0 \.\. 6"):
        tables.Table.open(tmp_path / "t" / "train.arrow").take(rows)


def test_a_second_build_reads_what_the_first_wrote(tmp_path: Path) -> None:
    first = build(tmp_path / "t")
    assert first == build(tmp_path / "t", samples(2, seed=5), (2,))
    assert first.info == INFO
    assert first.rows == {"train": 7}
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["meta.json", "train.arrow"]


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "no meta", "bad meta", "rows", "format"])
def test_damaged_tables_are_built_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "t"
    build(folder)
    arrow, meta = folder / "train.arrow", folder / "meta.json"
    plain = json.loads(meta.read_text())
    match damage:
        case "cut":
            os.truncate(arrow, arrow.stat().st_size // 2)
        case "empty":
            os.truncate(arrow, 0)
        case "gone":
            arrow.unlink()
        case "no meta":
            meta.unlink()
        case "bad meta":
            meta.write_text(meta.read_text()[:-30])
        case "rows":
            meta.write_text(json.dumps(plain | {"rows": {"train": 6}}))
        case "format":
            meta.write_text(json.dumps(plain | {"format": 0}))
    assert tables.read_meta(folder) is None
    assert "damaged" in caplog.text
    assert build(folder).rows == {"train": 7}
    np.testing.assert_array_equal(tables.Table.open(arrow).take(range(7))["image"], samples(7)["image"])


@pytest.mark.parametrize("content", [None, b"", b"ARROW1 and more"])
def test_opening_no_table_says_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "train.arrow"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot open the table .*train.arrow: it is .*; delete ") as caught:
        tables.Table.open(path)
    assert "\n" not in str(caught.value)


def test_a_failing_source_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken(_: str) -> Iterator[dict[str, np.ndarray]]:
        yield samples(2)
        raise ValueError("bad file")

    with pytest.raises(ValueError, match="bad file"):
        tables.build(tmp_path / "t", info=lambda: INFO, fingerprint=lambda: "f", batches=broken, splits=["train"])
    assert [path.name for path in tmp_path.iterdir()] in ([], ["t.lock"])


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=2, max_size=9), cut_at=st.integers(1, 8))
def test_ragged_columns_keep_every_row(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], cut_at: int
) -> None:
    rng = np.random.default_rng(0)
    boxes = [rng.random((n, 4)).astype(np.float32) for n in lengths]
    names = [_columns.text("é" * n) for n in lengths]
    cut_at = min(cut_at, len(lengths) - 1)
    batches = [
        {"boxes": boxes[part], "name": names[part], "number": np.arange(len(lengths))[part]}
        for part in (slice(cut_at), slice(cut_at, None))
    ]
    folder = tmp_path_factory.mktemp("ragged") / "t"
    tables.build(folder, info=lambda: INFO, fingerprint=lambda: "f", batches=lambda _: batches, splits=["train"])
    table = tables.Table.open(folder / "train.arrow")
    assert (table.shapes["boxes"], table.shapes["number"]) == ((None, 4), ())
    order = rng.permutation(len(lengths))
    got = table.take(order)
    assert got["number"].tolist() == order.tolist()
    for row, position in enumerate(order):
        np.testing.assert_array_equal(got["boxes"][row], boxes[position])
        assert _columns.untext(got["name"][row]) == "é" * lengths[position]
        got["boxes"][row][:] = -1
    assert all((values >= 0).all() for values in table.take(order, ["boxes"])["boxes"]), "rows are copies"


def test_what_a_split_leaves_out_is_noted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def batches(split: str) -> Generator[dict[str, np.ndarray], None, list[str]]:
        yield samples(2)
        return ["1 of 3 files left out: a.jpg"] if split == "val" else []

    folder = tmp_path / "t"
    tables.build(folder, info=lambda: INFO, fingerprint=lambda: "f", batches=batches, splits=["train", "val"])
    meta = tables.read_meta(folder)
    assert meta is not None
    assert meta.notes == {"val": ["1 of 3 files left out: a.jpg"]}
    assert [record.getMessage() for record in caplog.records] == ["Split 'val': 1 of 3 files left out: a.jpg."]


def test_samples_must_exist_and_be_alike(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Split 'train' must have at least one sample"):
        build(tmp_path / "a", samples(1), ())
    mixed = [{"image": np.zeros((1, 2), np.uint8)}, {"image": np.zeros((1, 3), np.uint8)}]
    with pytest.raises(ValueError, match="must all be like"):
        tables.build(
            tmp_path / "b",
            info=lambda: INFO,
            fingerprint=lambda: "f",
            batches=lambda _: mixed,
            splits=["train"],
        )


def test_a_killed_builder_leaves_no_half_table(tmp_path: Path) -> None:
    folder, log = tmp_path / "t", tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", BUILDER, str(folder), str(log), "30"])
    _wait(lambda: log.exists() and any(tmp_path.glob(".t.*/tables/train.arrow")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    assert tables.read_meta(folder) is None
    assert any(tmp_path.glob(".t.*"))
    assert build(folder).rows == {"train": 7}
    assert not any(tmp_path.glob(".t.*"))


def test_concurrent_builders_build_once(tmp_path: Path) -> None:
    folder, log = tmp_path / "t", tmp_path / "log"
    command = [sys.executable, "-c", BUILDER, str(folder), str(log), "0.1"]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert log.read_text().split() == [f"{split}{i}" for split in ("train", "val") for i in range(4)]
    assert tables.read_meta(folder) is not None


def test_a_cache_that_cannot_be_written_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"Cannot write the data cache .*file .*; set SIGMA_RAY_CACHE") as caught:
        data.open_data("scenes", scenes.Config(num_train=1, num_val=1, num_test=1), "segmentation")
    assert "\n" not in str(caught.value)


def test_open_data_gives_the_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path))
    cfg = scenes.Config(num_train=70, num_val=3, num_test=2)
    opened = data.open_data("scenes", cfg, "segmentation")
    assert opened.info == scenes.info(cfg, "segmentation")
    assert opened.fingerprint == scenes.fingerprint(cfg, "segmentation")
    assert [len(opened.split(split)) for split in data.SPLITS] == [70, 3, 2]
    expected = scenes.render([69, 0, 64])
    got = opened.split("train").take(np.array([69, 0, 64]), ["mask"])
    for name in ("image", "mask"):
        np.testing.assert_array_equal(got[name], expected[name])
    assert got["index"].tolist() == [69, 0, 64]
    assert got["size"].tolist() == [[64, 64]] * 3
    with pytest.raises(ValueError, match="split must be one of train, val, test, but got 'validation'"):
        opened.split("validation")


def test_names_and_load_know_the_data_sets() -> None:
    photos = {"ade20k", "cityscapes", "coco", "nyuv2", "pascal_context", "rgbd"}
    assert {"scenes", "folder"} | photos <= set(data.names())
    assert not {"tables", "loader", "_shapes"} & set(data.names())
    for name in data.names():
        assert {"Config", "info", "cache_key", "fingerprint", "batches", "needs"} <= set(vars(data.load(name)))
    with pytest.raises(ValueError, match=r"Unknown data 'tables'; choose one of ade20k, .*, folder, "):
        data.load("tables")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path))
    assert tables.cache_root() == tmp_path
    monkeypatch.delenv("SIGMA_RAY_CACHE")
    assert tables.cache_root().name == "sigma_ray"


def _wait(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
