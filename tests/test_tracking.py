"""The ledger: one run per key, true statuses, nothing lost or doubled, and the caller never waits."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from sigma_ray import tracking
from sigma_ray.mlflow_runs import Runs
from sigma_ray.tracking import Ledger

CONFIG = {"adapter.bottleneck_dim": 8, "train.num_steps": 400}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database; making one costs seconds."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    Runs(f"sqlite:///{file}", "none").client.search_experiments()
    return file


@pytest.fixture
def uri(template: Path, tmp_path: Path) -> str:
    """A fresh store of this test."""
    shutil.copy(template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def ledger(uri: str, tmp_path: Path) -> Ledger:
    """A ledger on the fresh store."""
    return Ledger(uri, "study", tmp_path / "spool")


def one_trial(ledger: Ledger, key: str = "k0", seed: int = 0) -> None:
    """Record a whole trial with three points."""
    ledger.start(key, "sigma", seed, CONFIG)
    ledger.log(key, [{"step": step, "val/miou": step / 100} for step in (10, 20, 30)])
    ledger.finish(key, {"test/miou": 0.5 + seed, "note": "no number"})


def test_a_trial_is_read_back_as_it_was_recorded(ledger: Ledger) -> None:
    """Arm, seed, params, metrics, tags and curve of a finished trial."""
    invocation = ledger.open({"trials": ["k0"]}, {"python": "3.11"})
    one_trial(ledger, seed=2)
    row = ledger.finished()["k0"]
    assert (row.arm, row.seed, row.status, row.reason) == ("sigma", 2, "FINISHED", "finished")
    assert row.params == {name: str(value) for name, value in CONFIG.items()}
    assert row.metrics == {"val/miou": 0.3, "test/miou": 2.5}
    assert row.tags["invocation"] == invocation and row.tags["attempts"] == "1" and row.tags["commit"]
    assert row.tags["mlflow.parentRunId"] == ledger.parent_run_id
    assert ledger.history(row.run_id, "val/miou") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert ledger.close()


def test_the_parent_run_holds_plan_environment_and_report(ledger: Ledger, tmp_path: Path) -> None:
    """Artifacts of an invocation, read in place from another working directory."""
    (tmp_path / "table.md").write_text("| Arm |")
    ledger.open({"trials": ["k0"]}, {"python": "3.11"})
    assert ledger.flush(30)
    parent = ledger.parent_run_id
    assert parent is not None
    assert ledger.close("FAILED", [tmp_path / "table.md"]) and ledger.close()
    assert json.loads(ledger.download(parent, "plan.json").read_text()) == {"trials": ["k0"]}
    assert json.loads(ledger.download(parent, "environment.json").read_text()) == {"python": "3.11"}
    report = ledger.download(parent, "table.md")
    assert report.read_text() == "| Arm |" and tmp_path / "mlartifacts" in report.parents
    assert Runs(ledger.uri, "study").client.get_run(parent).info.status == "FAILED"


def test_a_second_attempt_continues_the_same_run(ledger: Ledger, uri: str, tmp_path: Path) -> None:
    """Re-reported steps are skipped, new ones added, attempts counted, parent and status renewed."""
    ledger.open({}, {})
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.log("k0", [{"step": 10, "val/miou": 0.1}, {"step": 20, "val/miou": 0.2}])
    ledger.fail("k0", "out of memory")
    assert ledger.trials()["k0"].status == "FAILED" and ledger.trials()["k0"].reason == "out of memory"
    assert ledger.finished() == {}
    ledger.close()
    second = Ledger(uri, "study", tmp_path / "spool")
    invocation = second.open({}, {})
    second.start("k0", "sigma", 0, CONFIG | {"new": 1})
    second.log("k0", [{"step": 10, "val/miou": 9.0}, {"step": 20, "val/miou": 9.0}])
    second.log("k0", [{"step": 20, "val/miou": 9.0, "train/loss": 1.0}, {"step": 30, "val/miou": 0.3}])
    second.finish("k0", {"val/miou": 0.3})
    row = second.finished()["k0"]
    assert row.tags["attempts"] == "2" and row.tags["invocation"] == invocation
    assert second.history(row.run_id, "val/miou") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert second.history(row.run_id, "train/loss") == [(20, 1.0)]
    assert len([run for run in second._runs.all() if "trial_key" in run.data.tags]) == 1
    second.close()


def test_a_final_value_does_not_bend_the_curve(ledger: Ledger) -> None:
    """The final validation score is that of the best step; the curve keeps its own last point."""
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.log(
        "k0", [{"step": 10, "val/miou": 0.4}, {"step": 20, "val/miou": 0.3}, {"step": 25, "loss": 1.0}]
    )
    ledger.finish("k0", {"val/miou": 0.4, "test/miou": 0.5})
    row = ledger.finished()["k0"]
    assert row.metrics["val/miou"] == 0.4
    assert ledger.history(row.run_id, "val/miou") == [(10, 0.4), (20, 0.3)]
    assert ledger.history(row.run_id, "test/miou") == [(25, 0.5)]
    ledger.close()


def test_values_that_databases_dislike_are_kept(ledger: Ledger) -> None:
    """NaN and the infinities come back as themselves."""
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.log("k0", [{"step": 1, "a": math.nan, "b": math.inf, "c": -math.inf}])
    ledger.finish("k0", {"a": math.nan, "b": math.inf})
    row = ledger.finished()["k0"]
    assert math.isnan(row.metrics["a"]) and row.metrics["b"] == math.inf and row.metrics["c"] == -math.inf
    assert [step for step, _ in ledger.history(row.run_id, "a")] == [1]
    ledger.close()


def test_a_trial_keeps_its_files(ledger: Ledger, tmp_path: Path) -> None:
    """Files and folders are stored under their names; one that vanished does not stop the rest."""
    (tmp_path / "adapter.safetensors").write_bytes(b"weights")
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.finish("k0", {}, [tmp_path / "gone", tmp_path / "adapter.safetensors"])
    row = ledger.finished()["k0"]
    assert ledger.download(row.run_id, "adapter.safetensors").read_bytes() == b"weights"
    ledger.close()


def test_a_refused_event_does_not_stop_those_behind_it(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """A metric name that MLflow never accepts, and a trial that never started."""
    ledger.start("k0", "sigma", 0, CONFIG)
    ledger.log("k0", [{"step": 1, "bad?name": 1.0}])
    ledger.log("unknown", [{"step": 1, "val/miou": 1.0}])
    ledger.finish("k0", {"test/miou": 0.5})
    assert ledger.finished()["k0"].metrics == {"test/miou": 0.5}
    assert caplog.text.count("refused") == 2
    ledger.close()


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


def test_an_outage_delays_but_neither_blocks_nor_loses(
    unreliable: list[Unreliable], uri: str, tmp_path: Path
) -> None:
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
    assert ledger.close() and not list((tmp_path / "spool").iterdir())


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
    assert row.tags["attempts"] == "1" and row.metrics["test/miou"] == 0.5
    assert second.history(row.run_id, "val/miou") == [(10, 0.1), (20, 0.2)]
    assert {run.info.status for run in second._runs.all()} == {"FINISHED"}
    second.close()
    assert not list((tmp_path / "spool").iterdir())


@pytest.mark.parametrize("lost", range(5))
def test_a_lost_answer_doubles_nothing(
    unreliable: list[Unreliable], uri: str, tmp_path: Path, lost: int
) -> None:
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
    assert ledger.flush(30) and len(unreliable[0].seen) == 6
    row = ledger.finished()["k0"]
    assert row.tags["attempts"] == "1" and len(ledger._runs.all()) == 2
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
    assert row.status == "FINISHED" and row.tags["attempts"] == "1"
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
        assert driver.stdout is not None and driver.stdout.readline() == "ready\n"
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
    assert ledger.close()
    keys = [run.data.tags.get("trial_key") for run in ledger._runs.all()]
    assert sorted(key for key in keys if key) == ["k0", "k1", "k2"] and keys.count(None) == 2
    statuses = [run.info.status for run in ledger._runs.all()]
    assert statuses.count("KILLED") == 1 and statuses.count("RUNNING") == 0


def test_a_deleted_experiment_is_an_error_that_says_so(ledger: Ledger, uri: str, tmp_path: Path) -> None:
    """Its trials must be neither revived nor silently trained again under the same name."""
    one_trial(ledger)
    ledger.finished()
    ledger._runs.client.delete_experiment(ledger._runs.experiment)
    ledger.close()
    with pytest.raises(ValueError, match="is deleted; restore it"):
        Ledger(uri, "study", tmp_path / "spool").finished()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_real_server_that_dies_and_comes_back(template: Path, tmp_path: Path) -> None:
    """Nothing lost, order kept, no run twice; NaN and artifacts travel over HTTP."""
    shutil.copy(template, tmp_path / "server.db")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with pytest.raises(ValueError, match="cannot be used"):
        tracking.check(uri)
    server = start_server(port, tmp_path)
    try:
        ledger = Ledger(uri, "study", tmp_path / "spool")
        assert ledger.finished() == {}
        ledger.open({"trials": 2}, {})
        one_trial(ledger, "k0")
        assert ledger.flush(60)
        stop_server(server)
        begun = time.monotonic()
        (tmp_path / "weights.bin").write_bytes(b"w")
        ledger.start("k1", "sigma", 1, CONFIG)
        ledger.log("k1", [{"step": 1, "a": math.nan}, {"step": 2, "a": 2.0}])
        ledger.finish("k1", {"test/miou": 0.5}, [tmp_path / "weights.bin"])
        assert time.monotonic() - begun < 0.5
        assert not ledger.flush(1)
        server = start_server(port, tmp_path)
        rows = ledger.finished()
        assert set(rows) == {"k0", "k1"} and rows["k1"].metrics["test/miou"] == 0.5
        assert [step for step, _ in ledger.history(rows["k1"].run_id, "a")] == [1, 2]
        assert ledger.download(rows["k1"].run_id, "weights.bin").read_bytes() == b"w"
        assert ledger.close() and len(ledger._runs.all()) == 3
    finally:
        stop_server(server)


def start_server(port: int, folder: Path) -> subprocess.Popen:
    """An `mlflow server` with one worker that answers already."""
    command = f"-m mlflow server --backend-store-uri sqlite:///{folder}/server.db --host 127.0.0.1"
    command += f" --port {port} --workers 1 --artifacts-destination {folder}/served"
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, *command.split()], stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    for _ in range(300):
        try:
            tracking.check(f"http://127.0.0.1:{port}")
            return server
        except ValueError:
            time.sleep(0.2)
    raise AssertionError((folder / "server.log").read_text()[-2000:])


def stop_server(server: subprocess.Popen) -> None:
    """Kill the server with its workers (its own process group)."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("./mlruns", "no longer writes plain folders"),
        ("file:///tmp/mlruns", "no longer writes plain folders"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("http://127.0.0.1:9", "cannot be used"),
        ("postgresql://me:secret@127.0.0.1:9/db", r"me:\*\*\*@127.0.0.1:9"),
        ("http://me:secret@127.0.0.1:9", r"me:\*\*\*@127.0.0.1:9"),
    ],
)
def test_check_refuses_in_one_line_without_the_password(uri: str, message: str) -> None:
    """Every address that cannot work is refused at once, with a way out."""
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        tracking.check(uri)
    text = str(caught.value)
    assert "secret" not in text and "\n" not in text and "--tracking-uri sqlite:///mlflow.db" in text
    assert time.monotonic() - begun < 3.5


