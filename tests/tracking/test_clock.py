"""Clocks that differ between drivers, or step back: what was recorded later counts as later."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sigma_ray.tracking import Ledger

HOUR_NS = 3600 * 10**9


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock by hours against the true one."""
    true = time.time_ns
    return lambda hours: monkeypatch.setattr(time, "time_ns", lambda: true() + int(hours * HOUR_NS))


def test_the_next_attempt_comes_from_a_machine_whose_clock_is_behind(
    uri: str, tmp_path: Path, shift: Callable[[float], None]
) -> None:
    """The final value wins, the curve keeps its own points, and no run ends before its last point."""
    first = Ledger(uri, "study", tmp_path / "spool")
    first.start("k0", "sigma", 0, {})
    first.log("k0", [{"step": 10, "loss": 0.4}, {"step": 20, "loss": 0.3}])
    first.fail("k0", "node died")
    assert first.close()
    shift(-2)
    second = Ledger(uri, "study", tmp_path / "spool")
    second.repair()
    second.open({}, {})
    second.start("k0", "sigma", 0, {})
    second.log("k0", [{"step": 20, "loss": 9.0}, {"step": 30, "loss": 0.2}])
    second.finish("k0", {"loss": 0.25})
    row = second.finished()["k0"]
    assert row.metrics["loss"] == 0.25
    assert second.history(row.run_id, "loss") == [(10, 0.4), (20, 0.3), (30, 0.2)]
    run = second._runs.client.get_run(row.run_id)
    points = second._runs.client.get_metric_history(row.run_id, "loss")
    assert run.info.start_time <= min(point.timestamp for point in points)
    assert (run.info.end_time or 0) >= max(point.timestamp for point in points)
    assert second.close("FINISHED")


def test_a_clock_that_steps_back_within_an_invocation(uri: str, tmp_path: Path, shift: Callable[[float], None]) -> None:
    """Times of events only grow."""
    ledger = Ledger(uri, "study", tmp_path / "spool")
    ledger.open({}, {})
    ledger.start("k0", "sigma", 0, {})
    ledger.log("k0", [{"step": 10, "loss": 0.4}])
    shift(-5)
    ledger.log("k0", [{"step": 20, "loss": 0.3}])
    ledger.finish("k0", {"loss": 0.5})
    row = ledger.finished()["k0"]
    assert row.metrics["loss"] == 0.5
    assert ledger.history(row.run_id, "loss") == [(10, 0.4), (20, 0.3)]
    assert ledger.close("FINISHED")
    assert all((run.info.end_time or 0) >= run.info.start_time for run in ledger._runs.all())


def test_a_spool_of_the_future_is_delivered_before_the_present(
    uri: str, tmp_path: Path, shift: Callable[[float], None]
) -> None:
    """The driver's clock was ahead, it died with events undelivered, and the clock was set right."""
    shift(5)
    first = Ledger(uri, "study", tmp_path / "spool")
    first._spool._deliver = _away
    first.start("k0", "sigma", 0, {})
    first.log("k0", [{"step": 10, "loss": 0.4}, {"step": 20, "loss": 0.3}])
    assert not first.close(timeout=0)
    shift(0)
    second = Ledger(uri, "study", tmp_path / "spool")
    second.repair()
    second.start("k0", "sigma", 0, {})
    second.log("k0", [{"step": 20, "loss": 9.0}, {"step": 30, "loss": 0.2}])
    second.finish("k0", {"loss": 0.3})
    row = second.finished()["k0"]
    assert row.metrics["loss"] == 0.3 and row.tags["attempts"] == "2" and row.status == "FINISHED"
    assert second.history(row.run_id, "loss") == [(10, 0.4), (20, 0.3), (30, 0.2)]
    assert second.close()


def _away(event: dict, replayed: bool) -> None:
    raise ConnectionError("nobody there")
