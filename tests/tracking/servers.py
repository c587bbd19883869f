"""Real MLflow servers for tests, and a proxy before them that misbehaves on demand."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sigma_ray import tracking


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """An `mlflow server` on loopback, with its database and artifacts in a folder."""

    def __init__(self, folder: Path) -> None:
        """Choose a port; nothing runs yet."""
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Run it with one worker, and wait until it answers."""
        command = f"-m mlflow server --backend-store-uri sqlite:///{self.folder}/server.db --host 127.0.0.1"
        command += f" --port {self.port} --workers 1 --artifacts-destination {self.folder}/served"
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # not needed, and slow to start
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command.split()],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
                env=env,
            )
        for _ in range(600):
            try:
                tracking.check(self.uri)
                return
            except ValueError:
                time.sleep(0.2)
        self.kill()
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def alive(self) -> bool:
        """Whether it runs, hanging or not."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers (its own process group)."""
        if self.alive() and self._process is not None:
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill it at once, in whatever state."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()


class Proxy:
    """A TCP proxy on loopback; `fault(n)` says what happens to the n-th connection.

    None: it passes. "cut": the request arrives and the answer is lost. "torn": half of the request arrives. "html": a
    page of a proxy whose server is away.
    """

    PAGE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone"

    def __init__(self, port: int, fault: Callable[[int], str | None]) -> None:
        """Listen before the server on `port`."""
        self._to, self.fault, self.count = port, fault, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.count += 1
            threading.Thread(target=self._serve, args=(client, self.fault(self.count)), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str | None) -> None:
        """One request (connections are closed behind it, so that each request is a connection)."""
        with client:
            client.settimeout(30)
            request = _message(client)
            if fault == "html":
                client.sendall(self.PAGE)
                return
            head, _, body = request.partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            request = b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body
            with socket.create_connection(("127.0.0.1", self._to), timeout=30) as server:
                if fault == "torn":
                    server.sendall(request[: len(request) // 2])
                    return
                server.sendall(request)
                while chunk := server.recv(65536):
                    if fault is None:
                        client.sendall(chunk)


def _message(client: socket.socket) -> bytes:
    """A whole HTTP request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (chunk := client.recv(65536))
        if not chunk:
            return data
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", 0)):
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body
