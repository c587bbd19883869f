"""Outages and kills: nothing lost, nothing doubled, the order kept, and the caller never waits."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from recorded import CONFIG, one_trial

from sigma_ray import tracking
from sigma_ray.tracking import Ledger


class Unreliable:
    """A delivery that fails at chosen calls, before or after the event reached the store."""

    def __init__(self, inner: Callable[[dict, bool], None]) -> None:
        """Wrap the true delivery."""
        self.inner, self.down, self.lose_answer, self.seen = inner, False, False, []

    def __call__(self, event: dict, replayed: bool) -> None:
        """Deliver, or fail as the network does."""
        if self.down:
            raise MlflowException("connection refused")
        self.inner(event, replayed)
        self.seen.append((event["event"], event.get("key")))
        if self.lose_answer:
            self.lose_answer = False
            raise MlflowException("the answer was lost")


@pytest.fixture
def unreliable(monkeypatch: pytest.MonkeyPatch) -> list[Unreliable]:
    """Every ledger made after this talks through an `Unreliable`, collected here."""
    made: list[Unreliable] = []
    true_spool = tracking.Spool

    def spool(folder: Path, name: str, deliver: Callable[[dict, bool], None]) -> tracking.Spool:
        made.append(Unreliable(deliver))
        return true_spool(folder, name, made[-1])

    monkeypatch.setattr(tracking, "Spool", spool)
    return made


def test_an_outage_delays_but_neither_blocks_nor_loses(unreliable: list[Unreliable], uri: str, tmp_path: Path) -> None:
    """Events of an outage arrive in order once the store is back."""
    ledger = Ledger(uri, "study", tmp_path / "spool")
    ledger.open({}, {})
    one_trial(ledger, "k0")
    assert ledger.flush(30)
    unreliable[0].down = True
    begun = time.monotonic()
    for index in range(1, 4):
        one_trial(ledger, f"k{index}")
    assert time.monotonic() - begun < 0.5
    assert not ledger.flush(0.5)
    unreliable[0].down = False
    assert ledger.flush(30)
    kinds = ("start", "log", "finish")
    assert unreliable[0].seen == [("open", None)] + [(kind, f"k{i}") for i in range(4) for kind in kinds]
    assert all(len(ledger.history(row.run_id, "val/miou")) == 3 for row in ledger.finished().values())
    assert ledger.close()
    assert not list((tmp_path / "spool").iterdir())


def test_what_an_invocation_could_not_deliver_the_next_one_does(
    unreliable: list[Unreliable], uri: str, tmp_path: Path
) -> None:
    """The tracker dies in the middle and stays away; the next ledger replays first and doubles nothing."""
    first = Ledger(uri, "study", tmp_path / "spool")
    first.open({}, {})
    first.start("k0", "sigma", 0, CONFIG)
    first.log("k0", [{"step": 10, "val/miou": 0.1}])
    assert first.flush(30)
    unreliable[0].down = True
    first.log("k0", [{"step": 20, "val/miou": 0.2}])
    first.finish("k0", {"test/miou": 0.5})
    assert first.close("FINISHED", timeout=0.3) is False
    second = Ledger(uri, "study", tmp_path / "spool")
    row = second.finished()["k0"]
    assert second.repair() == 0
    assert row.tags["attempts"] == "1"
    assert row.metrics["test/miou"] == 0.5
    assert second.history(row.run_id, "val/miou") == [(10, 0.1), (20, 0.2)]
    assert {run.info.status for run in second._runs.all()} == {"FINISHED"}
    second.close()
    assert not list((tmp_path / "spool").iterdir())


@pytest.mark.parametrize("lost", range(5))
def test_a_lost_answer_doubles_nothing(unreliable: list[Unreliable], uri: str, tmp_path: Path, lost: int) -> None:
    """Whichever event arrives without its answer is sent twice and stored once."""
    ledger = Ledger(uri, "study", tmp_path / "spool")
    unreliable[0].lose_answer = lost == 0
    ledger.open({}, {})
    for number, write in enumerate(
        (
            lambda: ledger.start("k0", "sigma", 0, CONFIG),
            lambda: ledger.log("k0", [{"step": 1, "val/miou": math.nan, "b": 2.0}]),
            lambda: ledger.finish("k0", {"test/miou": 0.5, "val/miou": 0.7}),
            lambda: ledger.fail("k0", "too late"),
        ),
        start=1,
    ):
        assert ledger.flush(30)
        unreliable[0].lose_answer = lost == number
        write()
    assert ledger.flush(30)
    assert len(unreliable[0].seen) == 6
    row = ledger.finished()["k0"]
    assert row.tags["attempts"] == "1"
    assert len(ledger._runs.all()) == 2
    assert len(ledger._runs.client.get_metric_history(row.run_id, "b")) == 1
    assert len(ledger._runs.client.get_metric_history(row.run_id, "test/miou")) == 1
    ledger.close()


def test_a_late_event_does_not_spoil_a_finished_trial(uri: str, tmp_path: Path) -> None:
    """An old spool from another folder is replayed after another invocation finished the trial."""
    old = Ledger(uri, "study", tmp_path / "old")
    old._spool._deliver = _refuse_to_connect
    old.start("k0", "sigma", 0, CONFIG)
    old.kill("k0", "interrupted")
    assert old.close(timeout=0.1) is False
    ledger = Ledger(uri, "study", tmp_path / "spool")
    one_trial(ledger)
    ledger.close()
    late = Ledger(uri, "study", tmp_path / "old")
    row = late.finished()["k0"]
    assert row.status == "FINISHED"
    assert row.tags["attempts"] == "1"
    late.close()


def _refuse_to_connect(event: dict, replayed: bool) -> None:
    raise ConnectionError("nobody there")


def test_a_line_torn_by_a_kill_is_no_event(ledger: Ledger, uri: str, tmp_path: Path) -> None:
    """Half a JSON line at the end of a spool is left out, the lines before it count."""
    ledger._spool._deliver = _refuse_to_connect
    one_trial(ledger)
    ledger.close(timeout=0.1)
    (file,) = (tmp_path / "spool").glob("*.jsonl")
    with file.open("a") as opened:
        opened.write('{"event": "sta')
    second = Ledger(uri, "study", tmp_path / "spool")
    assert set(second.finished()) == {"k0"}
    second.close()


DRIVER = """
import sys, time
from sigma_ray.tracking import Ledger
ledger = Ledger(sys.argv[1], "study", sys.argv[2])
ledger.repair()
ledger.open({}, {})
for key in ("k0", "k1", "k2"):
    ledger.start(key, "sigma", int(key[1]), {"a": 1})
    ledger.log(key, [{"step": 1, "val/miou": 0.1}])
