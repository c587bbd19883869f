"""Checkpoint files."""

import errno
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ray.checkpoint import KEEP, Checkpoints, Snapshot


def snapshot(step):
    tensors = {"model/a": torch.full((2, 3), float(step)).T, "best/model/a": torch.ones(1), "rng/0": torch.arange(3)}
    return Snapshot(step, tensors, {"progress": {"best": -float("inf"), "x": 0.1 + 0.2}, "key": "k"})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path):
    written = snapshot(7)
    Checkpoints(tmp_path / "deep" / "er").save(written)
    read = Checkpoints(tmp_path / "deep" / "er").load()
    assert (read.step, read.values) == (7, written.values)
    assert read.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(read.tensors[name], written.tensors[name]) for name in read.tensors)
    assert read.part("model").keys() == {"a"}


def test_nothing_saved_is_nothing_loaded(tmp_path):
    assert Checkpoints(tmp_path / "absent").load() is None


def test_the_newest_are_kept(tmp_path):
    for step in (9, 10, 100):
        Checkpoints(tmp_path).save(snapshot(step))
    assert names(tmp_path) == ["step-00000010.safetensors", "step-00000100.safetensors"]
    assert KEEP == 2


def test_a_crash_while_writing_keeps_the_old_one(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(snapshot(1))
    before = names(tmp_path)

    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        store.save(snapshot(2))
    assert names(tmp_path) == before
    assert store.load().step == 1


@pytest.mark.parametrize("size", [0, 4, 60, -1])
def test_a_truncated_newest_falls_back_to_the_one_before(tmp_path, size):
    store = Checkpoints(tmp_path)
    store.save(snapshot(1))
    store.save(snapshot(2))
    newest = tmp_path / "step-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:size])
    told = []
    assert store.load(told.append).step == 1
    assert len(told) == 1 and "step-00000002.safetensors cannot be used" in told[0]


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(deadline=None)
def test_a_single_wrong_bit_is_noticed(tmp_path_factory, at, bit):
    folder = tmp_path_factory.mktemp("checkpoint")
    store = Checkpoints(folder)
    store.save(snapshot(1))
    store.save(snapshot(2))
    newest = folder / "step-00000002.safetensors"
    content = bytearray(newest.read_bytes())
    content[at % len(content)] ^= 1 << bit
    newest.write_bytes(content)
    told = []
    read = store.load(told.append)
    # A bit of the file's own padding or of a name it keeps twice may be harmless; what is read is always right.
    expected = snapshot(read.step)
    assert read.values == expected.values and read.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(read.tensors[name], value) for name, value in expected.tensors.items())
    assert read.step == (1 if told else 2)


def test_only_broken_files_are_told_and_nothing_is_loaded(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(snapshot(step))
        (tmp_path / f"step-{step:08d}.safetensors").write_bytes(b"\x00" * 100)
    told = []
    assert store.load(told.append) is None and len(told) == 2


def test_a_full_disk_keeps_the_old_one(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(snapshot(1))
    before = names(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(snapshot(2))
    assert names(tmp_path) == before and store.load().step == 1
