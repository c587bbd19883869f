"""The ledger against a real `mlflow server`."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recorded import CONFIG, one_trial

from sigma_ray import tracking
from sigma_ray.tracking import Ledger


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
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
        assert set(rows) == {"k0", "k1"}
        assert rows["k1"].metrics["test/miou"] == 0.5
        assert [step for step, _ in ledger.history(rows["k1"].run_id, "a")] == [1, 2]
        assert ledger.download(rows["k1"].run_id, "weights.bin").read_bytes() == b"w"
        assert ledger.close()
        assert len(ledger._runs.all()) == 3
    finally:
        stop_server(server)


def start_server(port: int, folder: Path) -> subprocess.Popen:
    """An `mlflow server` with one worker that answers already."""
    command = f"-m mlflow server --backend-store-uri sqlite:///{folder}/server.db --host 127.0.0.1"
    command += f" --port {port} --workers 1 --artifacts-destination {folder}/served"
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # not needed, and slow to start
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, *command.split()],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
            env=env,
        )
    for _ in range(600):
        try:
            tracking.check(f"http://127.0.0.1:{port}")
            return server
        except ValueError:
            time.sleep(0.2)
    stop_server(server)
    raise AssertionError((folder / "server.log").read_text()[-2000:])


def stop_server(server: subprocess.Popen) -> None:
    """Kill the server with its workers (its own process group)."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