def test_check_of_sqlite_files(tmp_path: Path) -> None:
    """A new file in a new folder is fine; a file of another kind and a folder below a file are not."""
    tracking.check(f"sqlite:///{tmp_path}/new/folder/mlflow.db")
    assert (tmp_path / "new/folder").is_dir() and not (tmp_path / "new/folder/mlflow.db").exists()
    (tmp_path / "notes.txt").write_text("not a database at all")
    with pytest.raises(ValueError, match="no sqlite database"):
        tracking.check(f"sqlite:///{tmp_path}/notes.txt")
    with pytest.raises(ValueError, match="cannot be used"):
        tracking.check(f"sqlite:///{tmp_path}/notes.txt/mlflow.db")


def test_the_command_that_opens_the_user_interface() -> None:
    """Exactly what a user pastes into a shell."""
    assert (
        tracking.mlflow_ui_command("sqlite:///mlflow.db")
        == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    )
    assert (
        tracking.mlflow_ui_command("sqlite:///a b.db") == "mlflow ui --backend-store-uri 'sqlite:///a b.db'"
    )
    assert tracking.mlflow_ui_command("http://head:5000") == "http://head:5000"


def test_importing_the_ledger_does_not_import_mlflow() -> None:
    """The command line answers fast."""
    code = "import sys, sigma_ray.tracking; assert not {'mlflow', 'torch', 'requests'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
