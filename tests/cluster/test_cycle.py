"""The whole life of a cluster, on this machine: up, a study, the head's power cut, another study, down."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
from loopback import HEAD, WORKER, Machines, machines, skip_if_impossible

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
SMALL = "--seeds 1 --set data.num_train=64 --set data.num_val=16 --set data.num_test=16"
STUDY = f"python -m studies.ablate_bottleneck {SMALL}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    skip_if_impossible()
    with machines() as made:
        file = made.cluster_file()
        wait(lambda: all((made.folder / f"{node}.ssh").exists() for node in (HEAD, WORKER)), 60)
        done = made.type("ray", "up", "-y", str(file), timeout=600)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        wait(lambda: "2 local.cluster.node" in on_head(made, "ray status").stdout, 300)
        yield made


def wait(true: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(1)


def on_head(cluster: Machines, command: str) -> subprocess.CompletedProcess[str]:
    return cluster.type("ray", "exec", str(cluster.folder / "cluster.yaml"), command)


def submit(cluster: Machines, *flags: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
    dashboard = f"http://127.0.0.1:{cluster.ports['dashboard']}"
    command = ["ray", "job", "submit", "--address", dashboard, *(() if wait else ("--no-wait",)), "--", *STUDY.split()]
    return cluster.type(*command, "--tracking-uri", tracking(cluster), *flags, timeout=600)


def tracking(cluster: Machines) -> str:
    return f"http://127.0.0.1:{cluster.ports['mlflow']}"


def trials(cluster: Machines) -> dict[str, Any]:
    """Every trial's run by its key, as the MLflow server tells them; none while the server is away."""
    from mlflow.exceptions import MlflowException

    from sigma_ray.mlflow_client import connect

    try:
        client = connect(tracking(cluster))
        experiment = client.get_experiment_by_name("ablate_bottleneck")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
    except MlflowException:
        return {}
    runs = [run for run in runs if "trial_key" in run.data.tags]
    by_key = {run.data.tags["trial_key"]: run for run in runs}
    assert len(by_key) == len(runs)  # one run a trial, whatever happened
    return by_key


def finished(cluster: Machines) -> set[str]:
    return {key for key, run in trials(cluster).items() if run.info.status == "FINISHED"}


def processes(node: subprocess.Popen) -> list[str]:
    """What runs on a node beside what makes it one."""
    commands = []
    for process in psutil.Process(node.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            commands.append(" ".join(process.cmdline()))
    return [command for command in commands if not re.search(r"node\.py|systemd --user|sshd", command)]


def test_1_a_submitted_study_is_in_mlflow(cluster):
    import pandas as pd

    results = cluster.shared / "results"
    done = submit(cluster, "--set", "train.num_steps=20", "--output", str(results))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "6 trials, 6 run now, all finished" in done.stdout
    table = pd.read_parquet(results / "ablate_bottleneck" / "trials.parquet").set_index("trial_key")
    assert len(table) == 6 and set(table.index) == finished(cluster)
    for key, run in trials(cluster).items():
        assert run.data.metrics["test/miou"] == table.loc[key, "test/miou"]
    assert any(path.name == "model.safetensors" for path in (cluster.shared / "mlflow").rglob("*"))
    assert not (results / "ablate_bottleneck" / "command.json").exists()


def test_2_only_those_with_the_token_may_submit(cluster):
    (cluster.folder / "wrong").write_text("0" * 64)
    dashboard = f"http://127.0.0.1:{cluster.ports['dashboard']}"
    command = f"RAY_AUTH_TOKEN_PATH={cluster.folder}/wrong ray job list --address {dashboard}"
    refused = cluster.type("bash", "-c", command)
    assert refused.returncode != 0 and "Invalid authentication token" in refused.stdout + refused.stderr
    assert cluster.type("ray", "job", "list", "--address", dashboard).returncode == 0


def test_3_mlflow_and_dashboard_listen_on_loopback_only(cluster):
    ports = {cluster.ports["mlflow"], cluster.ports["dashboard"]}
    listening = [c.laddr for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening if address.port in ports} == {"127.0.0.1"}


def test_4_a_study_goes_on_after_the_heads_power_was_cut(cluster):
    results, before = cluster.shared / "results", finished(cluster)
    done = submit(cluster, "--set", "train.num_steps=60", "--output", str(results), wait=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    wait(lambda: len(finished(cluster) - before) >= 2, 300)
    assert (results / "ablate_bottleneck" / "command.json").exists()
    cluster.stop(HEAD)
    assert finished(cluster) == set()  # the server went with the head
    cluster.start(HEAD)
    wait(lambda: len(finished(cluster) - before) == 6, 600)
    wait(lambda: not (results / "ablate_bottleneck" / "command.json").exists(), 60)
    assert len(trials(cluster)) == len(before) + 6


def test_5_down_leaves_nothing(cluster):
    done = cluster.type("ray", "down", "-y", str(cluster.folder / "cluster.yaml"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    for address in (HEAD, WORKER):
        wait(lambda address=address: not processes(cluster.nodes[address]), 180)
    taken = {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert not taken & set(cluster.ports.values())
    cluster.stop(HEAD)
    cluster.start(HEAD)
    time.sleep(15)
    assert processes(cluster.nodes[HEAD]) == []  # what was stopped on purpose stays so


def test_6_switched_off_nodes_are_gone():
    skip_if_impossible()
    with machines() as made:
        folder = made.folder
        wait(lambda: all((folder / f"{node}.ssh").exists() for node in (HEAD, WORKER)), 60)
    running = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in running if str(folder) in command] == [] and not folder.exists()
