"""The head of a cluster as one service: MLflow's server and Ray's head, which come back with the node.

`ray up` runs `python -m trainables.head start --shared FOLDER -- ray start --head ...` on the head. That installs a
systemd user unit and waits until it is up; the unit runs `python -m trainables.head run` with the same arguments:

- both services start; one that dies takes the other with it, and systemd starts both again;
- once both answer, studies left unfinished below FOLDER/results go on, as a Ray job;
- `ray stop`, and so `ray down`, ends both and keeps them from coming back with the next start of the node.

MLflow's database is a sqlite file on the head's own disk: one server writes it, a few rows a second, and sqlite's
locks do not hold on network storage. Artifacts are on the shared storage.
"""

import contextlib
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import tyro

from trainables import growth
from trainables.head_unit import STOP_TIMEOUT_S, UNIT, Options, cluster_config, shared_folder, start, systemctl

STOP_S = 30.0
"""A `ray stop` takes seconds; what ends this long after one has another reason."""


def main() -> None:
    """`start` or `run`, options, `--`, and the command that starts Ray's head."""
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, command = arguments[:split], arguments[split + 1 :]
    try:
        if command[:3] != ["ray", "start", "--head"]:
            raise ValueError(f"after -- must come `ray start --head ...`, but got {' '.join(command) or 'nothing'!r}.")
        action = {"start": start, "run": run}.get(arguments[0] if arguments else "")
        if action is None:
            raise ValueError(f"the first argument must be start or run, but got {' '.join(arguments) or 'nothing'!r}.")
        sys.exit(action(tyro.cli(Options, args=arguments[1:], prog="python -m trainables.head start"), command))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def run(options: Options, command: Sequence[str]) -> int:
    """Serve until `ray stop` or a signal ends it (exit code 0), or one of the services dies (1)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    shared = shared_folder(options.shared)
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # nine processes that studies have no use for
    with _service(mlflow_command(options, shared)) as mlflow, _service([*command, "--block"]) as ray:
        health = f"http://127.0.0.1:{options.port}/health"
        _wait("MLflow", mlflow, lambda: _answers(health))
        _wait("Ray", ray, lambda: subprocess.run(["ray", "status"], capture_output=True, check=False).returncode == 0)
        config, gcs = cluster_config(command), growth.address()
        can_grow = bool(config) and growth.announce(gcs, config)
        _notify("READY=1")
        return _serve(mlflow, ray, gcs, shared, can_grow=can_grow)


def _serve(mlflow: subprocess.Popen, ray: subprocess.Popen, gcs: str, shared: Path, *, can_grow: bool) -> int:
    """Watch both until one ends; resume studies as soon as there is somewhere to run them."""
    resumed, stop_seen = False, -math.inf
    while mlflow.poll() is None and ray.poll() is None and _has_gcs(ray):
        if _is_being_stopped():
            stop_seen = time.monotonic()
        if not resumed and (can_grow or growth.has_workers(gcs)):
            _resume(shared)
            resumed = True
        time.sleep(1)
    if mlflow.poll() is None and time.monotonic() - stop_seen < STOP_S:
        print("Ray was stopped; MLflow ends with it.", flush=True)
        systemctl("disable", UNIT, check=False)
        ray.kill()  # asked politely, it would wait for work to drain
        return 0
    print(f"error: {'Ray' if mlflow.poll() is None else 'MLflow'} died; both start again.", flush=True)
    return 1


def mlflow_command(options: Options, shared: Path) -> list[str]:
    """`mlflow server` on loopback: a database on this disk, artifacts on the shared one, handed out by the server."""
    database = Path.home() / "mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(options.port)]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(shared / "mlflow")]
    return [*command, "--workers", "2", "--uvicorn-opts", "--no-access-log"]


@contextlib.contextmanager
def _service(command: Sequence[str]) -> Iterator[subprocess.Popen]:
    """A process that ends with the block: asked to first, then killed."""
    print(" ".join(command), flush=True)
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(name: str, process: subprocess.Popen, ready: Callable[[], bool]) -> None:
    while not ready():
        if process.poll() is not None:
            raise ValueError(f"{name} must start, but ended with exit code {process.returncode}.")
        time.sleep(0.5)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _has_gcs(ray: subprocess.Popen) -> bool:
    """Whether Ray's control service lives; `ray start --block` can outlive it."""
    try:
        children = psutil.Process(ray.pid).children()
        return any(
            child.name().startswith("gcs_server") for child in children if child.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def _is_being_stopped() -> bool:
    """Whether a `ray stop` runs on this node: the way in which Ray's processes end does not tell it from a crash."""
    commands = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return any(
        Path(program).name == "ray" and argument == "stop"
        for command in commands
        for program, argument in itertools.pairwise(command)
    )


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); without it nobody waits."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
            to_systemd.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _resume(shared: Path) -> None:
    """Go on with what a restart interrupted, as a job that `ray job list` shows."""
    results = shared / "results"
    if results.is_dir():
        study = [sys.executable, "-m", "studies.resume", "--output", str(results)]
        subprocess.run(["ray", "job", "submit", "--no-wait", "--", *study], check=False)


if __name__ == "__main__":
    main()
