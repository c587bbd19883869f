"""A trial of two workers, with Ray Train inside Tune, ends as that of one worker does; neither is seen from outside."""

import ipaddress
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from test_tuner import SMALL, command, trial_runs

STEPS = [
    "--seeds",
    "1",
    *("--set", "train.num_steps=6", "--set", "train.eval_interval=3", "--set", "train.log_interval=1"),
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Watched:
    """A study of one trial that has run.

    Attributes:
        curves: all values of the loss and of validation's mIoU, and the final metrics, of the demo's segmentation.
        sockets: (process, address, port) of every socket that took connections or datagrams while it ran.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        arguments = command("sigma", *SMALL, *STEPS, "--set", f"num_workers={workers}")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with (folder / "out").open("w") as out:
            study = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=out, stderr=out)
        self.sockets: set[tuple[str, str, int]] = set()
        while study.poll() is None:
            self.sockets |= listening(study.pid)
            time.sleep(0.2)
        assert study.returncode == 0, (folder / "out").read_text()
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        [[trial]] = trial_runs(folder).values()
        assert trial.info.status == "FINISHED"
        self.curves = {"test/miou": [trial.data.metrics["test/miou"]]}
        for metric in ("train/loss", "val/miou"):
            points = client.get_metric_history(trial.info.run_id, metric)
            self.curves[metric] = [point.value for point in sorted(points, key=lambda point: point.step)]


def listening(pid: int) -> set[tuple[str, str, int]]:
    """(process, address, port) of every socket that a process or a descendant takes connections or datagrams on."""
    found = set()
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for one in family:
        try:
            for socket in one.net_connections("inet"):
                if socket.laddr and socket.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                    found.add((one.name(), socket.laddr.ip, socket.laddr.port))
        except psutil.Error:
            continue  # it ended
    return found


def is_loopback(address: str) -> bool:
    """Of either protocol, also where IPv4 is written as IPv6."""
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[int, Watched]:
    """By the number of workers."""
    return {workers: Watched(tmp_path_factory.mktemp(str(workers)), workers) for workers in (1, 2)}


def test_two_workers_end_where_one_does(studies):
    one, two = studies[1].curves, studies[2].curves
    assert {name: len(values) for name, values in one.items()} == {"train/loss": 6, "val/miou": 2, "test/miou": 1}
    assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-3)
    for metric in ("val/miou", "test/miou"):
        assert two[metric] == pytest.approx(one[metric], abs=2e-3)


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_listens_beyond_loopback(studies, workers):
    """Ray's servers, its workers and, with two of them, those of torch."""
    seen = studies[workers].sockets
    assert len({name for name, _, _ in seen}) > 3  # Ray's servers were seen
    assert not {one for one in seen if not is_loopback(one[1])}
