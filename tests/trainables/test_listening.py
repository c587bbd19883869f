"""A study on this machine listens on loopback alone, with all its processes, for as long as it runs."""

import ipaddress
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parent / "tiny_study.py"
SMALL = ["data.num_train=64", "data.num_val=16", "data.num_test=16", "train.warmup_steps=2", "train.num_steps=20"]


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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.chaos), pytest.param(2, marks=pytest.mark.slow)])
def test_nothing_listens_beyond_loopback(tmp_path: Path, workers: int) -> None:
    """Ray's servers, its workers and, with two of them, those of torch."""
    settings = [*SMALL, f"num_workers={workers}", "train.eval_interval=10"]
    flags = ["--weights", "none", "--seeds", "1", *(part for one in settings for part in ("--set", one))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "out").open("w") as out:
        study = subprocess.Popen(
            [sys.executable, str(SCRIPT), "sigma", *flags], cwd=tmp_path, env=environment, stdout=out, stderr=out
        )
    seen = set()
    while study.poll() is None:
        seen |= listening(study.pid)
        time.sleep(0.05)
    assert study.returncode == 0, (tmp_path / "out").read_text()
    assert len({name for name, _, _ in seen}) > 3  # Ray's servers were seen
    assert not {one for one in seen if not is_loopback(one[1])}
