"""An MLflow server that can be killed, stopped and started again."""

import contextlib
import os
import signal
import sys
import urllib.request
from pathlib import Path

from benchmarks.faults.nodes import free_port
from benchmarks.faults.processes import Program


class TrackingServer(Program):
    """`mlflow server` on a sqlite database and an artifact folder below `folder`; a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.artifacts = folder / "artifacts"
        self.artifacts.mkdir(exist_ok=True)
        self.uri = f"http://127.0.0.1:{free_port()}"
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", self.uri.rpartition(":")[2], "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.artifacts)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        super().__init__(command, environment, folder, folder / "server.log")

    def answers(self) -> bool:
        """Whether it is there."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
            return answer.status == 200
        return False

    def begin(self) -> None:
        """Start it and wait for it: half a minute the first time, when it creates its database."""
        self.start()
        self.wait(self.answers, 180, "the start of the MLflow server")

    def stop(self) -> None:
        """Let it hang: it accepts connections and answers none."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End `stop`."""
        self.signal(signal.SIGCONT)

    def __enter__(self) -> "TrackingServer":
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
