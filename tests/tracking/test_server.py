"""The ledger against a real `mlflow server` that dies, hangs, refuses and forgets."""

import math
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded import CONFIG, one_trial
from servers import Proxy, Server

from sigma_ray import tracking
from sigma_ray.tracking import Ledger

pytestmark = pytest.mark.timeout(600)
NOT_WAITING_S = 0.1  # a busy machine may take the processor away; a request that is waited for takes seconds


@pytest.fixture(scope="module")
def running(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests; starting one takes long."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template, folder / "server.db")
    one = Server(folder)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The server, running again after a test that failed while it was down."""
    yield running
    running.signal(signal.SIGCONT)
    if not running.alive():
        running.start()


@pytest.fixture
def study(request: pytest.FixtureRequest) -> str:
    """A study of the test's own."""
    return request.node.name


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy before it that does nothing yet."""
    one = Proxy(server.port, lambda number: None)
    yield one
    one.close()


def longest_call(ledger: Ledger, key: str, steps: range) -> float:
    """Log one point at a time; the longest that a call took, in seconds."""
    longest = 0.0
    for step in steps:
        begun = time.perf_counter()
        ledger.log(key, [{"step": step, "loss": step / 10, "val/miou": step / 100}])
        longest = max(longest, time.perf_counter() - begun)
    return longest


def check_curve(ledger: Ledger, key: str, steps: range) -> None:
    """Every point is stored once, in order."""
    run_id = ledger.trials()[key].run_id
    stored = ledger._runs.client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in stored] == [(step, step / 10) for step in steps]
    assert [point.timestamp for point in stored] == sorted(point.timestamp for point in stored)


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(server: Server, study: str, tmp_path: Path) -> None:
    """Nothing lost, order kept, no run twice; NaN and artifacts travel over HTTP."""
    ledger = Ledger(server.uri, study, tmp_path / "spool")
    assert ledger.finished() == {}
    ledger.open({"trials": 2}, {})
    one_trial(ledger, "k0")
    assert ledger.flush(60)
    server.kill()
    with pytest.raises(ValueError, match="cannot be used"):
        tracking.check(server.uri)
    begun = time.monotonic()
    (tmp_path / "weights.bin").write_bytes(b"w")
    ledger.start("k1", "sigma", 1, CONFIG)
    ledger.log("k1", [{"step": 1, "a": math.nan}, {"step": 2, "a": 2.0}])
    ledger.finish("k1", {"test/miou": 0.5}, [tmp_path / "weights.bin"])
    assert time.monotonic() - begun < 0.5
    assert not ledger.flush(1)
    assert "does not have 3 events" in ledger.problem
    with pytest.raises(ConnectionError, match="did not take the waiting events"):
        ledger.finished(timeout=0.1)
    server.start()
    rows = ledger.finished()
    assert set(rows) == {"k0", "k1"}
    assert rows["k1"].metrics["test/miou"] == 0.5
    assert rows["k1"].missing_files == ""
    assert [step for step, _ in ledger.history(rows["k1"].run_id, "a")] == [1, 2]
    assert ledger.download(rows["k1"].run_id, "weights.bin").read_bytes() == b"w"
    assert ledger.close()
    assert len(ledger._runs.all()) == 3


@pytest.mark.chaos
def test_a_server_killed_while_points_keep_coming(server: Server, study: str, tmp_path: Path) -> None:
    """Twice, at whatever request it is at."""
    ledger = Ledger(server.uri, study, tmp_path / "spool")
    ledger.open({}, {})
    ledger.start("k0", "sigma", 0, CONFIG)
    for round_ in range(2):
        training = threading.Thread(target=longest_call, args=(ledger, "k0", range(200 * round_, 200 * (round_ + 1))))
        training.start()
        time.sleep(0.3)
        server.kill()
        training.join()
        server.start()
    ledger.finish("k0", {"test/miou": 0.5})
    check_curve(ledger, "k0", range(400))
    assert ledger.close("FINISHED") and ledger.problem == ""
    assert len(ledger._runs.all()) == 2


HANGING = """
import sys, time
from sigma_ray.tracking import Ledger
ledger = Ledger(sys.argv[1], "study", sys.argv[2])
ledger.start("k1", "sigma", 1, {})
ledger.log("k1", [{"step": 1, "loss": 0.5}])
time.sleep(1)
begun = time.monotonic()
assert not ledger.close(timeout=1)
print(time.monotonic() - begun, flush=True)
"""


@pytest.mark.chaos
def test_a_server_that_hangs_is_never_waited_for(server: Server, study: str, tmp_path: Path) -> None:
    """Neither while training, nor long at the end; what it did not take it gets once it wakes."""
    ledger = Ledger(server.uri, study, tmp_path / "spool")
    ledger.open({}, {})
    ledger.start("k0", "sigma", 0, CONFIG)
    assert ledger.flush(60)
    server.signal(signal.SIGSTOP)
    assert longest_call(ledger, "k0", range(300)) < NOT_WAITING_S
    with pytest.raises(ValueError, match="cannot be used"):
        tracking.check(server.uri)
    begun = time.monotonic()
    assert not ledger.close(timeout=1)
    assert time.monotonic() - begun < 4
    begun = time.monotonic()
    command = [sys.executable, "-c", HANGING, server.uri, str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and float(done.stdout) < 4, done.stderr
    assert time.monotonic() - begun < 60  # the process ends, whatever its threads wait for
    server.signal(signal.SIGCONT)
    second = Ledger(server.uri, study, tmp_path / "spool")
    check_curve(second, "k0", range(300))
    assert second.repair() == 1  # the trial, which nobody ended
    assert second.close()


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["cut", "torn", "html"])
def test_requests_that_go_wrong_one_in_three(
    server: Server, study: str, proxy: Proxy, tmp_path: Path, fault: str
) -> None:
    """The answer is lost, or half of the request, or a proxy answers in the server's place: nothing doubled or lost."""
    draw = random.Random(0)
    ledger = Ledger(proxy.uri, study, tmp_path / "spool")
    assert ledger.finished() == {}
    proxy.fault = lambda number: fault if draw.random() < 1 / 3 else None
    ledger.open({"trials": 3}, {})
    for index in range(3):
        ledger.start(f"k{index}", "sigma", index, CONFIG)
        longest_call(ledger, f"k{index}", range(10))
        ledger.finish(f"k{index}", {"test/miou": 0.5 + index})
    deadline = time.monotonic() + 120
    while not ledger.flush(1):  # each asks for another try at once
        assert time.monotonic() < deadline, ledger.problem
    proxy.fault = lambda number: None
    for index in range(3):
        check_curve(ledger, f"k{index}", range(10))
    rows = ledger.finished()
    assert {key: row.metrics["test/miou"] for key, row in rows.items()} == {"k0": 0.5, "k1": 1.5, "k2": 2.5}
    assert {row.tags["attempts"] for row in rows.values()} == {"1"}
    assert ledger.close("FINISHED") and len(ledger._runs.all()) == 4


@pytest.mark.chaos
def test_an_artifact_store_behind_the_server_that_breaks(server: Server, study: str, tmp_path: Path) -> None:
    """HTTP 500 for files alone: metrics pass, and the file follows when it is mended."""
    ledger = Ledger(server.uri, study, tmp_path / "spool")
    assert ledger.finished() == {}
    served = server.folder / "served"
    if served.is_dir():
        served.rename(server.folder / "aside")
    served.write_text("not a folder")
    (tmp_path / "weights.bin").write_bytes(b"w")
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.finish("k0", {"test/miou": 0.5}, [tmp_path / "weights.bin"])
    one_trial(ledger, "k1")
    assert ledger.flush(60)
    rows = ledger.finished()
    assert set(rows) == {"k0", "k1"} and "weights.bin" in rows["k0"].missing_files
    assert ledger.close(timeout=5) is False
    served.unlink()
    if (server.folder / "aside").is_dir():
        (server.folder / "aside").rename(served)
    second = Ledger(server.uri, study, tmp_path / "spool")
    assert second.flush(60) and second.close()
    row = Ledger(server.uri, study, tmp_path / "spool").finished()["k0"]
    assert row.missing_files == "" and second.download(row.run_id, "weights.bin").read_bytes() == b"w"


@pytest.mark.chaos
def test_a_server_that_lost_its_database(server: Server, study: str, template: Path, tmp_path: Path, caplog) -> None:
    """What it forgot is said to be refused; what starts afterwards is recorded, and nothing waits for ever."""
    ledger = Ledger(server.uri, study, tmp_path / "spool")
    ledger.open({}, {})
    ledger.start("k0", "sigma", 0, CONFIG)
    assert ledger.flush(60)
    server.kill()
    for part in server.folder.glob("server.db*"):
        part.unlink()
    shutil.copy(template, server.folder / "server.db")
    server.start()
    ledger.log("k0", [{"step": 1, "loss": 0.1}])
    one_trial(ledger, "k1")
    rows = ledger.finished()
    assert set(rows) == {"k1"} and len(ledger.history(rows["k1"].run_id, "val/miou")) == 3
    assert "log k0: no such trial was started" in caplog.text
    assert ledger.close("FAILED")


@pytest.mark.chaos
def test_a_database_that_somebody_locked(uri: str, tmp_path: Path) -> None:
    """A backup of a sqlite store, say: training goes on, and what happened meanwhile is delivered."""
    ledger = Ledger(uri, "study", tmp_path / "spool")
    ledger.start("k0", "sigma", 0, CONFIG)
    assert ledger.flush(60)
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert longest_call(ledger, "k0", range(100)) < NOT_WAITING_S
        assert not ledger.flush(8)  # longer than the database's client waits
        other.execute("ROLLBACK")
    other.close()
    check_curve(ledger, "k0", range(100))
    assert ledger.close()
