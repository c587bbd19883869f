"""The study's folder on a real cluster: shared or not, read-only, full, nodes that hang and die."""

import os
import shutil
import signal
import subprocess
import threading
import time

import pytest
from ray_nodes import head, processes, worker

from trainables import connection, nodes, storage

APART = "mount -t tmpfs none {0}/elsewhere && mount --bind {0}/fixed {0}/fixed && mount -o remount,bind,ro {0}/fixed"


@pytest.fixture(scope="module")
def cluster():
    """A cluster whose head has no CPUs for tasks, as in cluster.yaml."""
    import ray

    with pytest.MonkeyPatch.context() as patch, head(num_cpus=0) as address:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        connection.connect(address, log_to_driver=False, logging_level="ERROR")
        yield address
        ray.shutdown()


@pytest.fixture(scope="module")
def apart(cluster, tmp_path_factory):
    """Folders, and the folder of a second node to which one of them is another and one is read-only."""
    if os.geteuid() != 0 or not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("needs to mount folders for one process")
    folder = tmp_path_factory.mktemp("storage")
    for name in ("elsewhere", "fixed", "shared"):
        (folder / name).mkdir()
    mount = f'{APART.format(folder)} && exec "$@"'
    with worker(cluster, "unshare", "--mount", "sh", "-c", mount, "sh") as second:
        yield folder, second


def test_one_node_needs_no_task(tmp_path, monkeypatch):
    alone = nodes.Node(id="0" * 56, host="laptop", address="127.0.0.1")
    monkeypatch.setattr(nodes, "alive", lambda: [alone])
    monkeypatch.setattr(nodes, "ask", None)
    (free,) = storage.check(tmp_path / "new").values()
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(ValueError, match=r"every node must .* 1 cannot: node .* GB are free of the 1000000000.0 GB"):
        storage.check(tmp_path, needed_bytes=10**18)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match="--output must be a folder that can be written"):
        storage.check(tmp_path / "file")


@pytest.mark.chaos
def test_all_nodes_see_shared_storage(apart):
    folder, _ = apart
    began = time.monotonic()
    free = storage.check(folder / "shared", needed_bytes=1)
    assert len(free) == 2 and all(free.values()) and time.monotonic() - began < 60
    assert list((folder / "shared").iterdir()) == [], "nothing stays behind"
    with pytest.raises(ValueError, match="2 cannot"):
        storage.check(folder / "shared", needed_bytes=10**18)


@pytest.mark.chaos
@pytest.mark.parametrize(("name", "says"), [("elsewhere", "is not the driver's folder"), ("fixed", "Read-only")])
def test_a_node_that_does_not_share_it_is_named(apart, name, says):
    folder, second = apart
    with pytest.raises(ValueError, match=says) as refused:
        storage.check(folder / name)
    (other,) = [node for node in nodes.alive() if second_node(second, node)]
    assert str(other) in str(refused.value) and "but 1 cannot" in str(refused.value)
    assert "\n" not in str(refused.value) and list((folder / name).iterdir()) == []


@pytest.mark.chaos
def test_a_node_that_hangs_is_named_and_one_that_dies_is_left_out(apart, monkeypatch):
    folder, second = apart
    (raylet,) = processes(second, "raylet")
    monkeypatch.setattr(nodes.ask, "__kwdefaults__", {"timeout": 3.0})
    raylet.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ValueError, match=r"but 1 cannot: .* no answer in 3 s"):
            storage.check(folder / "shared")
    finally:
        raylet.send_signal(signal.SIGCONT)
    monkeypatch.setattr(nodes.ask, "__kwdefaults__", {"timeout": 60.0})
    raylet.send_signal(signal.SIGSTOP)
    threading.Timer(1.0, raylet.kill).start()
    began = time.monotonic()
    assert len(storage.check(folder / "shared")) == 1 and 1 < time.monotonic() - began < 50


def second_node(folder, node: nodes.Node) -> bool:
    """Whether a node is the one whose processes are in `folder`."""
    (raylet,) = processes(folder, "raylet")
    return any(node.id in argument for argument in raylet.cmdline())


def test_what_killed_checks_left_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "alive", list)
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        storage.check(tmp_path)
    (tmp_path / "table.md").touch()
    assert len(list(tmp_path.iterdir())) == 2
    storage.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]