ledger.finish("k0", {"test/miou": 0.5})
ledger.flush(60)
print("ready", flush=True)
time.sleep(600)
"""


def test_runs_of_a_killed_driver_are_repaired_and_continued(uri: str, tmp_path: Path) -> None:
    """Kill -9 of the process that holds the ledger: one run per key afterwards, none RUNNING."""
    command = [sys.executable, "-c", DRIVER, uri, str(tmp_path / "spool")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        os.kill(driver.pid, signal.SIGKILL)
    ledger = Ledger(uri, "study", tmp_path / "spool")
    assert ledger.repair() == 3  # the parent and two trials
    assert {row.status for row in ledger.trials().values()} == {"FINISHED", "KILLED"}
    assert ledger.trials()["k1"].reason == "the driver died"
    assert set(ledger.finished()) == {"k0"}
    ledger.open({}, {})
    for key in ("k1", "k2"):
        one_trial(ledger, key, seed=int(key[1]))
    assert ledger.flush(30)
    assert ledger.trials()["k1"].tags["attempts"] == "2"
    assert ledger.close("FINISHED")
    keys = [run.data.tags.get("trial_key") for run in ledger._runs.all()]
    assert sorted(key for key in keys if key) == ["k0", "k1", "k2"]
    assert keys.count(None) == 2
    statuses = [run.info.status for run in ledger._runs.all()]
    assert statuses.count("KILLED") == 1
    assert statuses.count("RUNNING") == 0
