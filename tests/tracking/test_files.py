"""Files that the artifact store does not take: metrics go on, nothing is forgotten, everything is said."""

import time
from pathlib import Path

import pytest
from recorded import CONFIG, one_trial

from sigma_ray.tracking import Ledger


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A trial's model file."""
    path = tmp_path / "trial" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


def break_store(tmp_path: Path) -> Path:
    """Make the artifact store refuse every file, as one that is full or read-only does (root may write anywhere)."""
    store = tmp_path / "mlartifacts" / "study"
    if store.is_dir():
        store.rename(tmp_path / "aside")
    store.parent.mkdir(exist_ok=True)
    store.write_text("not a folder")
    return store


def mend_store(tmp_path: Path) -> None:
    (tmp_path / "mlartifacts" / "study").unlink()
    if (tmp_path / "aside").is_dir():
        (tmp_path / "aside").rename(tmp_path / "mlartifacts" / "study")


def broken(uri: str, tmp_path: Path) -> Ledger:
    """A ledger whose artifact store breaks after the study began."""
    ledger = Ledger(uri, "study", tmp_path / "spool")
    assert ledger.finished() == {}
    break_store(tmp_path)
    return ledger


def test_metrics_and_statuses_pass_a_store_that_refuses_files(
    uri: str, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trials behind the refused file are recorded; run, row and ledger say what is missing; the file is still found."""
    ledger = broken(uri, tmp_path)
    ledger.open({"trials": 2}, {})
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.finish("k0", {"test/miou": 0.5}, [model])
    one_trial(ledger, "k1")
    assert ledger.flush(30)
    rows = ledger.finished()
    assert rows["k0"].metrics["test/miou"] == 0.5
    assert len(ledger.history(rows["k1"].run_id, "val/miou")) == 3
    assert rows["k0"].missing_files.startswith("not stored yet: model.safetensors (")
    assert rows["k1"].missing_files == ""
    assert "lacks model.safetensors" in caplog.text
    assert "3 files" in ledger.problem and "run the same command again" in ledger.problem  # plan and environment too
    assert ledger.download(rows["k0"].run_id, "model.safetensors") == model
    begun = time.monotonic()
    assert ledger.close("FINISHED", timeout=2) is False
    assert time.monotonic() - begun < 5
    assert "3 files" in ledger.problem


def test_the_next_invocation_delivers_them(uri: str, tmp_path: Path, model: Path) -> None:
    """Nothing of the study runs again; the tag goes, and nothing stays on disk."""
    first = broken(uri, tmp_path)
    first.open({"trials": ["k0"]}, {})
    first.start("k0", "sigma", 0, CONFIG)
    first.finish("k0", {"test/miou": 0.5}, [model])
    assert first.close("FINISHED", timeout=3) is False
    parent = first.parent_run_id
    assert parent is not None
    still = Ledger(uri, "study", tmp_path / "spool")  # nobody has mended it
    assert still.flush(20)
    assert still.finished()["k0"].missing_files
    assert still.close(timeout=3) is False
    mend_store(tmp_path)
    second = Ledger(uri, "study", tmp_path / "spool")
    assert second.flush(20)
    row = second.finished()["k0"]
    assert row.missing_files == "" and row.tags["attempts"] == "1"
    stored = second.download(row.run_id, "model.safetensors")
    assert stored != model and stored.read_bytes() == b"weights"
    assert '"k0"' in second.download(parent, "plan.json").read_text()
    assert second.close() and second.problem == ""
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_a_store_that_recovers_gets_them_without_being_asked(uri: str, tmp_path: Path, model: Path) -> None:
    """In the same invocation, in the background."""
    ledger = broken(uri, tmp_path)
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.finish("k0", {}, [model])
    assert ledger.flush(20) and ledger.finished()["k0"].missing_files
    mend_store(tmp_path)
    deadline = time.monotonic() + 20
    while ledger.finished()["k0"].missing_files and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ledger.finished()["k0"].missing_files == "" and ledger.close()


def test_a_file_that_vanished_while_it_waited_is_recorded_as_lost(uri: str, tmp_path: Path, model: Path) -> None:
    """Nobody waits for it for ever, and the run says so for ever."""
    ledger = broken(uri, tmp_path)
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.finish("k0", {}, [model, tmp_path / "never there"])
    assert ledger.flush(20)
    model.unlink()
    assert ledger.flush(20)
    row = ledger.finished()["k0"]
    assert "not stored yet" not in row.missing_files and "lost: " in row.missing_files
    assert "model.safetensors" in row.missing_files and "never there" in row.missing_files
    assert ledger.close()


def test_pictures_of_a_running_trial_wait_too(uri: str, tmp_path: Path) -> None:
    """Their folder among the artifacts is kept."""
    picture = tmp_path / "val-step-0000000.png"
    picture.write_bytes(b"png")
    ledger = broken(uri, tmp_path)
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.add("k0", "pictures", [picture])
    one_trial(ledger, "k0")
    assert ledger.flush(20)
    assert "pictures/val-step-0000000.png" in ledger.finished()["k0"].missing_files
    mend_store(tmp_path)
    assert ledger.flush(20)
    run_id = ledger.finished()["k0"].run_id
    assert ledger.download(run_id, "pictures/val-step-0000000.png").read_bytes() == b"png"
    assert ledger.close()


def test_a_run_that_somebody_deleted_keeps_nothing_waiting(uri: str, tmp_path: Path, model: Path) -> None:
    """Its file is given up with a warning."""
    ledger = broken(uri, tmp_path)
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.finish("k0", {}, [model])
    assert ledger.flush(20)
    (upload,) = ledger._runs.files.uploads.waiting()
    ledger._runs.files.uploads._send = gone
    assert ledger.flush(20) and not ledger._runs.files.uploads.waiting()
    assert ledger.close()
    assert upload.artifact == "model.safetensors"


def gone(upload: object) -> None:
    from sigma_ray.spool import Refused

    raise Refused("run not found")
